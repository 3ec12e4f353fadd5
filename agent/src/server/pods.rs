use axum::Json;
use axum::extract::State;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::{Refusal, Surface};
use crate::names::ObjectName;
use crate::view::PodView;

/// `GET /v1/pods`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pods {
    /// In no order.
    pub pods: Vec<PodRow>,
}

/// One pod.
#[derive(Debug, Serialize, Deserialize)]
pub struct PodRow {
    /// With its status.
    pub pod: Pod,
    /// On its way out.
    pub stopping: bool,
    /// From wanted to running, milliseconds.
    pub started_in_ms: Option<u64>,
}

impl From<PodRow> for PodView {
    fn from(row: PodRow) -> Self {
        let mut pod = row.pod;
        let status = pod.status.take().unwrap_or_default();
        Self {
            pod: pod.into(),
            status,
            started_in: row.started_in_ms.map(std::time::Duration::from_millis),
            stopping: row.stopping,
        }
    }
}

impl From<&PodView> for PodRow {
    fn from(view: &PodView) -> Self {
        let mut pod = Pod::clone(&view.pod);
        pod.status = Some(view.status.clone());
        Self {
            pod,
            stopping: view.stopping,
            started_in_ms: view.started_in.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// `POST /v1/stop`: these pods, or with none named the whole agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StopRequest {
    pub(crate) pods: Vec<ObjectName>,
}

/// What was stopped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub(crate) pods: usize,
}

pub(super) async fn list(State(surface): State<Surface>) -> Json<Pods> {
    let views = surface.views.borrow().clone();
    Json(Pods { pods: views.values().map(PodRow::from).collect() })
}

pub(super) async fn stop(
    State(surface): State<Surface>,
    Json(request): Json<StopRequest>,
) -> Result<Json<Stopped>, Refusal> {
    if request.pods.is_empty() {
        let pods = surface.views.borrow().len();
        surface.control.stop_agent();
        return Ok(Json(Stopped { pods }));
    }
    for name in &request.pods {
        find(&surface, name)?;
    }
    let pods = request.pods.len();
    surface.control.stop_pods(request.pods).await;
    Ok(Json(Stopped { pods }))
}

/// The pod of that name; the one that is not on its way out, where there are two.
pub(super) fn find(surface: &Surface, name: &ObjectName) -> Result<PodView, Refusal> {
    let views = surface.views.borrow();
    let named = |view: &&PodView| {
        view.pod.metadata.name.as_deref() == Some(&name.name)
            && view.pod.metadata.namespace.as_deref().unwrap_or("default") == name.namespace
    };
    let found = views.values().filter(named).min_by_key(|view| view.stopping);
    found
        .cloned()
        .ok_or_else(|| Refusal::not_found(format!("pod {:?} not found in namespace {:?}", name.name, name.namespace)))
}

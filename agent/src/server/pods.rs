use std::time::Duration;

use axum::Json;
use axum::extract::State;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::{Refusal, Surface};
use crate::names::ObjectName;
use crate::pods::held::HeldPod;
use crate::view::PodView;
use crate::workloads::Row;

/// `GET /v1/pods`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pods {
    /// In no order.
    pub pods: Vec<PodRow>,
    /// Pods that were stopped by hand.
    #[serde(default)]
    pub held: Vec<HeldPod>,
}

/// `GET /v1/workloads`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Workloads {
    /// By name.
    pub workloads: Vec<Row>,
}

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// Seconds; shortens the pods' own, and what is left of a stop that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace_period: Option<u32>,
}

/// What was stopped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub(crate) pods: usize,
}

pub(super) async fn workloads(State(surface): State<Surface>) -> Json<Workloads> {
    Json(Workloads { workloads: surface.workloads.borrow().to_vec() })
}

pub(super) async fn list(State(surface): State<Surface>) -> Json<Pods> {
    let views = surface.views.borrow().clone();
    let held = surface.held.borrow().values().cloned().collect();
    Json(Pods { pods: views.values().map(PodRow::from).collect(), held })
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
    let is_held = |name: &ObjectName| surface.held.borrow().values().any(|held| held.name == *name);
    for name in request.pods.iter().filter(|name| !is_held(name)) {
        find(&surface, name)?;
    }
    let pods = request.pods.len();
    let grace = request.grace_period.map(|seconds| Duration::from_secs(seconds.into()));
    surface.control.stop_pods(request.pods, grace).await;
    Ok(Json(Stopped { pods }))
}

/// `POST /v1/start`: pods that were stopped by hand.
pub(super) async fn start(
    State(surface): State<Surface>,
    Json(request): Json<StopRequest>,
) -> Result<Json<Stopped>, Refusal> {
    for name in &request.pods {
        let held = surface.held.borrow().values().any(|held| held.name == *name);
        if !held {
            // One that was never stopped, or one that is not there: told apart.
            find(&surface, name)?;
            return Err(Refusal::bad(format!(
                "pod {name} was not stopped by hand; longshore explain {name} says how it is"
            )));
        }
    }
    let started = surface.control.start_pods(request.pods).await;
    Ok(Json(Stopped { pods: started.len() }))
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

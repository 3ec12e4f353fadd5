use std::time::Duration;

use axum::Json;
use axum::extract::State;
use cri_proto::{Deadline, v1};
use k8s_openapi::api::core::v1::ContainerStatus;
use serde::{Deserialize, Serialize};

use super::{Refusal, Surface, pods};
use crate::names::ObjectName;
use crate::view::PodView;

/// The runtime only hands out an address; the command itself runs on the stream.
const WITHIN: Duration = Duration::from_secs(10);

/// `POST /v1/exec`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Which pod.
    pub pod: ObjectName,
    /// Which container; the first one where it is not named.
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Standard input follows.
    pub stdin: bool,
}

/// Where to connect to.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExecAnswer {
    /// One-time address of the runtime's streaming server.
    pub url: String,
}

pub(super) async fn start(
    State(surface): State<Surface>,
    Json(request): Json<ExecRequest>,
) -> Result<Json<ExecAnswer>, Refusal> {
    if request.command.is_empty() {
        return Err(Refusal::bad("no command was given: longshore exec POD -- COMMAND [ARG…]"));
    }
    let view = pods::find(&surface, &request.pod)?;
    let exec = v1::ExecRequest {
        container_id: running(&view, request.container.as_deref())?,
        cmd: request.command,
        tty: request.tty,
        stdin: request.stdin,
        stdout: true,
        stderr: !request.tty,
    };
    let answer = surface.runtime.exec(exec, Deadline::within(WITHIN)).await.map_err(|error| Refusal::failed(&error))?;
    Ok(Json(ExecAnswer { url: answer.url }))
}

fn running(view: &PodView, container: Option<&str>) -> Result<String, Refusal> {
    let status = container_status(view, container)?;
    view.running(&status.name).ok_or_else(|| Refusal::bad(format!("container {:?} is not running", status.name)))
}

/// The status of the named container, or of the first one.
pub(super) fn container_status<'a>(view: &'a PodView, name: Option<&str>) -> Result<&'a ContainerStatus, Refusal> {
    let first =
        view.pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|container| container.name.as_str());
    let wanted = name.or(first).unwrap_or_default();
    view.container(wanted).ok_or_else(|| {
        let pod = view.pod.metadata.name.as_deref().unwrap_or_default();
        Refusal::not_found(format!("container {wanted:?} not found in pod {pod:?}"))
    })
}

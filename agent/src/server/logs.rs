//! Which log file answers a request for logs, and its lines as a stream.

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::exec::container_status;
use super::log_file::{Choice, follow};
use super::{Refusal, Surface, pods};
use crate::names::ObjectName;
use crate::view::{PodView, PodViews};

/// Blocks of output on their way to one reader; with blocks of 64 KiB a stalled reader holds half a megabyte.
const IN_FLIGHT: usize = 8;

#[derive(Debug, Deserialize)]
pub(super) struct LogsQuery {
    namespace: String,
    pod: String,
    container: Option<String>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
}

pub(super) async fn read(State(surface): State<Surface>, Query(query): Query<LogsQuery>) -> Result<Response, Refusal> {
    let name = ObjectName::new(&query.namespace, &query.pod);
    let view = pods::find(&surface, &name)?;
    let status = container_status(&view, query.container.as_deref())?;
    let instance = instance(status, query.previous, &query.pod)?;
    let path = log_path(&surface.logs, &view, &status.name, instance);
    let choice = Choice { tail: query.tail, since: query.since, timestamps: query.timestamps };
    let (lines, stream) = mpsc::channel(IN_FLIGHT);
    let running = query.follow.then(|| still_running(surface.views.clone(), &view, status, instance));
    tokio::spawn(follow(path, choice, running, lines));
    Ok(Body::from_stream(ReceiverStream::new(stream)).into_response())
}

/// Which instance of the container: the number in its log file's name.
fn instance(status: &ContainerStatus, previous: bool, pod: &str) -> Result<i32, Refusal> {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let name = &status.name;
    if previous {
        // While the next instance waits, the one that ended last still bears the current number.
        return match (last, state.waiting) {
            (None, _) => Err(Refusal::bad(format!("previous terminated container {name:?} in pod {pod:?} not found"))),
            (Some(_), Some(_)) => Ok(status.restart_count),
            (Some(_), None) => Ok(status.restart_count - 1),
        };
    }
    match state.waiting {
        Some(waiting) if last.is_none() => {
            let why = match waiting.reason.as_deref().unwrap_or("ContainerCreating") {
                "ErrImagePull" => "image can't be pulled",
                "ImagePullBackOff" => "trying and failing to pull image",
                other => {
                    return Err(Refusal::bad(format!(
                        "container {name:?} in pod {pod:?} is waiting to start: {other}"
                    )));
                }
            };
            Err(Refusal::bad(format!("container {name:?} in pod {pod:?} is waiting to start: {why}")))
        }
        _ => Ok(status.restart_count),
    }
}

/// `<root>/<ns>_<pod>_<uid>/<container>/<n>.log` (containers.md, section 12).
fn log_path(root: &Path, view: &PodView, container: &str, instance: i32) -> PathBuf {
    let metadata = &view.pod.metadata;
    let part = |field: &Option<String>| field.clone().unwrap_or_default();
    let folder = format!("{}_{}_{}", part(&metadata.namespace), part(&metadata.name), part(&metadata.uid));
    root.join(folder).join(container).join(format!("{instance}.log"))
}

/// True until this instance has ended.
fn still_running(
    mut views: PodViews,
    view: &PodView,
    status: &ContainerStatus,
    instance: i32,
) -> watch::Receiver<bool> {
    let (running, told) = watch::channel(true);
    let (uid, container) = (view.pod.metadata.uid.clone().unwrap_or_default(), status.name.clone());
    tokio::spawn(async move {
        loop {
            let runs = {
                let views = views.borrow_and_update();
                views.iter().find(|(known, _)| known.as_str() == uid).is_some_and(|(_, view)| {
                    container_status(view, Some(&container)).is_ok_and(|status| {
                        status.restart_count == instance
                            && status.state.as_ref().is_some_and(|state| state.running.is_some())
                    })
                })
            };
            running.send_replace(runs);
            if !runs || running.is_closed() {
                return;
            }
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = running.closed() => return,
            }
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(status: serde_json::Value, previous: bool, expected: Expect) {
        let mut whole = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2});
        whole.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
        let status = serde_json::from_value(whole).unwrap();
        let answer = match instance(&status, previous, "p") {
            Ok(number) => number.to_string(),
            Err(refusal) => refusal.message,
        };
        expected.assert_eq(&answer);
    }

    #[test]
    fn the_instance_follows_the_state() {
        let ended = json!({"terminated": {"exitCode": 1}});
        check(json!({"state": {"running": {}}}), false, expect!["2"]);
        check(json!({"state": {"running": {}}, "lastState": ended}), true, expect!["1"]);
        check(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}), false, expect!["2"]);
        check(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended}), true, expect!["2"]);
        check(json!({"state": ended}), false, expect!["2"]);
        check(
            json!({"state": {"running": {}}}),
            true,
            expect![[r#"previous terminated container "c" in pod "p" not found"#]],
        );
        check(
            json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}}),
            false,
            expect![[r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#]],
        );
    }
}

//! Which instance of a container a request for logs means, and where its log is.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};
use tokio::sync::watch;

use crate::view::{PodView, PodViews};

/// The number in the log file's name.
///
/// # Errors
/// Why there is no log, in the kubelet's words.
pub(crate) fn instance(status: &ContainerStatus, previous: bool, pod: &str) -> Result<i32, String> {
    let (name, no_state) = (&status.name, ContainerState::default());
    let state = status.state.as_ref().unwrap_or(&no_state);
    let has_ended_before = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    if previous {
        // While the next instance waits, the one that ended last still bears the current number.
        return match (has_ended_before, &state.waiting) {
            (false, _) => Err(format!("previous terminated container {name:?} in pod {pod:?} not found")),
            (true, Some(_)) => Ok(status.restart_count),
            (true, None) => Ok(status.restart_count - 1),
        };
    }
    if state.running.is_some() || state.terminated.is_some() || has_ended_before {
        return Ok(status.restart_count);
    }
    let Some(waiting) = &state.waiting else {
        return Err(format!("container {name:?} in pod {pod:?} is waiting to start - no logs yet"));
    };
    let why = match waiting.reason.as_deref().unwrap_or_default() {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    Err(format!("container {name:?} in pod {pod:?} is waiting to start: {why}"))
}

/// True until this instance has ended.
pub(super) fn still_running(
    mut views: PodViews,
    view: &PodView,
    container: &str,
    instance: i32,
) -> watch::Receiver<bool> {
    let (running, told) = watch::channel(true);
    let (uid, container) = (view.pod.metadata.uid.clone().unwrap_or_default(), container.to_owned());
    tokio::spawn(async move {
        loop {
            let runs = {
                let views = views.borrow_and_update();
                views
                    .iter()
                    .find(|(known, _)| known.as_str() == uid)
                    .and_then(|(_, view)| view.container(&container))
                    .is_some_and(|status| {
                        let state = status.state.as_ref();
                        status.restart_count == instance && state.is_some_and(|state| state.running.is_some())
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
            Err(why) => why,
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
        let waits = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        check(
            waits("ErrImagePull"),
            false,
            expect![[r#"container "c" in pod "p" is waiting to start: image can't be pulled"#]],
        );
        check(
            waits("ImagePullBackOff"),
            false,
            expect![[r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#]],
        );
        check(
            waits("PodInitializing"),
            false,
            expect![[r#"container "c" in pod "p" is waiting to start: PodInitializing"#]],
        );
        check(json!({}), false, expect![[r#"container "c" in pod "p" is waiting to start - no logs yet"#]]);
    }
}

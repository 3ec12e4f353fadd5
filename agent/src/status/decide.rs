//! What the API server has to be told about one pod. Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use serde_json::{Map, Value, json};

use crate::pods::conditions::PASSING;

/// Fields of a status that are the node's to write; all others are left alone.
const OWN: [&str; 15] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "observedGeneration",
    "resources",
    "allocatedResources",
];
/// Lists that are merged by a key: what is to go from them must be said.
const KEYED: [&str; 2] = ["hostIPs", "podIPs"];
/// Objects, which are merged too.
const MERGED: [&str; 2] = ["resources", "allocatedResources"];

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// The API server knows all.
    Nothing,
    /// This patch of the pod's status.
    Patch(Value),
    /// Nothing is left of the pod: its object may go.
    Delete,
}

/// What to send about `api`, the pod as the API server has it. `ours` is the status as this node sees it; `gone` says that
/// nothing of the pod is left here and nothing will come.
pub(super) fn decide(api: &Pod, ours: Option<&PodStatus>, gone: bool) -> Action {
    let there = api.status.clone().unwrap_or_default();
    let deleted = api.metadata.deletion_timestamp.is_some();
    let status = match (ours, gone && deleted) {
        (ours, true) => ended(ours.unwrap_or(&there)),
        // An ended pod never comes back, whatever a restarted agent still has to find out.
        (Some(ours), false) if is_terminal(&there) && !is_terminal(ours) => return Action::Nothing,
        (Some(ours), false) => ours.clone(),
        (None, false) => return Action::Nothing,
    };
    match difference(&there, &status) {
        Some(status) => {
            let uid = api.metadata.uid.clone().unwrap_or_default();
            Action::Patch(json!({"metadata": {"uid": uid}, "status": status}))
        }
        None if gone && deleted => Action::Delete,
        None => Action::Nothing,
    }
}

pub(super) fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The last status of a pod of which nothing runs: every container has ended, and so has the pod.
fn ended(last: &PodStatus) -> PodStatus {
    let mut status = last.clone();
    let lists =
        [&mut status.init_container_statuses, &mut status.container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flatten().flatten() {
        end(container);
    }
    if !is_terminal(&status) {
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let fine = |container: &ContainerStatus| {
            let terminated = container.state.as_ref().and_then(|state| state.terminated.as_ref());
            terminated.is_some_and(|terminated| terminated.exit_code == 0)
        };
        let succeeded = !containers.is_empty() && containers.iter().all(fine);
        status.phase = Some(if succeeded { "Succeeded" } else { "Failed" }.to_owned());
    }
    for condition in status.conditions.iter_mut().flatten() {
        if matches!(condition.type_.as_str(), "Ready" | "ContainersReady") && condition.status != "False" {
            condition.status = "False".to_owned();
            condition.reason = Some("PodCompleted".to_owned()).filter(|_| status.phase.as_deref() == Some("Succeeded"));
        }
    }
    status
}

/// A container that ran when it was last seen, and of which nothing is left.
fn end(container: &mut ContainerStatus) {
    container.ready = false;
    container.started = Some(false);
    let running = container.state.as_ref().is_some_and(|state| state.running.is_some());
    if !running {
        return;
    }
    let terminated = ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        exit_code: 137,
        ..ContainerStateTerminated::default()
    };
    container.state = Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() });
}

/// What must be merged into `there` to make it say what `wanted` says; `None` when it does.
fn difference(there: &PodStatus, wanted: &PodStatus) -> Option<Value> {
    let (there, wanted) = (json!(there), json!(wanted));
    let mut patch = Map::new();
    for field in OWN {
        let (old, new) = (there.get(field), wanted.get(field));
        if old == new {
            continue;
        }
        let value = match new {
            None => Value::Null,
            Some(new) if KEYED.contains(&field) => replaced(old, new),
            Some(new) if MERGED.contains(&field) => merged(old, new),
            Some(new) => new.clone(),
        };
        patch.insert(field.to_owned(), value);
    }
    let conditions = conditions(&there, &wanted);
    if !conditions.is_empty() {
        patch.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn items<'a>(status: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    status.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Conditions that say something else, and our own that hold no longer; those of others are not touched.
fn conditions(there: &Value, wanted: &Value) -> Vec<Value> {
    let told = |new: &&Value| !items(there, "conditions").any(|old| same_condition(old, new));
    let has = |status, kind: &str| items(status, "conditions").any(|one| one["type"] == kind);
    let over = PASSING.into_iter().filter(|kind| has(there, kind) && !has(wanted, kind));
    let over = over.map(|kind| json!({"$patch": "delete", "type": kind}));
    items(wanted, "conditions").filter(told).cloned().chain(over).collect()
}

/// Times of probes and generations aside, which older servers do not keep.
fn same_condition(old: &Value, new: &Value) -> bool {
    ["type", "status", "reason", "message"].iter().all(|field| old.get(field) == new.get(field))
}

/// What is to go from an object must be said, at every depth.
fn merged(old: Option<&Value>, new: &Value) -> Value {
    let (Some(Value::Object(old)), Value::Object(fields)) = (old, new) else { return new.clone() };
    let gone = old.keys().filter(|key| !fields.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let kept = fields.iter().map(|(key, value)| (key.clone(), merged(old.get(key), value)));
    Value::Object(gone.chain(kept).collect())
}

fn replaced(old: Option<&Value>, new: &Value) -> Value {
    let new = new.as_array().cloned().unwrap_or_default();
    let old = old.and_then(Value::as_array).into_iter().flatten();
    let leaving = old.filter(|one| !new.contains(one)).filter_map(|one| one.get("ip"));
    let leaving: Vec<_> = leaving.map(|ip| json!({"$patch": "delete", "ip": ip})).collect();
    Value::Array([leaving, new].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(deleted: bool, status: Value) -> Pod {
        let mut metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        if deleted {
            metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn status(status: Value) -> PodStatus {
        serde_json::from_value(status).unwrap()
    }

    fn patch(action: Action) -> Value {
        match action {
            Action::Patch(patch) => {
                assert_eq!(patch["metadata"], json!({"uid": "u"}), "never onto another pod of that name");
                patch["status"].clone()
            }
            other => panic!("{other:?}"),
        }
    }

    fn running() -> Value {
        json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "",
                "state": {"running": {}}}]})
    }

    #[test]
    fn only_what_differs_is_sent_and_others_conditions_stay() {
        let there = json!({"phase": "Pending", "nominatedNodeName": "x", "podIPs": [{"ip": "10.0.0.9"}],
            "conditions": [{"type": "Foreign", "status": "True"}, {"type": "Ready", "status": "True"}]});
        let sent = patch(decide(&pod(false, there), Some(&status(running())), false));
        assert_eq!(sent["phase"], "Running");
        assert_eq!(sent["podIPs"], json!([{"$patch": "delete", "ip": "10.0.0.9"}, {"ip": "10.0.0.1"}]));
        assert_eq!(sent.get("conditions"), None);
        assert_eq!(sent.get("nominatedNodeName"), None);
        assert_eq!(decide(&pod(false, running()), Some(&status(running())), false), Action::Nothing);
        assert_eq!(decide(&pod(false, running()), None, false), Action::Nothing);
    }

    #[test]
    fn what_a_whole_pod_was_granted_is_told_and_what_it_lost_is_taken_away() {
        let there = json!({"allocatedResources": {"cpu": "1", "memory": "1Gi"},
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}});
        let ours = json!({"allocatedResources": {"cpu": "2"}, "resources": {"requests": {"cpu": "2"}}});
        let sent = patch(decide(&pod(false, there), Some(&status(ours.clone())), false));
        let (gone, two) = (Value::Null, "2");
        assert_eq!(sent["allocatedResources"], json!({"cpu": two, "memory": gone}));
        assert_eq!(sent["resources"], json!({"requests": {"cpu": two, "memory": gone}, "limits": gone}));
        assert_eq!(decide(&pod(false, ours.clone()), Some(&status(ours)), false), Action::Nothing);
    }

    #[test]
    fn a_condition_of_ours_goes_when_it_holds_no_longer() {
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        let all = ["PodResizeInProgress", "Foreign", "DisruptionTarget"].map(condition);
        let sent = patch(decide(&pod(false, json!({"conditions": all})), Some(&status(json!({}))), false));
        assert_eq!(sent, json!({"conditions": [{"$patch": "delete", "type": "PodResizeInProgress"}]}));
    }

    #[test]
    fn a_deleted_pod_is_ended_first_and_then_its_object_goes() {
        let deleted = pod(true, running());
        assert_eq!(decide(&deleted, Some(&status(running())), false), Action::Nothing, "it still runs");
        let sent = patch(decide(&deleted, None, true));
        assert_eq!(sent["phase"], "Failed");
        assert_eq!(sent["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
        assert_eq!(sent["conditions"][0]["status"], "False");
        let mut last = running();
        last["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0}});
        let last = status(last);
        let sent = patch(decide(&deleted, Some(&last), true));
        assert_eq!(sent["phase"], "Succeeded");
        assert_eq!(sent["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
        let told = Pod { status: Some(ended(&last)), ..deleted };
        assert_eq!(decide(&told, Some(&last), true), Action::Delete);
    }

    #[test]
    fn a_pod_that_has_ended_never_comes_back() {
        let there = pod(false, json!({"phase": "Succeeded"}));
        assert_eq!(decide(&there, Some(&status(running())), false), Action::Nothing);
    }
}

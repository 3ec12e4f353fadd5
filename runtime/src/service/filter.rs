//! What a caller wants to see of a list.

use std::collections::HashMap;

use cri_proto::v1;

type Labels = HashMap<String, String>;

/// Every label of `selector` must be there with the same value.
pub(super) fn labels_match(labels: &Labels, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An empty field asks for nothing. An id may be shortened, as `crictl` does.
fn id_matches(id: &str, wanted: &str) -> bool {
    id.starts_with(wanted)
}

pub(super) fn sandbox_matches(sandbox: &v1::PodSandbox, filter: Option<&v1::PodSandboxFilter>) -> bool {
    let Some(filter) = filter else { return true };
    id_matches(&sandbox.id, &filter.id)
        && filter.state.is_none_or(|wanted| wanted.state == sandbox.state)
        && labels_match(&sandbox.labels, &filter.label_selector)
}

pub(super) fn container_matches(container: &v1::Container, filter: Option<&v1::ContainerFilter>) -> bool {
    let Some(filter) = filter else { return true };
    id_matches(&container.id, &filter.id)
        && id_matches(&container.pod_sandbox_id, &filter.pod_sandbox_id)
        && filter.state.is_none_or(|wanted| wanted.state == container.state)
        && labels_match(&container.labels, &filter.label_selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn every_part_of_a_filter_must_hold() {
        let container = v1::Container {
            id: "abc".into(),
            pod_sandbox_id: "def".into(),
            state: v1::ContainerState::ContainerRunning.into(),
            labels: labels(&[("app", "web"), ("tier", "front")]),
            ..Default::default()
        };
        let running = v1::ContainerFilter {
            state: Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() }),
            label_selector: labels(&[("app", "web")]),
            ..Default::default()
        };
        assert!(container_matches(&container, None));
        assert!(container_matches(&container, Some(&running)));
        for broken in [
            v1::ContainerFilter { id: "abd".into(), ..running.clone() },
            v1::ContainerFilter { pod_sandbox_id: "x".into(), ..running.clone() },
            v1::ContainerFilter { state: Some(v1::ContainerStateValue { state: 2 }), ..running.clone() },
            v1::ContainerFilter { label_selector: labels(&[("app", "db")]), ..running.clone() },
            v1::ContainerFilter { label_selector: labels(&[("zone", "a")]), ..running },
        ] {
            assert!(!container_matches(&container, Some(&broken)), "{broken:?}");
        }
    }

    #[test]
    fn a_state_that_is_the_first_of_its_kind_is_still_asked_for() {
        let stopped = v1::PodSandbox { state: v1::PodSandboxState::SandboxNotready.into(), ..Default::default() };
        let ready = v1::PodSandboxFilter { state: Some(v1::PodSandboxStateValue { state: 0 }), ..Default::default() };
        assert!(!sandbox_matches(&stopped, Some(&ready)));
    }
}

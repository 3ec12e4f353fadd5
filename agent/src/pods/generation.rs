//! `metadata.generation` of pods that no API server numbers. Pure.
//!
//! An API server counts the changes of a pod's spec, and statuses say up to which of them they are (see `pod-lifecycle`,
//! section 16). The pods of `longshore run`'s manifests are made here with 1; this node counts on from what it last
//! worked with, through its restarts too. Static pods have no number, here as at the kubelet: another spec is another pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

/// `wanted` with the number of its spec, by the pod it was before.
pub(super) fn numbered(wanted: &Arc<Pod>, former: &Pod) -> Arc<Pod> {
    let (Some(own), Some(last)) = (wanted.metadata.generation, former.metadata.generation) else {
        return Arc::clone(wanted);
    };
    let number = last.saturating_add(i64::from(wanted.spec != former.spec));
    if number == own {
        return Arc::clone(wanted);
    }
    let mut pod = Pod::clone(wanted);
    pod.metadata.generation = Some(number);
    Arc::new(pod)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(generation: Option<i64>, image: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "web", "generation": generation, "labels": {"of": image}},
            "spec": {"containers": [{"name": "c", "image": image}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn each_change_of_a_spec_counts_and_no_number_is_ever_lower() {
        let mut last = pod(Some(1), "a");
        for (image, number) in [("a", 1), ("b", 2), ("b", 2), ("a", 3)] {
            last = numbered(&pod(Some(1), image), &last);
            assert_eq!(last.metadata.generation, Some(number), "{image}");
        }
        let mut relabelled = Pod::clone(&last);
        relabelled.metadata.generation = Some(1);
        relabelled.metadata.labels = None;
        assert_eq!(numbered(&Arc::new(relabelled), &last).metadata.generation, Some(3), "labels are no spec");
    }

    #[test]
    fn a_pod_without_a_number_stays_without_one() {
        let wanted = pod(None, "b");
        assert!(Arc::ptr_eq(&numbered(&wanted, &pod(Some(4), "a")), &wanted));
        let wanted = pod(Some(1), "b");
        assert!(Arc::ptr_eq(&numbered(&wanted, &pod(None, "a")), &wanted), "what an older agent remembers");
    }
}

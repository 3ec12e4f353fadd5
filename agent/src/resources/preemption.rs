//! Which pods make room for a critical one that does not fit: the kubelet's rules
//! (`pkg/kubelet/preemption/preemption.go`). Pure.
//!
//! First as few guaranteed pods as possible, then burstable, then best-effort ones; of each class those that come nearest
//! to what is needed, smaller ones first.

use k8s_openapi::api::core::v1::Pod;

use super::admission::{Shortage, requests};
use super::qos::{self, Qos};
use crate::cluster::{is_static, mirrored};

/// From this priority on a pod is critical (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;

/// `status.reason` of a pod that made room, and the reason of its event.
pub const REASON: &str = "Preempting";
/// Its message.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";
/// The message of its condition `DisruptionTarget`.
pub const DISRUPTION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// Whether the node itself depends on the pod.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || mirrored(pod).is_some() || priority(pod).is_some_and(|priority| priority >= CRITICAL)
}

fn priority(pod: &Pod) -> Option<i32> {
    pod.spec.as_ref()?.priority
}

fn may_go(critical: &Pod, other: &Pod) -> bool {
    let lower = priority(critical).zip(priority(other)).is_some_and(|(own, other)| own > other);
    (is_critical(critical) && !is_critical(other)) || lower
}

/// What is still missing of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Missing {
    resource: &'static str,
    amount: u64,
}

/// The pods of `others` that have to go so that `pod` has what it lacks.
///
/// # Errors
/// The kubelet's words when not even all of them would be enough.
pub fn victims<'a>(pod: &Pod, others: &[&'a Pod], shortages: &[Shortage]) -> Result<Vec<&'a Pod>, String> {
    let missing: Vec<_> =
        shortages.iter().map(|short| Missing { resource: short.resource, amount: short.missing() }).collect();
    let preemptible: Vec<_> = others.iter().copied().filter(|other| may_go(pod, other)).collect();
    let of = |class: Qos| preemptible.iter().copied().filter(|pod| qos::class(pod) == class).collect::<Vec<_>>();
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let short = subtract(&missing, &preemptible);
    if !short.is_empty() {
        let all: String = short.iter().map(|one| format!("(res: {}, q: {}), ", one.resource, one.amount)).collect();
        return Err(format!(
            "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [{all}]"
        ));
    }
    let guaranteed = nearest(guaranteed, &subtract(&missing, &[&best_effort[..], &burstable].concat()));
    let burstable = nearest(burstable, &subtract(&missing, &[&best_effort[..], &guaranteed].concat()));
    let best_effort = nearest(best_effort, &subtract(&missing, &[&burstable[..], &guaranteed].concat()));
    Ok([best_effort, burstable, guaranteed].concat())
}

/// What is missing when these pods are gone.
fn subtract(missing: &[Missing], pods: &[&Pod]) -> Vec<Missing> {
    let left = |one: &Missing| {
        let freed = pods.iter().map(|pod| requests(pod, one.resource)).fold(0, u64::saturating_add);
        Missing { resource: one.resource, amount: one.amount.saturating_sub(freed) }
    };
    missing.iter().map(left).filter(|one| one.amount > 0).collect()
}

fn nearest<'a>(mut pods: Vec<&'a Pod>, missing: &[Missing]) -> Vec<&'a Pod> {
    let (mut missing, mut chosen) = (missing.to_vec(), Vec::new());
    while !missing.is_empty() {
        let order = |pod: &Pod| (distance(&missing, pod), requests(pod, "memory"), requests(pod, "cpu"));
        let by = |a: &(usize, &&Pod), b: &(usize, &&Pod)| {
            let (a, b) = (order(a.1), order(b.1));
            a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        };
        let Some((at, _)) = pods.iter().enumerate().min_by(by) else { break };
        let pod = pods.remove(at);
        missing = subtract(&missing, &[pod]);
        chosen.push(pod);
    }
    chosen
}

/// How far one pod is from freeing what is missing: the sum of the squares of what would still be, as parts of it.
fn distance(missing: &[Missing], pod: &Pod) -> f64 {
    let part = |one: &Missing| {
        let left = one.amount.saturating_sub(requests(pod, one.resource));
        left as f64 / one.amount as f64
    };
    missing.iter().map(part).map(|part| part * part).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::container::testing::pod;

    fn of(name: &str, priority: i32, requests: Value, limits: Value) -> Pod {
        let mut made = pod(json!({"priority": priority,
            "containers": [{"name": "a", "resources": {"requests": requests, "limits": limits}}]}));
        made.metadata.name = Some(name.into());
        made
    }

    fn burstable(name: &str, cpu: &str) -> Pod {
        of(name, 0, json!({"cpu": cpu}), json!({}))
    }

    fn guaranteed(name: &str, cpu: &str) -> Pod {
        of(name, 0, json!({"cpu": cpu, "memory": "1Mi"}), json!({"cpu": cpu, "memory": "1Mi"}))
    }

    fn short(millis: u64) -> [Shortage; 1] {
        [Shortage { resource: "cpu", requested: millis, used: 0, capacity: 0 }]
    }

    fn chosen(others: &[Pod], shortages: &[Shortage]) -> String {
        let others: Vec<_> = others.iter().collect();
        let critical = of("critical", CRITICAL, json!({"cpu": "1"}), json!({}));
        match victims(&critical, &others, shortages) {
            Ok(pods) => pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>().join(" "),
            Err(why) => why,
        }
    }

    #[test]
    fn lower_classes_go_first_and_no_more_than_are_needed() {
        let all =
            [burstable("small", "200m"), burstable("large", "800m"), guaranteed("firm", "1"), burstable("tiny", "50m")];
        assert_eq!(chosen(&all, &short(150)), "small", "one that is enough, the smaller one");
        assert_eq!(chosen(&all, &short(900)), "large small");
        assert_eq!(chosen(&all, &short(1_500)), "large firm", "as few as possible of each class");
    }

    #[test]
    fn a_count_of_pods_is_met_by_the_least_of_them() {
        let shortage = [Shortage { resource: "pods", requested: 1, used: 3, capacity: 3 }];
        let idle = of("idle", 0, json!({}), json!({}));
        assert_eq!(chosen(&[burstable("b", "1"), idle, guaranteed("g", "1")], &shortage), "idle");
    }

    #[test]
    fn critical_pods_stay_and_what_cannot_be_freed_is_said() {
        let other = of("other", CRITICAL, json!({"cpu": "2"}), json!({}));
        let said = chosen(&[other, burstable("small", "200m")], &short(500));
        assert_eq!(
            said,
            "preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 300), ]"
        );
    }

    #[test]
    fn critical_are_static_pods_and_those_of_the_highest_priorities() {
        assert!(is_critical(&of("a", CRITICAL, json!({}), json!({}))));
        assert!(!is_critical(&of("a", CRITICAL - 1, json!({}), json!({}))));
        let mut own = of("a", 0, json!({}), json!({}));
        own.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        assert!(is_critical(&own));
        assert!(may_go(&of("a", 10, json!({}), json!({})), &of("b", 9, json!({}), json!({}))));
    }
}

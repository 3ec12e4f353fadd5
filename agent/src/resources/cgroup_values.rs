//! Requests and limits as the numbers that cgroups take, and where a pod's cgroup is.

use std::collections::{BTreeMap, HashMap};

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::qos::{self, Qos, Side};
use crate::container::{all_containers, init_containers};
use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::quantity::Amount;

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
/// The scheduler's period in microseconds.
const PERIOD: u64 = 100_000;
/// The kernel takes no smaller quota.
const MIN_QUOTA: u64 = 1_000;

/// How cgroups are written here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The unified hierarchy is what counts.
    pub v2: bool,
    /// There is a swap controller, so that swap must be denied.
    pub swap: bool,
    /// Bytes of memory.
    pub memory: u64,
    /// Sizes of huge pages that cgroups can bound here, as the kernel names them: `2MB`.
    pub huge_pages: Vec<String>,
}

/// The pod's cgroup with the cgroupfs driver, below `root`.
pub fn pod_cgroup(root: &str, pod: &Pod, uid: &PodUid) -> String {
    let root = root.trim_end_matches('/');
    match qos::class(pod) {
        Qos::Guaranteed => format!("{root}/kubepods/pod{uid}"),
        Qos::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
        Qos::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
    }
}

/// `cpu.shares` of so many thousandths of a cpu.
pub fn shares(millis: u64) -> u64 {
    (u128::from(millis) * 1_024 / 1_000).min(u128::from(MAX_SHARES)).max(u128::from(MIN_SHARES)) as u64
}

/// `cpu.cfs_quota_us` of so many thousandths of a cpu; 0 for no limit.
pub fn quota(millis: u64) -> u64 {
    if millis == 0 { 0 } else { (millis.saturating_mul(PERIOD) / 1_000).max(MIN_QUOTA) }
}

/// `oom_score_adj` of a container.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: u64) -> i64 {
    if pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref()) == Some("system-node-critical") {
        return -997;
    }
    match qos::class(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1_000,
        Qos::Burstable => burstable_score(pod, container, node_memory),
    }
}

fn burstable_score(pod: &Pod, container: &Container, node_memory: u64) -> i64 {
    let rest = pod.spec.as_ref().map_or(0, unclaimed_memory);
    let request = |container: &Container| {
        qos::of_container(container, Side::Requests, "memory").unwrap_or_default().ceil_units().saturating_add(rest)
    };
    let own = score(request(container), node_memory);
    let is_sidecar = container.restart_policy.as_deref() == Some("Always")
        && pod.spec.as_ref().is_some_and(|spec| init_containers(spec).iter().any(|init| init.name == container.name));
    let smallest = pod.spec.iter().flat_map(|spec| &spec.containers).map(request).min();
    match smallest {
        // A sidecar must not be killed before the containers that it serves.
        Some(smallest) if is_sidecar => own.min(score(smallest, node_memory)),
        _ => own,
    }
}

/// What the pod asks for beyond its containers, in equal parts.
fn unclaimed_memory(spec: &PodSpec) -> u64 {
    let whole = spec.resources.as_ref().and_then(|whole| qos::amount(whole.requests.as_ref(), "memory"));
    let claimed = qos::of_containers(spec, Side::Requests, "memory").ceil_units();
    let count = (spec.containers.len() + init_containers(spec).len()).max(1);
    whole.unwrap_or_default().ceil_units().saturating_sub(claimed) / count as u64
}

fn score(request: u64, node_memory: u64) -> i64 {
    let part = u128::from(request) * 1_000 / u128::from(node_memory.max(1));
    let score = 1_000 - i64::try_from(part).unwrap_or(1_000).min(1_000);
    // 1000 is for those that asked for nothing, -997 and around for those that must live.
    score.clamp(3, 999)
}

/// What a container may use.
pub fn container_resources(pod: &Pod, container: &Container, node: &Node) -> v1::LinuxContainerResources {
    let cpu_limit = limit(pod, container, "cpu").unwrap_or_default().ceil_millis();
    let cpu_request = qos::of_container(container, Side::Requests, "cpu").unwrap_or_default().ceil_millis();
    let memory = clamp(limit(pod, container, "memory").unwrap_or_default().ceil_units());
    v1::LinuxContainerResources {
        cpu_period: PERIOD as i64,
        cpu_quota: clamp(quota(cpu_limit)),
        cpu_shares: clamp(shares(cpu_request)),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: if node.v2 { 0 } else { memory },
        oom_score_adj: oom_score_adj(pod, container, node.memory),
        unified: unified(node),
        hugepage_limits: of_huge_pages(node, |bytes| {
            let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
            let limit = |of: Option<&ResourceRequirements>| huge_pages(of?.limits.as_ref(), bytes);
            limit(container.resources.as_ref()).or_else(|| limit(whole)).unwrap_or(0)
        }),
        ..Default::default()
    }
}

/// A container's own limit, else the pod's: without one of its own the pod's is what it sees.
pub fn limit(pod: &Pod, container: &Container, name: &str) -> Option<Amount> {
    let own = qos::of_container(container, Side::Limits, name).filter(|limit| *limit > Amount::ZERO);
    own.or_else(|| pod_level(pod, name))
}

fn pod_level(pod: &Pod, name: &str) -> Option<Amount> {
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref())?;
    qos::amount(whole.limits.as_ref(), name)
}

/// One entry for each size that this machine has: what nobody asked for is forbidden.
fn of_huge_pages(node: &Node, limit: impl Fn(u64) -> u64) -> Vec<v1::HugepageLimit> {
    let one = |name: &String| Some(v1::HugepageLimit { page_size: name.clone(), limit: limit(page_bytes(name)?) });
    node.huge_pages.iter().filter_map(one).collect()
}

/// `2MB`, as the kernel writes 2097152.
fn page_bytes(name: &str) -> Option<u64> {
    let unit = [("KB", 10), ("MB", 20), ("GB", 30)].into_iter().find(|(unit, _)| name.ends_with(unit))?;
    name.strip_suffix(unit.0)?.parse::<u64>().ok()?.checked_shl(unit.1)
}

/// `hugepages-2Mi` and `hugepages-2048Ki` are the same pages.
fn size_of_pages(resource: &str) -> Option<u64> {
    let size = Amount::parse(resource.strip_prefix("hugepages-")?).ok()?;
    Some(size.ceil_units())
}

/// Bytes in pages of this size.
fn huge_pages(list: Option<&BTreeMap<String, Quantity>>, bytes: u64) -> Option<u64> {
    let name = list?.keys().find(|name| size_of_pages(name) == Some(bytes))?;
    Some(qos::amount(list, name)?.ceil_units())
}

/// What the whole pod has in pages of this size: of huge pages nobody gets more than was asked for.
fn huge_pages_of_pod(pod: &Pod, bytes: u64) -> u64 {
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let lists = all_containers(pod).filter_map(|container| container.resources.as_ref()).chain(whole);
    let mut names = lists.flat_map(|own| own.requests.iter().chain(&own.limits)).flat_map(|list| list.keys());
    let name = names.find(|name| size_of_pages(name) == Some(bytes));
    name.map_or(0, |name| qos::of_pod(pod, Side::Requests, name).ceil_units())
}

fn unified(node: &Node) -> HashMap<String, String> {
    if !node.v2 {
        return HashMap::new();
    }
    let mut values = HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]);
    if node.swap {
        values.insert("memory.swap.max".to_owned(), "0".to_owned());
    }
    values
}

/// What the whole pod may use: the values of its cgroup.
pub fn pod_resources(pod: &Pod, node: &Node) -> v1::LinuxContainerResources {
    let class = qos::class(pod);
    let bound = |name: &str| match class {
        Qos::Guaranteed => true,
        Qos::Burstable => qos::all_limited(pod, name),
        Qos::BestEffort => false,
    };
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
    let overhead = |name: &str| qos::amount(overhead, name).unwrap_or_default();
    let limit = |name: &str| match qos::of_pod(pod, Side::Limits, name) {
        // Nothing is limited: then nothing is with the overhead either.
        limit if !bound(name) || limit == Amount::ZERO => Amount::ZERO,
        limit => limit + overhead(name),
    };
    let request = (qos::of_pod(pod, Side::Requests, "cpu") + overhead("cpu")).ceil_millis();
    v1::LinuxContainerResources {
        cpu_period: PERIOD as i64,
        cpu_quota: clamp(quota(limit("cpu").ceil_millis())),
        cpu_shares: clamp(if class == Qos::BestEffort { MIN_SHARES } else { shares(request) }),
        memory_limit_in_bytes: clamp(limit("memory").ceil_units()),
        hugepage_limits: of_huge_pages(node, |bytes| huge_pages_of_pod(pod, bytes)),
        ..Default::default()
    }
}

/// What pods may use of a machine with so many cpus and so much memory, when nothing is set aside.
pub fn allocatable(cpus: u64, memory_bytes: u64, disk_bytes: u64) -> Allocatable {
    Allocatable { cpu_millis: cpus.saturating_mul(1_000), memory_bytes, ephemeral_storage_bytes: disk_bytes }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::container::testing::pod;

    fn v2() -> Node {
        Node { v2: true, swap: false, memory: 8 << 30, huge_pages: vec!["1GB".to_owned(), "2MB".to_owned()] }
    }

    fn check(resources: serde_json::Value, want: Expect) {
        let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
        let uid = PodUid::try_from("u-1".to_owned()).unwrap();
        let own = container_resources(&pod, &pod.spec.as_ref().unwrap().containers[0], &v2());
        let all = pod_resources(&pod, &v2());
        want.assert_eq(&format!(
            "{}\ncontainer: shares {} quota {} memory {} oom {}\npod: shares {} quota {} memory {}\n",
            pod_cgroup("/", &pod, &uid),
            own.cpu_shares,
            own.cpu_quota,
            own.memory_limit_in_bytes,
            own.oom_score_adj,
            all.cpu_shares,
            all.cpu_quota,
            all.memory_limit_in_bytes,
        ));
    }

    #[test]
    fn each_class_has_its_cgroup_and_values() {
        check(
            json!({}),
            expect![[r#"
            /kubepods/besteffort/podu-1
            container: shares 2 quota 0 memory 0 oom 1000
            pod: shares 2 quota 0 memory 0
        "#]],
        );
        check(
            json!({"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}),
            expect![[r#"
            /kubepods/burstable/podu-1
            container: shares 256 quota 0 memory 2147483648 oom 875
            pod: shares 256 quota 0 memory 2147483648
        "#]],
        );
        check(
            json!({"limits": {"cpu": "1500m", "memory": "64Mi"}}),
            expect![[r#"
            /kubepods/podu-1
            container: shares 1536 quota 150000 memory 67108864 oom -997
            pod: shares 1536 quota 150000 memory 67108864
        "#]],
        );
        check(
            json!({"limits": {"cpu": "1m"}}),
            expect![[r#"
            /kubepods/burstable/podu-1
            container: shares 2 quota 1000 memory 0 oom 999
            pod: shares 2 quota 1000 memory 0
        "#]],
        );
    }

    #[test]
    fn huge_pages_that_nobody_asked_for_are_forbidden() {
        let two = |amount: &str| json!({"limits": {"hugepages-2Mi": amount, "memory": "1Gi"}});
        let containers = json!([{"name": "a", "resources": two("4Mi")}, {"name": "b", "resources": two("2Mi")},
            {"name": "c"}]);
        let shown = |of: v1::LinuxContainerResources| {
            let one = |limit: &v1::HugepageLimit| format!("{} {}", limit.page_size, limit.limit >> 20);
            of.hugepage_limits.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let of =
            |pod: &Pod, at: usize| shown(container_resources(pod, &pod.spec.as_ref().unwrap().containers[at], &v2()));
        let plain = pod(json!({ "containers": containers }));
        assert_eq!([of(&plain, 0), of(&plain, 2)], ["1GB 0, 2MB 4", "1GB 0, 2MB 0"]);
        assert_eq!(shown(pod_resources(&plain, &v2())), "1GB 0, 2MB 6");
        let whole = pod(json!({"containers": containers, "resources": {"limits": {"hugepages-2048Ki": "8Mi"},
            "requests": {"hugepages-2048Ki": "8Mi"}}}));
        assert_eq!([of(&whole, 0), of(&whole, 2)], ["1GB 0, 2MB 4", "1GB 0, 2MB 8"]);
        let none = Node { huge_pages: Vec::new(), ..v2() };
        assert!(pod_resources(&whole, &none).hugepage_limits.is_empty(), "nothing can bound them here");
    }

    #[test]
    fn what_a_pod_asks_for_beyond_its_containers_is_shared_among_their_scores() {
        let of = |whole: serde_json::Value| {
            let pod = pod(json!({"resources": whole, "initContainers": [{"name": "i"}],
                "containers": [{"name": "a", "resources": {"requests": {"memory": "1Gi"}}}, {"name": "b"}]}));
            let spec = pod.spec.as_ref().unwrap();
            [&spec.containers[0], &spec.containers[1]].map(|container| oom_score_adj(&pod, container, 8 << 30))
        };
        assert_eq!(of(json!({})), [875, 999]);
        // 4 GiB, of which 1 is claimed: 1 GiB more for each of three.
        assert_eq!(of(json!({"requests": {"memory": "4Gi"}})), [750, 875]);
    }

    #[test]
    fn huge_numbers_end_at_the_limits() {
        assert_eq!((shares(u64::MAX), quota(u64::MAX)), (MAX_SHARES, u64::MAX / 1_000));
        assert_eq!((shares(0), quota(0)), (MIN_SHARES, 0));
    }
}

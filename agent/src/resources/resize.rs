//! In-place resize: what of a changed manifest is granted, and what is then done in which order. Pure.
//!
//! Facts: `pod-lifecycle`, section 17. Three states of the same numbers: what the manifest wants, what is *allocated*
//! (granted; what workers plan with), and what is *actuated* (in the cgroups).

use std::collections::BTreeMap;

use cri_proto::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use super::cgroup_values::{self, Node};
use super::qos::{self, Side};
use crate::container::all_containers;
use crate::fields::Allocatable;

/// What can be changed under a running container.
const RESIZABLE: [&str; 2] = ["memory", "cpu"];

/// Requests and limits of a pod's containers by name; the pod's own stand under the empty name.
pub type Amounts = BTreeMap<String, ResourceRequirements>;

/// A resize that is not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// It cannot be granted on this node, whatever ends; otherwise it is tried again.
    pub infeasible: bool,
    /// Why not.
    pub message: String,
}

impl Pending {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        if self.infeasible { "Infeasible" } else { "Deferred" }
    }
}

/// What a pod asks for.
pub fn amounts(pod: &Pod) -> Amounts {
    let whole = pod.spec.iter().filter_map(|spec| Some((String::new(), spec.resources.clone()?)));
    let each = all_containers(pod).filter_map(|container| Some((container.name.clone(), container.resources.clone()?)));
    whole.chain(each).collect()
}

/// `amounts` are what the pod asks for.
pub fn is_met(pod: &Pod, amounts: &Amounts) -> bool {
    let same = |name: &str, own: Option<&ResourceRequirements>| own.is_none_or(|own| amounts.get(name) == Some(own));
    same("", pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()))
        && all_containers(pod).all(|container| same(&container.name, container.resources.as_ref()))
}

/// Of this container, `amounts` are what the pod asks for.
pub fn adopt(amounts: &mut Amounts, pod: &Pod, container: &str) {
    let own = all_containers(pod).find(|own| own.name == container).and_then(|own| own.resources.as_ref());
    if let Some(own) = own.filter(|own| amounts.get(container) != Some(*own)) {
        amounts.insert(container.to_owned(), own.clone());
    }
}

/// The pod with cpu and memory as in `amounts`; containers that are not in it keep theirs.
pub fn with(pod: &Pod, amounts: &Amounts) -> Pod {
    let mut pod = pod.clone();
    let Some(spec) = &mut pod.spec else { return pod };
    if let Some(granted) = amounts.get("") {
        replace(&mut spec.resources, granted);
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(granted) = amounts.get(&container.name) {
            replace(&mut container.resources, granted);
        }
    }
    pod
}

fn replace(of: &mut Option<ResourceRequirements>, granted: &ResourceRequirements) {
    let own = of.get_or_insert_default();
    for (list, granted) in [(&mut own.requests, &granted.requests), (&mut own.limits, &granted.limits)] {
        for name in RESIZABLE {
            match granted.as_ref().and_then(|granted| granted.get(name)) {
                Some(amount) => drop(list.get_or_insert_default().insert(name.to_owned(), amount.clone())),
                None => drop(list.as_mut().and_then(|list| list.remove(name))),
            }
        }
    }
}

/// Cpu (thousandths) and memory (bytes) that a pod asks for.
pub fn requests(pod: &Pod) -> (u64, u64) {
    (qos::of_pod(pod, Side::Requests, "cpu").ceil_millis(), qos::of_pod(pod, Side::Requests, "memory").ceil_units())
}

/// Whether a node with `used` by its other pods can grant what `pod` now asks for. A figure of the node that is not
/// known (zero) bounds nothing.
///
/// # Errors
/// [`Pending`], in the kubelet's words.
pub fn grant(pod: &Pod, former: (u64, u64), used: (u64, u64), node: &Allocatable) -> Result<(), Pending> {
    let (cpu, memory) = requests(pod);
    let short = |wanted: u64, has: u64| has != 0 && wanted > has;
    let too_big = [("memory", memory, node.memory_bytes), ("cpu", cpu, node.cpu_millis)];
    if let Some((name, wanted, has)) = too_big.into_iter().find(|(_, wanted, has)| short(*wanted, *has)) {
        let message = format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {has}");
        return Err(Pending { infeasible: true, message });
    }
    // What does not grow is never in the way: a node that promised too much before grants a shrink all the same.
    let growing =
        [("cpu", cpu, former.0, used.0, node.cpu_millis), ("memory", memory, former.1, used.1, node.memory_bytes)];
    for (name, wanted, before, used, has) in growing {
        if wanted > before && short(wanted.saturating_add(used), has) {
            let message =
                format!("Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {has}");
            return Err(Pending { infeasible: false, message });
        }
    }
    Ok(())
}

/// A running container whose change its `resizePolicy` answers with a restart.
pub fn needs_restart(container: &Container, from: &Pod, to: &Pod) -> bool {
    let policy = |name: &str| {
        let policies = container.resize_policy.iter().flatten();
        policies.into_iter().any(|policy| policy.resource_name == name && policy.restart_policy == "RestartContainer")
    };
    RESIZABLE.iter().any(|name| policy(name) && numbers(from, container, name) != numbers(to, container, name))
}

/// A container's request and effective limit in `pod`.
fn numbers(pod: &Pod, container: &Container, name: &str) -> (u64, u64) {
    let Some(own) = all_containers(pod).find(|own| own.name == container.name) else { return (0, 0) };
    let units = |amount: Option<crate::quantity::Amount>| {
        let amount = amount.unwrap_or_default();
        if name == "cpu" { amount.ceil_millis() } else { amount.ceil_units() }
    };
    (units(qos::of_container(own, Side::Requests, name)), units(cgroup_values::limit(pod, own, name)))
}

/// One change to the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The memory in use must be below the new limit, or nothing at all is changed.
    Check {
        /// The container; `None` for the whole pod.
        container: Option<(String, String)>,
        /// The new limit in bytes.
        limit: u64,
    },
    /// The pod's cgroup gets these values.
    Pod(LinuxContainerResources),
    /// A container gets these values.
    Container {
        /// The runtime's id.
        id: String,
        /// Its name.
        name: String,
        /// Only what changes is set.
        resources: LinuxContainerResources,
    },
}

/// What turns the cgroups of `from` into those of `to`, in this order. `running` is name and id of every container that
/// runs: memory before cpu; the pod grows before its containers and shrinks after them; containers shrink first.
pub fn actions(from: &Pod, to: &Pod, running: &[(String, String)], node: &Node) -> Vec<Action> {
    let mut checks = Vec::new();
    let mut out = Vec::new();
    let (old_pod, new_pod) = (cgroup_values::pod_resources(from, node), cgroup_values::pod_resources(to, node));
    for part in [Part::Memory, Part::Cpu] {
        let pod = (part.of(&old_pod), part.of(&new_pod));
        let mut containers = changed(part, from, to, running, node);
        // Unlimited is the largest; a stable sort leaves the order of the spec.
        containers.sort_by_key(|change| change.grows);
        if part == Part::Memory {
            checks.extend(containers.iter().filter_map(Change::check));
            let (old, new) = (old_pod.memory_limit_in_bytes, new_pod.memory_limit_in_bytes);
            if let Some(limit) = u64::try_from(new).ok().filter(|_| new != 0 && (old == 0 || new < old)) {
                checks.push(Action::Check { container: None, limit });
            }
        }
        let change = (pod.0 != pod.1).then(|| Action::Pod(part.only(&new_pod)));
        let (before, after) = if part.grows(&old_pod, &new_pod) { (change, None) } else { (None, change) };
        out.extend(before);
        out.extend(containers.into_iter().map(Change::action));
        out.extend(after);
    }
    checks.extend(out);
    checks
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Memory,
    Cpu,
}

impl Part {
    fn of(self, all: &LinuxContainerResources) -> (i64, i64) {
        match self {
            Self::Memory => (all.memory_limit_in_bytes, all.memory_swap_limit_in_bytes),
            Self::Cpu => (all.cpu_quota, all.cpu_shares),
        }
    }

    /// Zero means "as it is" to a runtime: only this part is changed.
    fn only(self, all: &LinuxContainerResources) -> LinuxContainerResources {
        match self {
            Self::Memory => LinuxContainerResources {
                memory_limit_in_bytes: all.memory_limit_in_bytes,
                memory_swap_limit_in_bytes: all.memory_swap_limit_in_bytes,
                ..Default::default()
            },
            Self::Cpu => LinuxContainerResources {
                cpu_period: all.cpu_period,
                // A limit that is taken away is -1 to a cgroup, 0 would keep it.
                cpu_quota: if all.cpu_quota == 0 { -1 } else { all.cpu_quota },
                cpu_shares: all.cpu_shares,
                ..Default::default()
            },
        }
    }

    fn grows(self, old: &LinuxContainerResources, new: &LinuxContainerResources) -> bool {
        let unlimited = |(limit, more): (i64, i64)| (if limit == 0 { i64::MAX } else { limit }, more);
        unlimited(self.of(new)) > unlimited(self.of(old))
    }
}

struct Change {
    id: String,
    name: String,
    grows: bool,
    part: Part,
    old: LinuxContainerResources,
    new: LinuxContainerResources,
}

impl Change {
    fn check(&self) -> Option<Action> {
        let (old, new) = (self.old.memory_limit_in_bytes, self.new.memory_limit_in_bytes);
        let shrinks = new != 0 && (old == 0 || new < old);
        let limit = u64::try_from(new).ok().filter(|_| shrinks)?;
        Some(Action::Check { container: Some((self.name.clone(), self.id.clone())), limit })
    }

    fn action(self) -> Action {
        Action::Container { resources: self.part.only(&self.new), id: self.id, name: self.name }
    }
}

fn changed(part: Part, from: &Pod, to: &Pod, running: &[(String, String)], node: &Node) -> Vec<Change> {
    let id = |name: &str| running.iter().find(|(own, _)| own == name).map(|(_, id)| id.clone());
    let each = all_containers(to).filter_map(|container| {
        let former = all_containers(from).find(|former| former.name == container.name)?;
        let old = cgroup_values::container_resources(from, former, node);
        let new = cgroup_values::container_resources(to, container, node);
        let (id, name) = (id(&container.name)?, container.name.clone());
        (part.of(&old) != part.of(&new)).then(|| Change { grows: part.grows(&old, &new), id, name, part, old, new })
    });
    each.collect()
}

/// `{"containers":[{"name":…,"resources":…}],"generation":…}`, as the kubelet's events about a resize show it.
pub fn shown(pod: &Pod, error: Option<&str>) -> String {
    let resizable = |resources: &ResourceRequirements| {
        let only = |list: &Option<BTreeMap<String, Quantity>>| {
            let list = list.iter().flatten().filter(|(name, _)| RESIZABLE.contains(&name.as_str()));
            let list: BTreeMap<_, _> = list.map(|(name, amount)| (name.clone(), amount.clone())).collect();
            (!list.is_empty()).then_some(list)
        };
        ResourceRequirements { limits: only(&resources.limits), requests: only(&resources.requests), claims: None }
    };
    let one = |container: &Container| {
        let resources = container.resources.as_ref().map(resizable).unwrap_or_default();
        serde_json::json!({"name": container.name, "resources": resources})
    };
    let spec = pod.spec.as_ref();
    let list = |containers: &[Container]| containers.iter().map(one).collect::<Vec<_>>();
    let mut all = serde_json::json!({
        "containers": list(spec.map(|spec| spec.containers.as_slice()).unwrap_or_default()),
        "generation": pod.metadata.generation.unwrap_or(0),
    });
    if let Some(init) = spec.and_then(|spec| spec.init_containers.as_deref()).filter(|init| !init.is_empty()) {
        all["initContainers"] = list(init).into();
    }
    if let Some(whole) = spec.and_then(|spec| spec.resources.as_ref()) {
        all["resources"] = serde_json::to_value(resizable(whole)).unwrap_or_default();
    }
    if let Some(error) = error {
        all["error"] = error.into();
    }
    all.to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;
    use crate::container::testing::pod;

    const V2: Node = Node { v2: true, swap: false, memory: 8 << 30, huge_pages: Vec::new() };

    fn of(containers: &[(&str, &str, &str)]) -> Pod {
        let one = |(name, cpu, memory): &(&str, &str, &str)| -> Value {
            json!({"name": name, "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": cpu, "memory": memory}}})
        };
        pod(json!({"containers": containers.iter().map(one).collect::<Vec<_>>()}))
    }

    fn check(from: &[(&str, &str, &str)], to: &[(&str, &str, &str)], want: Expect) {
        let running: Vec<_> = to.iter().map(|(name, ..)| ((*name).to_owned(), format!("{name}0"))).collect();
        let numbers = |r: &LinuxContainerResources| match r.memory_limit_in_bytes {
            0 => format!("quota {} shares {}", r.cpu_quota, r.cpu_shares),
            memory => format!("memory {}M", memory >> 20),
        };
        let lines = actions(&of(from), &of(to), &running, &V2).into_iter().map(|action| match action {
            Action::Check { container, limit } => {
                format!("check {} {}M", container.map_or("pod".to_owned(), |(name, _)| name), limit >> 20)
            }
            Action::Pod(resources) => format!("pod {}", numbers(&resources)),
            Action::Container { id, resources, .. } => format!("{id} {}", numbers(&resources)),
        });
        want.assert_eq(&lines.map(|line| line + "\n").collect::<String>());
    }

    #[test]
    fn a_pod_grows_before_its_containers_and_shrinks_after_them() {
        check(
            &[("a", "1", "64Mi")],
            &[("a", "2", "128Mi")],
            expect![[r#"
                pod memory 128M
                a0 memory 128M
                pod quota 200000 shares 10
                a0 quota 200000 shares 10
            "#]],
        );
        check(
            &[("a", "2", "128Mi")],
            &[("a", "1", "64Mi")],
            expect![[r#"
                check a 64M
                check pod 64M
                a0 memory 64M
                pod memory 64M
                a0 quota 100000 shares 10
                pod quota 100000 shares 10
            "#]],
        );
    }

    #[test]
    fn what_one_container_gives_another_may_take() {
        check(
            &[("a", "1", "64Mi"), ("b", "1", "128Mi")],
            &[("a", "1", "128Mi"), ("b", "1", "64Mi")],
            expect![[r#"
                check b 64M
                b0 memory 64M
                a0 memory 128M
            "#]],
        );
        check(&[("a", "1", "64Mi")], &[("a", "1000m", "65536Ki")], expect![""]);
    }

    #[test]
    fn a_node_grants_what_it_has() {
        let node = Allocatable { cpu_millis: 2_000, memory_bytes: 1 << 30, ..Allocatable::default() };
        let wants = |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}));
        let grant = |cpu: &str, used| {
            grant(&wants(cpu), (500, 0), (used, 0), &node).map_err(|p| format!("{}: {}", p.reason(), p.message))
        };
        assert_eq!(grant("1500m", 500), Ok(()));
        assert_eq!(grant("400m", 1_900), Ok(()));
        assert_eq!(
            grant("1500m", 600).unwrap_err(),
            "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 600, capacity: 2000"
        );
        assert_eq!(
            grant("3", 0).unwrap_err(),
            "Infeasible: Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"
        );
    }

    #[test]
    fn only_a_resource_with_that_policy_restarts() {
        let make = |cpu: &str, memory: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}},
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                                 {"resourceName": "cpu", "restartPolicy": "NotRequired"}]}]}))
        };
        let (old, cpu, memory) = (make("1", "64Mi"), make("2", "64Mi"), make("1", "65Mi"));
        let container = &old.spec.as_ref().unwrap().containers[0];
        assert!(!needs_restart(container, &old, &cpu) && needs_restart(container, &old, &memory));
    }

    #[test]
    fn amounts_taken_from_one_pod_fit_another() {
        let (small, large) = (of(&[("a", "1", "64Mi")]), of(&[("a", "2", "128Mi")]));
        assert_eq!(with(&large, &amounts(&small)), small);
    }
}

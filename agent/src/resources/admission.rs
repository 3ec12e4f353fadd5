//! Whether this node takes a pod at all: asked once, before anything of the pod is made. Pure.
//!
//! The kubelet's predicates with its reasons and messages (`pod-lifecycle.md`, section 5); only the first refusal is
//! told. Who makes room for a critical pod is in [`super::preemption`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Taint, Toleration};

use super::preemption::is_critical;
use super::pressure::{self, Conditions};
use super::qos::{self, Side};
use crate::cluster::is_static;
use crate::container::{init_containers, sysctls};
use crate::fields::Allocatable;
use crate::selectors::takes_node;

/// What pods may use of this node, and what it is called.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints; of these only `NoExecute` matters to a pod that was given to it.
    pub taints: Vec<Taint>,
    /// What pods may use; 0 where it is not known, and then not asked.
    pub allocatable: Allocatable,
    /// How many pods it takes.
    pub pods: u64,
    /// Sysctls beside the safe ones that its pods may set.
    pub allowed_sysctls: Vec<String>,
    /// What the node is short of now.
    pub pressure: Conditions,
}

impl NodeFacts {
    /// A node with the labels that every node has.
    pub fn of(name: &str, allocatable: Allocatable, pods: u64) -> Self {
        // Go's names, as in every node's labels.
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let labels = [
            ("kubernetes.io/hostname", name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { name: name.to_owned(), labels, allocatable, pods, ..Self::default() }
    }
}

/// Why the node does not take the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// `status.reason` and the event's reason, such as `OutOfcpu`.
    pub reason: String,
    /// The event's message; the status says `Pod was rejected: ` before it.
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into() }
    }

    fn predicate(name: &str, why: &str) -> Self {
        Self::new(name, format!("Predicate {name} failed: {why}"))
    }
}

/// A resource that there is not enough of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// `cpu` (thousandths), `memory` and `ephemeral-storage` (bytes), `pods`.
    pub resource: &'static str,
    /// What the pod wants.
    pub requested: u64,
    /// What others have.
    pub used: u64,
    /// What the node has.
    pub capacity: u64,
}

impl Shortage {
    /// How much would have to be given back.
    pub fn missing(&self) -> u64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }

    fn rejection(&self) -> Rejection {
        let Self { resource, requested, used, capacity } = self;
        let message = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        Rejection::new(format!("OutOf{resource}"), message)
    }
}

/// Why a pod does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing but resources are missing: for a critical pod others make room.
    Short(Vec<Shortage>),
    /// Anything else.
    No(Rejection),
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Short(shortages) => shortages
                .first()
                .map_or_else(|| Rejection::new("UnexpectedAdmissionError", "nothing is missing"), Shortage::rejection),
            Refusal::No(rejection) => rejection,
        }
    }
}

/// Takes the pod beside `others`, those that are neither refused nor at their end.
///
/// # Errors
/// The first [`Rejection`].
pub fn admit(pod: &Pod, others: &[&Pod], node: &NodeFacts) -> Result<(), Rejection> {
    consider(pod, others, node).map_err(Rejection::from)
}

/// As [`admit`], for whoever can make room.
///
/// # Errors
/// [`Refusal`].
pub fn consider(pod: &Pod, others: &[&Pod], node: &NodeFacts) -> Result<(), Refusal> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(()) };
    pressure::refuse(pod, &node.pressure).map_err(Refusal::No)?;
    if let Some(why) = sysctls::forbidden(pod, &node.allowed_sysctls) {
        return Err(Refusal::No(Rejection::new("SysctlForbidden", why)));
    }
    runs_this_os(pod, spec, node).map_err(Refusal::No)?;
    let shortages = shortages(pod, others, node);
    match (shortages.first(), predicates(pod, spec, others, node)) {
        (None, done) => done.map_err(Refusal::No),
        (Some(_), Ok(())) => Err(Refusal::Short(shortages)),
        // Room would not help a critical pod; of any other, what is missing is told first.
        (Some(_), Err(other)) if is_critical(pod) => Err(Refusal::No(other)),
        (Some(short), Err(_)) => Err(Refusal::No(short.rejection())),
    }
}

fn predicates(pod: &Pod, spec: &PodSpec, others: &[&Pod], node: &NodeFacts) -> Result<(), Rejection> {
    if !matches_node(spec, node) {
        return Err(Rejection::predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if spec.node_name.as_ref().is_some_and(|name| !name.is_empty() && *name != node.name) {
        return Err(Rejection::predicate("NodeName", "node(s) didn't match the requested node name"));
    }
    if !ports_are_free(spec, others) {
        return Err(Rejection::predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    // A static pod knows no node but this one.
    if !is_static(pod) && !tolerates_all(spec, &node.taints) {
        let why = "node(s) had taints that the pod didn't tolerate";
        return Err(Rejection::predicate("TaintToleration", why));
    }
    Ok(())
}

/// Taints that keep pods from being scheduled were the scheduler's to look at.
fn tolerates_all(spec: &PodSpec, taints: &[Taint]) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let mut strict = taints.iter().filter(|taint| taint.effect == "NoExecute");
    strict.all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    let same_value = match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        _ => false,
    };
    (key.is_empty() || key == taint.key) && (effect.is_empty() || effect == taint.effect) && same_value
}

fn runs_this_os(pod: &Pod, spec: &PodSpec, node: &NodeFacts) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    let os = node.labels.get("kubernetes.io/os").map_or("linux", String::as_str);
    if label.is_some_and(|label| label != os) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Rejection::new("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"));
    }
    Ok(())
}

/// Resources in the scheduler's order: pods, cpu, memory, ephemeral storage. Others are unknown here, and the kubelet
/// asks nothing of what a node does not know.
fn shortages(pod: &Pod, others: &[&Pod], node: &NodeFacts) -> Vec<Shortage> {
    let Allocatable { cpu_millis, memory_bytes, ephemeral_storage_bytes } = node.allocatable;
    let resources = [
        ("pods", node.pods),
        ("cpu", cpu_millis),
        ("memory", memory_bytes),
        ("ephemeral-storage", ephemeral_storage_bytes),
    ];
    let short = |(resource, capacity): (&'static str, u64)| {
        let requested = requests(pod, resource);
        let used = others.iter().map(|other| requests(other, resource)).fold(0, u64::saturating_add);
        let short = Shortage { resource, requested, used, capacity };
        (capacity > 0 && requested > 0 && short.missing() > 0).then_some(short)
    };
    resources.into_iter().filter_map(short).collect()
}

/// Thousandths of a cpu; whole units of everything else. Each pod is one of `pods`.
pub(super) fn requests(pod: &Pod, name: &str) -> u64 {
    if name == "pods" {
        return 1;
    }
    let overhead = pod.spec.as_ref().and_then(|spec| qos::amount(spec.overhead.as_ref(), name));
    let amount = qos::of_pod(pod, Side::Requests, name) + overhead.unwrap_or_default();
    if name == "cpu" { amount.ceil_millis() } else { amount.ceil_units() }
}

/// `nodeSelector`, and any one of the required terms.
fn matches_node(spec: &PodSpec, node: &NodeFacts) -> bool {
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| takes_node(required, Some(&node.name), &node.labels))
}

/// One host port: protocol, address and number.
type HostPort<'a> = (&'a str, &'a str, i32);

fn ports_are_free(spec: &PodSpec, others: &[&Pod]) -> bool {
    let taken: Vec<_> = others.iter().filter_map(|other| other.spec.as_ref()).flat_map(host_ports).collect();
    host_ports(spec).iter().all(|port| !taken.iter().any(|other| clash(port, other)))
}

/// Of containers that run side by side: regular ones and sidecars.
fn host_ports(spec: &PodSpec) -> Vec<HostPort<'_>> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let all = spec.containers.iter().chain(init_containers(spec).iter().filter(stays));
    let ports = all.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            let number = port.host_port.filter(|number| *number > 0)?;
            Some((port.protocol.as_deref().unwrap_or("TCP"), address, number))
        })
        .collect()
}

fn clash(one: &HostPort<'_>, other: &HostPort<'_>) -> bool {
    let same_address = one.1 == other.1 || one.1 == "0.0.0.0" || other.1 == "0.0.0.0";
    one.0 == other.0 && one.2 == other.2 && same_address
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;
    use crate::container::testing::pod;

    fn node() -> NodeFacts {
        let allocatable = Allocatable { cpu_millis: 2_000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1 << 30 };
        NodeFacts::of("n1", allocatable, 3)
    }

    fn one(resources: Value) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": resources}}]})
    }

    fn check(spec: Value, others: &[Value], verdict: Expect) {
        let others: Vec<_> = others.iter().cloned().map(pod).collect();
        let others: Vec<_> = others.iter().collect();
        verdict.assert_eq(&match admit(&pod(spec), &others, &node()) {
            Ok(()) => "taken".to_owned(),
            Err(rejection) => format!("{}: {}", rejection.reason, rejection.message),
        });
    }

    #[test]
    fn requests_have_to_fit_beside_the_others() {
        let half = one(json!({"cpu": "1500m"}));
        check(half.clone(), &[], expect!["taken"]);
        check(
            half.clone(),
            &[half],
            expect!["OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"],
        );
        check(
            one(json!({"memory": "2Gi"})),
            &[],
            expect![
                "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"
            ],
        );
        let none = one(json!({}));
        check(
            none.clone(),
            &[none.clone(), none.clone(), none],
            expect!["OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"],
        );
        check(one(json!({"example.com/gpu": "1"})), &[], expect!["taken"]);
    }

    fn on(field: Value) -> Value {
        let mut spec = one(json!({}));
        spec.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
        spec
    }

    fn affine(terms: Value) -> Value {
        on(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
    }

    #[test]
    fn the_node_has_to_be_the_one_that_is_asked_for() {
        let refused = || {
            expect!["NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"]
        };
        check(on(json!({"nodeSelector": {"kubernetes.io/os": "linux"}})), &[], expect!["taken"]);
        check(on(json!({"nodeSelector": {"disk": "ssd"}})), &[], refused());
        let expression =
            |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
        let hostname = |operator: &str, values: Value| {
            affine(json!([{"matchExpressions": [expression("kubernetes.io/hostname", operator, values)]}]))
        };
        check(hostname("In", json!(["n0", "n1"])), &[], expect!["taken"]);
        check(hostname("NotIn", json!(["n1"])), &[], refused());
        check(hostname("Gt", json!(["1"])), &[], refused());
        check(affine(json!([{}])), &[], refused());
        check(
            affine(json!([{"matchFields": [expression("metadata.name", "In", json!(["n1"]))]}])),
            &[],
            expect!["taken"],
        );
        check(
            on(json!({"nodeName": "n2"})),
            &[],
            expect!["NodeName: Predicate NodeName failed: node(s) didn't match the requested node name"],
        );
        check(
            on(json!({"os": {"name": "windows"}})),
            &[],
            expect!["PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS"],
        );
    }

    #[test]
    fn only_taints_that_drive_pods_away_matter_and_not_to_static_ones() {
        let taint = |effect: &str| Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: effect.into(),
            ..Taint::default()
        };
        let node = NodeFacts { taints: vec![taint("NoSchedule"), taint("NoExecute")], ..node() };
        let verdict = |tolerations: Value| admit(&pod(on(json!({"tolerations": tolerations}))), &[], &node);
        let refused = verdict(json!([])).unwrap_err();
        assert_eq!(refused.reason, "TaintToleration");
        assert_eq!(
            refused.message,
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
        );
        assert!(verdict(json!([{"key": "k", "value": "w"}])).is_err());
        assert!(verdict(json!([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}])).is_err());
        for tolerated in [json!({"operator": "Exists"}), json!({"key": "k", "value": "v", "effect": "NoExecute"})] {
            assert_eq!(verdict(json!([tolerated])), Ok(()));
        }
        let mut own = pod(on(json!({})));
        own.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        assert_eq!(admit(&own, &[], &node), Ok(()));
    }

    #[test]
    fn a_critical_pod_is_told_what_room_would_not_help() {
        let elsewhere = |priority: i32| {
            let mut spec = one(json!({"cpu": "3"}));
            spec["nodeName"] = json!("n2");
            spec["priority"] = json!(priority);
            admit(&pod(spec), &[], &node()).unwrap_err().reason
        };
        assert_eq!((elsewhere(0).as_str(), elsewhere(2_000_000_000).as_str()), ("OutOfcpu", "NodeName"));
        assert!(matches!(consider(&pod(one(json!({"cpu": "3"}))), &[], &node()), Err(Refusal::Short(_))));
    }

    #[test]
    fn a_host_port_is_taken_once_for_each_protocol_and_address() {
        let port = |port: Value| json!({"containers": [{"name": "a", "ports": [port]}]});
        let web = port(json!({"containerPort": 80, "hostPort": 8080}));
        check(
            web.clone(),
            &[port(json!({"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}))],
            expect!["taken"],
        );
        check(web.clone(), &[port(json!({"containerPort": 80}))], expect!["taken"]);
        check(
            web,
            &[port(json!({"containerPort": 81, "hostPort": 8080, "hostIP": "127.0.0.1"}))],
            expect![
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            ],
        );
    }
}

//! The Node object: what it says when it is created, and what has to change in the one that is there. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use super::facts::Machine;
use crate::events::EventType;
use crate::fields::Allocatable;
use crate::resources::pressure::{Condition, Conditions};

/// Taints of a Node.
pub type Taints = Vec<Taint>;

/// Who this node is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The node's name.
    pub name: String,
    /// Labels given by hand.
    pub labels: BTreeMap<String, String>,
    /// Taints that a new Node begins with.
    pub taints: Taints,
    /// The node's addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The machine.
    pub machine: Machine,
    /// What pods may use of it.
    pub allocatable: Allocatable,
    /// `<name>://<version>` of the container runtime.
    pub runtime: String,
    /// How many pods may run.
    pub max_pods: u64,
    /// Where the kubelet's API answers.
    pub port: u16,
}

/// The version that the node says it is: what it behaves like.
pub(crate) const VERSION: &str = "v1.36.0";
const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

impl Identity {
    /// Labels that are the node's own; those given by hand win.
    fn default_labels(&self) -> BTreeMap<String, String> {
        let arch = self.machine.architecture;
        let own = [
            ("kubernetes.io/hostname", self.name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ];
        own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The object to create.
    pub(super) fn new_node(&self, health: &Health<'_>, now: Timestamp) -> Node {
        let mut labels = self.default_labels();
        labels.extend(self.labels.clone());
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                annotations: Some(BTreeMap::from([(ATTACH_DETACH.to_owned(), "true".to_owned())])),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: (!self.taints.is_empty()).then(|| self.taints.clone()),
                ..NodeSpec::default()
            }),
            status: Some(self.status(None, health, now)),
        }
    }

    /// What has to change in labels and annotations of a Node that is there already; `None` when nothing has to.
    pub(super) fn adoption(&self, there: &Node) -> Option<Value> {
        let labels = there.metadata.labels.clone().unwrap_or_default();
        let mut wanted = self.default_labels();
        wanted.extend(
            self.labels
                .iter()
                .filter(|(key, _)| wanted.contains_key(*key))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect::<Vec<_>>(),
        );
        wanted.retain(|key, value| labels.get(key) != Some(value));
        let annotated = there.metadata.annotations.as_ref().and_then(|all| all.get(ATTACH_DETACH)).is_some();
        if wanted.is_empty() && annotated {
            return None;
        }
        Some(json!({"metadata": {"labels": wanted, "annotations": {ATTACH_DETACH: "true"}}}))
    }

    /// The whole status at `now`. Conditions that are not ours stay; a time of transition changes only with the status.
    pub(super) fn status(&self, before: Option<&NodeStatus>, health: &Health<'_>, now: Timestamp) -> NodeStatus {
        NodeStatus {
            addresses: Some(self.addresses()),
            allocatable: Some(self.resources(self.allocatable)),
            capacity: Some(self.resources(self.machine.capacity)),
            conditions: Some(conditions(before, health, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: self.port.into() }),
            }),
            node_info: Some(self.info()),
            ..NodeStatus::default()
        }
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
        let ips = self.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
        ips.chain([address("Hostname", self.name.clone())]).collect()
    }

    fn resources(&self, amounts: Allocatable) -> BTreeMap<String, Quantity> {
        [
            ("cpu", cpus(amounts.cpu_millis)),
            ("memory", format!("{}Ki", amounts.memory_bytes / 1_024)),
            ("ephemeral-storage", format!("{}Ki", amounts.ephemeral_storage_bytes / 1_024)),
            ("pods", self.max_pods.to_string()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .collect()
    }

    fn info(&self) -> NodeSystemInfo {
        let machine = &self.machine;
        NodeSystemInfo {
            architecture: machine.architecture.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: self.runtime.clone(),
            kernel_version: machine.kernel.clone(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }
    }
}

fn cpus(millis: u64) -> String {
    if millis.is_multiple_of(1_000) { (millis / 1_000).to_string() } else { format!("{millis}m") }
}

/// What the conditions are made of.
#[derive(Clone, Debug)]
pub(super) struct Health<'a> {
    /// Whether the node can run pods, and why not.
    pub(super) ready: Result<(), &'a str>,
    /// What it is short of.
    pub(super) pressure: Conditions,
}

impl<'a> Health<'a> {
    /// Of a node of which no more is known yet.
    pub(super) fn not_ready(why: &'a str) -> Self {
        Self { ready: Err(why), pressure: Conditions::new() }
    }
}

/// Type, wanted status, reason, message.
fn wanted<'a>(health: &Health<'a>) -> [(&'static str, bool, &'static str, &'a str); 4] {
    let pressure = |condition: Condition| {
        let holds = health.pressure.contains(&condition);
        (condition.as_str(), holds, condition.reason(holds), condition.said(holds))
    };
    let ready = match health.ready {
        Ok(()) => ("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Err(why) => ("Ready", false, "KubeletNotReady", why),
    };
    let [memory, disk, pid] = Condition::ALL.map(pressure);
    [memory, disk, pid, ready]
}

fn conditions(before: Option<&NodeStatus>, health: &Health<'_>, now: Timestamp) -> Vec<NodeCondition> {
    let before = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let own = wanted(health).map(|(type_, is, reason, message)| {
        let status = if is { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == type_ && old.status == status);
        NodeCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|old| old.last_transition_time.clone()).or(Some(now.clone())),
        }
    });
    let others = before.iter().filter(|old| !own.iter().any(|new| new.type_ == old.type_)).cloned();
    others.chain(own.iter().cloned()).collect()
}

/// Whether `new` says something else than `old`, times of heartbeats aside.
pub(super) fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let without_beats = |status: &NodeStatus| {
        let conditions = status.conditions.clone().unwrap_or_default();
        conditions
            .into_iter()
            .map(|condition| NodeCondition { last_heartbeat_time: None, ..condition })
            .collect::<Vec<_>>()
    };
    let same = old.addresses == new.addresses
        && old.allocatable == new.allocatable
        && old.capacity == new.capacity
        && old.daemon_endpoints == new.daemon_endpoints
        && old
            .node_info
            .as_ref()
            .map(|i| (&i.boot_id, &i.kubelet_version, &i.container_runtime_version, &i.kernel_version))
            == new
                .node_info
                .as_ref()
                .map(|i| (&i.boot_id, &i.kubelet_version, &i.container_runtime_version, &i.kernel_version))
        && without_beats(old) == without_beats(new);
    !same
}

/// What is worth an event between two statuses: conditions that turned, and another boot.
pub(super) fn turns(node: &str, old: &NodeStatus, new: &NodeStatus) -> Vec<(EventType, &'static str, String)> {
    let mut all = Vec::new();
    let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone()).unwrap_or_default();
    let (before, now) = (boot(old), boot(new));
    if !before.is_empty() && before != now {
        let message = format!("Node {node} has been rebooted, boot id: {now}");
        all.push((EventType::Warning, "Rebooted", message));
    }
    let old = old.conditions.as_deref().unwrap_or_default();
    for condition in new.conditions.iter().flatten() {
        let same = old.iter().any(|one| one.type_ == condition.type_ && one.status == condition.status);
        if let Some(reason) = event_of(&condition.type_, &condition.status).filter(|_| !same) {
            all.push((EventType::Normal, reason, format!("Node {node} status is now: {reason}")));
        }
    }
    all
}

fn event_of(condition: &str, status: &str) -> Option<&'static str> {
    if let Some(pressure) = Condition::ALL.into_iter().find(|pressure| pressure.as_str() == condition) {
        return Some(pressure.event(status == "True"));
    }
    Some(match (condition, status) {
        ("Ready", "True") => "NodeReady",
        ("Ready", "False") => "NodeNotReady",
        _ => return None,
    })
}

/// The patch of a status: addresses are replaced as a whole, or old ones would stay beside new ones.
pub(super) fn status_patch(new: &NodeStatus) -> Value {
    let mut status = json!(new);
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            name: "n1".into(),
            labels: BTreeMap::from([("tier".into(), "edge".into())]),
            taints: vec![Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() }],
            ips: vec!["192.0.2.7".parse().unwrap()],
            machine: Machine {
                architecture: "amd64",
                capacity: Allocatable { cpu_millis: 2_000, memory_bytes: 4 << 20, ephemeral_storage_bytes: 1 << 20 },
                ..Machine::default()
            },
            allocatable: Allocatable { cpu_millis: 2_000, memory_bytes: 3 << 20, ephemeral_storage_bytes: 1 << 20 },
            runtime: "longshore://0.1.0".into(),
            max_pods: 110,
            port: 10_250,
        }
    }

    fn well() -> Health<'static> {
        Health { ready: Ok(()), pressure: Conditions::new() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_new_node_says_who_it_is() {
        let node = identity().new_node(&Health::not_ready("network state unknown"), at(9));
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/hostname"], "n1");
        assert_eq!(labels["kubernetes.io/arch"], "amd64");
        assert_eq!(labels["tier"], "edge");
        assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "k");
        let status = node.status.unwrap();
        assert_eq!(status.capacity.as_ref().unwrap()["cpu"], Quantity("2".into()));
        let memory = [status.capacity, status.allocatable].map(|all| all.unwrap()["memory"].0.clone());
        assert_eq!(memory, ["4096Ki", "3072Ki"]);
        let types: Vec<_> =
            status.conditions.unwrap().into_iter().map(|c| (c.type_, c.status, c.message.unwrap())).collect();
        assert_eq!(types[3], ("Ready".into(), "False".into(), "network state unknown".into()));
        assert_eq!(types.len(), 4);
    }

    #[test]
    fn an_existing_node_keeps_what_others_wrote_and_gets_its_own_labels_back() {
        let mut node = identity().new_node(&well(), at(9));
        assert_eq!(identity().adoption(&node), None);
        let labels = node.metadata.labels.as_mut().unwrap();
        labels.insert("kubernetes.io/arch".into(), "arm64".into());
        labels.remove("tier");
        let patch = identity().adoption(&node).unwrap();
        assert_eq!(
            patch["metadata"]["labels"],
            json!({"kubernetes.io/arch": "amd64"}),
            "labels by hand only at creation"
        );
    }

    #[test]
    fn conditions_that_turn_and_another_boot_are_worth_an_event() {
        let mut identity = identity();
        identity.machine.boot_id = "b1".into();
        let first = identity.status(None, &Health::not_ready("x"), at(1));
        let reasons = |old: &NodeStatus, new: &NodeStatus| {
            turns("n1", old, new).into_iter().map(|(_, reason, _)| reason).collect::<Vec<_>>().join(" ")
        };
        let all = "NodeHasSufficientMemory NodeHasNoDiskPressure NodeHasSufficientPID NodeNotReady";
        assert_eq!(reasons(&NodeStatus::default(), &first), all);
        let ready = identity.status(Some(&first), &well(), at(2));
        assert_eq!(reasons(&first, &ready), "NodeReady");
        assert_eq!(turns("n1", &first, &ready)[0].2, "Node n1 status is now: NodeReady");
        let short = Health { pressure: [Condition::Memory].into(), ..well() };
        let short = identity.status(Some(&ready), &short, at(3));
        assert_eq!(reasons(&ready, &short), "NodeHasInsufficientMemory");
        let memory = &short.conditions.as_ref().unwrap()[0];
        assert_eq!((memory.type_.as_str(), memory.status.as_str()), ("MemoryPressure", "True"));
        assert_eq!(memory.reason.as_deref(), Some("KubeletHasInsufficientMemory"));
        assert_eq!(memory.message.as_deref(), Some("kubelet has insufficient memory available"));
        identity.machine.boot_id = "b2".into();
        let rebooted = identity.status(Some(&ready), &well(), at(3));
        assert_eq!(turns("n1", &ready, &rebooted)[0].2, "Node n1 has been rebooted, boot id: b2");
    }

    #[test]
    fn a_transition_is_when_the_status_changed_and_heartbeats_alone_are_no_change() {
        let identity = identity();
        let mut first = identity.status(None, &Health::not_ready("x"), at(1));
        first.conditions.as_mut().unwrap().push(NodeCondition {
            type_: "Foreign".into(),
            status: "True".into(),
            ..NodeCondition::default()
        });
        let second = identity.status(Some(&first), &Health::not_ready("x"), at(2));
        assert!(!differs(
            &identity.status(None, &Health::not_ready("x"), at(1)),
            &identity.status(
                Some(&identity.status(None, &Health::not_ready("x"), at(1))),
                &Health::not_ready("x"),
                at(5)
            )
        ));
        let ready = identity.status(Some(&second), &well(), at(3));
        assert!(differs(&second, &ready));
        let of = |status: &NodeStatus, type_: &str| {
            status.conditions.clone().unwrap().into_iter().find(|c| c.type_ == type_).unwrap()
        };
        assert_eq!(of(&ready, "Ready").last_transition_time.unwrap().0, at(3));
        assert_eq!(of(&ready, "DiskPressure").last_transition_time.unwrap().0, at(1));
        assert_eq!(of(&ready, "Foreign").status, "True");
    }
}

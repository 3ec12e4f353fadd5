//! What the proxy works on: Services with their endpoints and the node, whole, from whatever source.
//!
//! A source publishes a new [`Snapshot`] in a [`Snapshots`] channel whenever something changes. What did not change keeps
//! its `Arc`, a whole map or an entry: the proxy looks at pointers to find out what did.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use tokio::sync::watch;

use super::slice::Slice;
use crate::names::ObjectName;

/// Whole snapshots, the newest only; `None` until the source has listed everything once. Until then nothing may be
/// programmed: half a list would take Services away that work.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Everything that rules are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Services by name, as the API has them; those that are not to be proxied may be among them.
    pub services: Arc<BTreeMap<ObjectName, Arc<Service>>>,
    /// Endpoints, by the name of the EndpointSlice or Endpoints object that they were made of.
    pub slices: Arc<BTreeMap<ObjectName, Arc<Slice>>>,
    /// What is known of this node.
    pub node: NodeFacts,
}

/// What the proxy must know of its Node object. The default is that of a node without one, on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Load balancers may send to it: it is neither being deleted nor about to be taken away by an autoscaler.
    pub is_eligible: bool,
}

impl Default for NodeFacts {
    fn default() -> Self {
        Self { zone: None, is_eligible: true }
    }
}

impl NodeFacts {
    /// Reads a Node object; `None` is one that was never seen, which load balancers should not send to.
    pub fn of(node: Option<&Node>) -> Self {
        let Some(node) = node else { return Self { zone: None, is_eligible: false } };
        let labels = node.metadata.labels.as_ref();
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let leaving = taints.iter().any(|taint| taint.key == "ToBeDeletedByClusterAutoscaler");
        Self {
            zone: labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).cloned(),
            is_eligible: node.metadata.deletion_timestamp.is_none() && !leaving,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_goes_is_not_for_load_balancers() {
        let facts = |node: serde_json::Value| NodeFacts::of(Some(&serde_json::from_value(node).unwrap()));
        let zone = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z1"}}});
        assert_eq!(facts(zone), NodeFacts { zone: Some("z1".into()), is_eligible: true });
        let deleted = json!({"metadata": {"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(!facts(deleted).is_eligible);
        let key = "ToBeDeletedByClusterAutoscaler";
        let scaled = json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        assert!(!facts(scaled).is_eligible);
        assert!(!NodeFacts::of(None).is_eligible);
    }
}

//! What every worker works with, and how it tells people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, Runtime};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{broadcast, watch};

use super::memory::Memory;
use super::roles::{self, Member};
use super::seams::{HttpHooks, PodCgroups, PodProbes, PodVolumes};
use crate::config::Config;
use crate::container::dns::{NodeDns, Resolver};
use crate::events::{About, EventType, Recorder};
use crate::fields::Allocatable;
use crate::images::Images;
use crate::names::{ObjectName, PodUid};
use crate::resources::cgroup_values;
use crate::resources::ledger::Ledger;
use crate::resources::pressure::Conditions;
use crate::timeline::Timelines;
use crate::view::PodView;

/// The rooms that workers reach, and facts of the node that do not change while the agent runs.
pub struct Tools {
    /// Configuration.
    pub config: Arc<Config>,
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// The runtime's name, as container ids begin with it.
    pub runtime_name: String,
    /// Volumes.
    pub volumes: Arc<dyn PodVolumes>,
    /// Pod cgroups.
    pub cgroups: Arc<dyn PodCgroups>,
    /// Probes.
    pub probes: Arc<dyn PodProbes>,
    /// HTTP hooks.
    pub hooks: Arc<dyn HttpHooks>,
    /// Images.
    pub images: Images,
    /// Events.
    pub recorder: Recorder,
    /// What was tried, for people who ask.
    pub timelines: Timelines,
    /// What people see.
    pub views: Views,
    /// What outlives the agent.
    pub memory: Memory,
    /// How cgroups are written here.
    pub cgroup_facts: cgroup_values::Node,
    /// What pods may use.
    pub allocatable: Allocatable,
    /// What pods were granted.
    pub ledger: Ledger,
    /// What the node is short of.
    pub pressure: watch::Receiver<Conditions>,
}

impl Tools {
    /// By when an ordinary call has to be answered.
    pub fn soon(&self) -> Deadline {
        Deadline::within(self.config.timing.request)
    }

    /// By when a call that works for `extra` has to be answered.
    pub fn after(&self, extra: Duration) -> Deadline {
        Deadline::within(self.config.timing.request.saturating_add(extra))
    }

    /// The node's addresses, primary first.
    pub fn node_ips(&self) -> Vec<String> {
        self.config.network.node_ips.iter().map(ToString::to_string).collect()
    }

    /// Name resolution as the node offers it now.
    ///
    /// # Errors
    /// When the node's own file cannot be read.
    pub async fn node_dns(&self) -> std::io::Result<NodeDns> {
        let dns = &self.config.dns;
        let host = match &dns.resolv_conf {
            None => None,
            Some(path) => Some(Resolver::parse(&tokio::fs::read_to_string(path).await?)),
        };
        Ok(NodeDns {
            host,
            cluster_servers: dns.cluster_dns.iter().map(ToString::to_string).collect(),
            cluster_domain: dns.cluster_domain.clone(),
        })
    }

    /// Tells an event about the pod.
    pub fn say(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.record(pod, None, kind, reason, message.into());
    }

    /// Tells an event about one of its containers.
    pub fn say_of(&self, pod: &Pod, container: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        let field = roles::member(pod, container).map(|member: Member<'_>| roles::field_path(&member));
        self.record(pod, field, kind, reason, message.into());
    }

    fn record(&self, pod: &Pod, field: Option<String>, kind: EventType, reason: &str, message: String) {
        let meta = &pod.metadata;
        let Ok(uid) = PodUid::try_from(meta.uid.clone().unwrap_or_default()) else { return };
        let name = object_name(pod);
        self.recorder.record(About::Pod { name, uid, field }, kind, reason, message, Timestamp::now());
    }
}

/// Namespace and name.
pub fn object_name(pod: &Pod) -> ObjectName {
    let meta = &pod.metadata;
    ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The one place where every pod's newest status is.
#[derive(Clone)]
pub struct Views {
    sender: watch::Sender<Arc<BTreeMap<PodUid, PodView>>>,
    gone: broadcast::Sender<Gone>,
}

/// A pod of which nothing is left, with the last that was shown of it.
#[derive(Clone, Debug)]
pub struct Gone {
    /// The pod.
    pub uid: PodUid,
    /// Its last view, unless it went before it was ever shown.
    pub last: Option<PodView>,
}

impl Default for Views {
    fn default() -> Self {
        // Whoever falls this far behind has the views of a moment before; nobody need listen at all.
        Self { sender: watch::Sender::new(Arc::default()), gone: broadcast::Sender::new(1_024) }
    }
}

impl Views {
    /// Shows a pod as it is now.
    pub fn show(&self, uid: &PodUid, view: PodView) {
        // Copied only while somebody holds on to the former map.
        self.sender.send_modify(|all| {
            Arc::make_mut(all).insert(uid.clone(), view);
        });
    }

    /// Shows it no more.
    pub fn forget(&self, uid: &PodUid) {
        let mut last = None;
        self.sender.send_modify(|all| last = Arc::make_mut(all).remove(uid));
        // Only a cluster asks how a pod ended that is gone.
        let _ = self.gone.send(Gone { uid: uid.clone(), last });
    }

    /// Pods that have gone, from now on.
    pub fn gone(&self) -> broadcast::Receiver<Gone> {
        self.gone.subscribe()
    }

    /// All of them, from now on.
    pub fn listen(&self) -> watch::Receiver<Arc<BTreeMap<PodUid, PodView>>> {
        self.sender.subscribe()
    }
}

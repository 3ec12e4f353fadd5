//! Looks at what is left of the machine, tells what the node is short of, and has one pod after the other end until there
//! is enough again. What it means and who goes is decided in [`crate::resources::pressure`].
//!
//! ```text
//! Meter::read -> look -> conditions told -> starved? -> disk: collected what nobody uses -> one pod ends -> looked again
//! ```

mod meter;
mod usage;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::meter::Meter;
use super::collector::Collector;
use super::{Handle, NodeCgroups};
use crate::events::{About, EventType};
use crate::names::PodUid;
use crate::pods::registry::Ask;
use crate::resources::pressure::{self, Condition, Conditions, Levels, Look, Need, Starved, State};
use crate::volumes::Volumes;

/// As often as the kubelet's eviction manager.
const EVERY: Duration = Duration::from_secs(10);
/// How long it is waited for the end of a pod before it is looked again who may go.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether the pod is gone.
const POLL: Duration = Duration::from_secs(1);
/// A file system that does not answer has no level: it is no reason for anything.
const ANSWER: Duration = Duration::from_secs(5);

/// What the loop works with.
pub(super) struct Watch {
    node: Handle,
    volumes: Volumes,
    meter: Arc<Meter>,
    collector: Collector,
    told: watch::Sender<Conditions>,
    state: State,
    /// A look that has not ended: another one would wait as well, and hold one more thread.
    reading: Option<JoinHandle<Levels>>,
    /// Pods that were told to end and have not yet.
    ending: BTreeSet<PodUid>,
}

impl Watch {
    pub(super) fn new(
        node: Handle,
        volumes: Volumes,
        cgroups: NodeCgroups,
        collector: Collector,
        told: watch::Sender<Conditions>,
    ) -> Self {
        let wanted = pressure::signals(&node.config.eviction);
        let meter = Arc::new(Meter::new(wanted, &node.config.dirs, cgroups));
        let (state, ending) = (State::default(), BTreeSet::new());
        Self { node, volumes, meter, collector, told, state, reading: None, ending }
    }

    /// Looks until `stop`; nothing to do where nothing has a threshold.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        if self.meter.is_idle() {
            return;
        }
        let looking = async {
            loop {
                match self.round().await {
                    Some(uid) => self.gone(&uid).await,
                    None => tokio::time::sleep(EVERY).await,
                }
            }
        };
        stop.run_until_cancelled(looking).await;
    }

    /// One look and what follows from it: the pod that has to end, if one has.
    async fn round(&mut self) -> Option<PodUid> {
        let levels = self.levels().await;
        let Look { conditions, starved } =
            pressure::look(&self.node.config.eviction, &mut self.state, &levels, Instant::now());
        self.tell(conditions);
        let starved = starved?;
        self.say(EventType::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {}", starved.resource()));
        if self.reclaim(&starved).await {
            return None;
        }
        self.evict(&starved).await
    }

    async fn levels(&mut self) -> Levels {
        let meter = Arc::clone(&self.meter);
        let reading = self.reading.get_or_insert_with(|| tokio::task::spawn_blocking(move || meter.read()));
        match tokio::time::timeout(ANSWER, reading).await {
            Ok(levels) => {
                self.reading = None;
                levels.unwrap_or_default()
            }
            Err(_) => {
                warn!("a file system does not say how much of it is free");
                Levels::new()
            }
        }
    }

    fn tell(&self, conditions: Conditions) {
        let before = self.told.send_replace(conditions.clone());
        // In a cluster the Node's status says it, with its events.
        for condition in Condition::ALL.into_iter().filter(|_| !self.node.config.dns.in_cluster) {
            let holds = conditions.contains(&condition);
            if holds != before.contains(&condition) {
                let event = condition.event(holds);
                let message = format!("Node {} status is now: {event}", self.node.config.node_name);
                self.say(EventType::Normal, event, message);
            }
        }
    }

    fn say(&self, kind: EventType, reason: &str, message: String) {
        self.node.recorder.record(About::Node, kind, reason, message, Timestamp::now());
    }

    /// What no pod that lives needs goes before any pod does. Says whether that was enough.
    async fn reclaim(&mut self, starved: &Starved) -> bool {
        let Need::Disk { layers: true, .. } = self.need(starved) else { return false };
        self.collector.remove_ended().await;
        self.collector.remove_unused().await;
        let levels = self.levels().await;
        pressure::is_relieved(&self.node.config.eviction, &levels)
    }

    fn need(&self, starved: &Starved) -> Need {
        Need::of(starved.signal, self.meter.is_shared())
    }

    async fn evict(&mut self, starved: &Starved) -> Option<PodUid> {
        let views = self.node.views.borrow().clone();
        self.ending.retain(|uid| views.get(uid).is_some_and(|view| !usage::has_ended(view)));
        let active = usage::active(&views);
        let candidates = active.iter().filter(|(uid, _)| !self.ending.contains(*uid));
        let need = self.need(starved);
        let used = usage::measure(&self.node, &self.volumes, need, &active).await;
        let order = pressure::order(need, candidates.map(|(uid, pod)| (uid, pod.as_ref())), &used);
        let Some(uid) = order.into_iter().next() else {
            warn!(signal = starved.signal.name(), "the node is short of it, and no pod may be evicted");
            return None;
        };
        let pod: &Pod = active.get(&uid)?;
        let message = pressure::message(starved, pod, used.get(&uid));
        let grace = pressure::grace(&self.node.config.eviction, starved, pod);
        info!(pod = %uid, message, "a pod is evicted");
        // Where nobody listens any more, the agent ends.
        let _ = self.node.asks.send(Ask::Evict(uid.clone(), message, grace)).await;
        self.ending.insert(uid.clone());
        Some(uid)
    }

    /// Waits until the pod has ended and its volumes are gone, so that what it gave back is seen before another one goes.
    async fn gone(&self, uid: &PodUid) {
        let volumes = self.node.config.dirs.pods().join(uid.as_str()).join("volumes");
        let by = Instant::now() + PATIENCE;
        while Instant::now() < by {
            tokio::time::sleep(POLL).await;
            let ended = self.node.views.borrow().get(uid).is_none_or(usage::has_ended);
            if ended && usage::is_empty(&volumes).await {
                return;
            }
        }
        warn!(pod = %uid, "an evicted pod is not gone yet");
    }
}

//! What decides about a workload's pods, out of what is known of them.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;

use crate::names::PodUid;
use crate::view::PodView;

/// One pod as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Since when it has been ready without a break, if it is.
    pub ready_since: Option<Timestamp>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// It is on its way out.
    pub stopping: bool,
    /// Restarts of its containers.
    pub restarts: u32,
}

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum End {
    /// Every container with 0.
    Succeeded,
    /// Any other end.
    Failed,
}

/// Pods by uid. A pod that is missing has not been heard of yet: nothing is decided about it, except that there is one.
pub type AllSeen = BTreeMap<PodUid, Seen>;

impl Seen {
    /// Out of what people see of the pod.
    pub fn of(view: &PodView) -> Self {
        let status = &view.status;
        Self {
            ready_since: ready_since(status).filter(|_| !view.stopping),
            // What ends because it is stopped has neither succeeded nor failed.
            end: end(status).filter(|_| !view.stopping),
            stopping: view.stopping,
            restarts: restarts(status),
        }
    }

    /// Ready for as long as a workload wants it to be.
    pub(super) fn is_available(&self, min_ready: SignedDuration, now: Timestamp) -> bool {
        self.ready_since.is_some_and(|since| now.duration_since(since) >= min_ready)
    }
}

fn ready_since(status: &PodStatus) -> Option<Timestamp> {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    (ready.status == "True").then_some(since)
}

fn end(status: &PodStatus) -> Option<End> {
    match status.phase.as_deref()? {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ => None,
    }
}

fn restarts(status: &PodStatus) -> u32 {
    let all = status.init_container_statuses.iter().chain(status.container_statuses.iter()).flatten();
    all.map(|container| u32::try_from(container.restart_count).unwrap_or_default()).fold(0, u32::saturating_add)
}

//! When the node itself is short of memory, disk or process ids, and which pod has to go: the kubelet's eviction manager as
//! values (`node.md`, section 4; `pkg/kubelet/eviction`). Levels and the time in; conditions, a verdict and words out.
//!
//! ```text
//! look(policy, state, levels, now) -> Look { conditions, starved }      is_relieved(policy, levels)
//! order(need, pods, usage) -> pods, first one first                     message(starved, pod, usage), grace(…)
//! refuse(pod, conditions) -> why a pod is not taken meanwhile
//! ```
//!
//! What is measured, and what is done about it, is in `node::pressure`.

mod rank;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Taint};

pub use self::rank::{ContainerUsage, Need, OnDisk, PodUsage, order};
pub use self::words::{is_about_pressure, message};
use super::admission::{Rejection, tolerates};
use super::eviction;
use super::preemption::is_critical;
use super::qos::{self, Qos};
use crate::config::kubelet::{Eviction, Signal, Threshold};
use crate::fields::Allocatable;

/// How long a pod has to end that goes at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A condition of the Node, in the order in which it shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Too little memory.
    Memory,
    /// Too little disk, or too few inodes.
    Disk,
    /// Too few process ids.
    Pid,
}

/// Those that hold.
pub type Conditions = BTreeSet<Condition>;

impl Condition {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];

    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// The condition that a signal leads to.
fn condition(signal: Signal) -> Condition {
    match signal {
        Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => Condition::Memory,
        Signal::PidAvailable => Condition::Pid,
        _ => Condition::Disk,
    }
}

/// How much there is, and how much of it is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Free.
    pub available: u64,
    /// All.
    pub capacity: u64,
}

/// What was measured; what could not be is missing, and is no reason for anything.
pub type Levels = BTreeMap<Signal, Level>;

/// What is remembered between two looks.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Since when each threshold is crossed.
    since: BTreeMap<Limit, Instant>,
    /// Those that were acted on: they end only when the minimum reclaim is free too.
    met: BTreeSet<Limit>,
    /// When each condition was last seen.
    held: BTreeMap<Condition, Instant>,
}

/// One threshold of a policy. A hard one stands before the soft one of the same signal: nothing is waited for then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Limit {
    signal: Signal,
    is_soft: bool,
}

/// A threshold that is crossed for longer than its grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starved {
    /// What there is too little of.
    pub signal: Signal,
    /// Below this.
    pub threshold: u64,
    /// What there is.
    pub level: Level,
    /// Its pod may take the time that the policy leaves it.
    pub is_soft: bool,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Conditions that hold.
    pub conditions: Conditions,
    /// What has to be acted on first, if anything.
    pub starved: Option<Starved>,
}

/// The signals that a policy asks about.
pub fn signals(policy: &Eviction) -> BTreeSet<Signal> {
    policy.hard.keys().chain(policy.soft.keys()).copied().collect()
}

/// One look at the levels.
pub fn look(policy: &Eviction, state: &mut State, levels: &Levels, now: Instant) -> Look {
    let crossed: Vec<(Limit, Duration)> = limits(policy)
        .filter(|(limit, threshold, _)| is_crossed(policy, *limit, *threshold, levels, state.met.contains(limit)))
        .map(|(limit, _, grace)| (limit, grace))
        .collect();
    state.since.retain(|limit, _| crossed.iter().any(|(other, _)| other == limit));
    for (limit, _) in &crossed {
        state.since.entry(*limit).or_insert(now);
        state.held.insert(condition(limit.signal), now);
    }
    state.held.retain(|_, at| *at == now || now.saturating_duration_since(*at) < policy.transition);
    let is_due = |(limit, grace): &(Limit, Duration)| {
        state.since.get(limit).is_some_and(|since| now.saturating_duration_since(*since) >= *grace)
    };
    state.met = crossed.iter().filter(|one| is_due(one)).map(|(limit, _)| *limit).collect();
    let starved = state.met.first().and_then(|limit| starved(policy, *limit, levels));
    Look { conditions: state.held.keys().copied().collect(), starved }
}

/// Whether everything is fine again, minimum reclaims included: no pod has to go.
pub fn is_relieved(policy: &Eviction, levels: &Levels) -> bool {
    !limits(policy).any(|(limit, threshold, _)| is_crossed(policy, limit, threshold, levels, true))
}

/// What pods may use: below a hard threshold nothing is to be given out.
pub fn allocatable(policy: &Eviction, capacity: Allocatable) -> Allocatable {
    let left = |signal: Signal, all: u64| {
        let kept = policy.hard.get(&signal).map_or(0, |threshold| threshold.of(all));
        all.saturating_sub(kept)
    };
    Allocatable {
        memory_bytes: left(Signal::MemoryAvailable, capacity.memory_bytes),
        ephemeral_storage_bytes: left(Signal::NodefsAvailable, capacity.ephemeral_storage_bytes),
        ..capacity
    }
}

/// How long the pod may take to end.
pub fn grace(policy: &Eviction, starved: &Starved, pod: &Pod) -> Duration {
    if !starved.is_soft {
        return AT_ONCE;
    }
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let own = own.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let most = policy.max_pod_grace.unwrap_or(Duration::MAX);
    own.map_or(most, |own| own.min(most)).max(AT_ONCE)
}

/// Why a node under pressure does not take the pod: under any but memory pressure it takes critical ones alone.
///
/// # Errors
/// The kubelet's [`Rejection`].
pub fn refuse(pod: &Pod, conditions: &Conditions) -> Result<(), Rejection> {
    let only_memory = conditions.iter().eq([&Condition::Memory]);
    if conditions.is_empty() || is_critical(pod) || (only_memory && is_taken_without_memory(pod)) {
        return Ok(());
    }
    let names: Vec<_> = conditions.iter().map(|condition| condition.as_str()).collect();
    let message = format!("The node had condition: [{}]. ", names.join(" "));
    Err(Rejection { reason: eviction::REASON.to_owned(), message })
}

fn is_taken_without_memory(pod: &Pod) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let mut tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    qos::class(pod) != Qos::BestEffort || tolerations.any(|toleration| tolerates(toleration, &taint))
}

/// Each threshold with its grace.
fn limits(policy: &Eviction) -> impl Iterator<Item = (Limit, Threshold, Duration)> {
    let hard = policy
        .hard
        .iter()
        .map(|(signal, threshold)| (Limit { signal: *signal, is_soft: false }, *threshold, Duration::ZERO));
    let soft = policy.soft.iter();
    hard.chain(soft.map(|(signal, (threshold, grace))| (Limit { signal: *signal, is_soft: true }, *threshold, *grace)))
}

fn is_crossed(policy: &Eviction, limit: Limit, threshold: Threshold, levels: &Levels, with_reclaim: bool) -> bool {
    let Some(level) = levels.get(&limit.signal) else { return false };
    let reclaim = policy.minimum_reclaim.get(&limit.signal).filter(|_| with_reclaim);
    let reclaim = reclaim.map_or(0, |reclaim| reclaim.of(level.capacity));
    level.available < threshold.of(level.capacity).saturating_add(reclaim)
}

fn starved(policy: &Eviction, limit: Limit, levels: &Levels) -> Option<Starved> {
    let Limit { signal, is_soft } = limit;
    let threshold = match is_soft {
        true => policy.soft.get(&signal)?.0,
        false => *policy.hard.get(&signal)?,
    };
    let level = *levels.get(&signal)?;
    Some(Starved { signal, threshold: threshold.of(level.capacity), level, is_soft })
}

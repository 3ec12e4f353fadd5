//! What is kept from pods: eviction thresholds and reservations.

use std::collections::BTreeMap;
use std::time::Duration;

use super::checks::{Checks, path};
use super::duration::GoDuration;
use super::file::File;
use crate::quantity::Amount;

/// What is measured, in the order in which thresholds are looked at: memory first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// `memory.available`.
    MemoryAvailable,
    /// `allocatableMemory.available`.
    AllocatableMemoryAvailable,
    /// `nodefs.available`.
    NodefsAvailable,
    /// `nodefs.inodesFree`.
    NodefsInodesFree,
    /// `imagefs.available`.
    ImagefsAvailable,
    /// `imagefs.inodesFree`.
    ImagefsInodesFree,
    /// `containerfs.available`.
    ContainerfsAvailable,
    /// `containerfs.inodesFree`.
    ContainerfsInodesFree,
    /// `pid.available`.
    PidAvailable,
}

const SIGNALS: [(&str, Signal); 9] = [
    ("memory.available", Signal::MemoryAvailable),
    ("allocatableMemory.available", Signal::AllocatableMemoryAvailable),
    ("nodefs.available", Signal::NodefsAvailable),
    ("nodefs.inodesFree", Signal::NodefsInodesFree),
    ("imagefs.available", Signal::ImagefsAvailable),
    ("imagefs.inodesFree", Signal::ImagefsInodesFree),
    ("containerfs.available", Signal::ContainerfsAvailable),
    ("containerfs.inodesFree", Signal::ContainerfsInodesFree),
    ("pid.available", Signal::PidAvailable),
];

impl Signal {
    /// Its name in configurations and messages.
    pub fn name(self) -> &'static str {
        SIGNALS.iter().find(|(_, signal)| *signal == self).map_or("", |(name, _)| name)
    }
}

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threshold {
    /// Bytes, inodes or processes.
    Amount(Amount),
    /// Thousandths of a percent of the capacity.
    Part(u32),
}

impl Threshold {
    /// In units, of so much capacity.
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Amount(amount) => amount.ceil_units(),
            Self::Part(part) => u64::try_from(u128::from(capacity) * u128::from(part) / 100_000).unwrap_or(capacity),
        }
    }
}

/// `evictionHard` and its kin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eviction {
    /// Below these a pod goes at once.
    pub hard: BTreeMap<Signal, Threshold>,
    /// Below these a pod goes after it has been so for this long.
    pub soft: BTreeMap<Signal, (Threshold, Duration)>,
    /// `evictionMinimumReclaim`: how much more than needed is freed.
    pub minimum_reclaim: BTreeMap<Signal, Threshold>,
    /// `evictionPressureTransitionPeriod`: a condition stays for so long after it is over.
    pub transition: Duration,
    /// `evictionMaxPodGracePeriod`; `None` leaves it to the pod.
    pub max_pod_grace: Option<Duration>,
}

/// Resources that pods do not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a cpu.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes.
    pub ephemeral_storage_bytes: u64,
    /// Process ids.
    pub pids: u64,
}

/// `systemReserved`, `kubeReserved`, and in which cgroups they are enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// For the system's daemons.
    pub system: Reserved,
    /// For this agent and the runtime.
    pub kube: Reserved,
    /// `enforceNodeAllocatable`: `pods`, `system-reserved`, `kube-reserved` and their `-compressible` forms.
    pub enforced: Vec<String>,
    /// `systemReservedCgroup`.
    pub system_cgroup: Option<String>,
    /// `kubeReservedCgroup`.
    pub kube_cgroup: Option<String>,
}

impl Reservations {
    /// Both together.
    pub fn total(&self) -> Reserved {
        let (a, b) = (self.system, self.kube);
        Reserved {
            cpu_millis: a.cpu_millis.saturating_add(b.cpu_millis),
            memory_bytes: a.memory_bytes.saturating_add(b.memory_bytes),
            ephemeral_storage_bytes: a.ephemeral_storage_bytes.saturating_add(b.ephemeral_storage_bytes),
            pids: a.pids.saturating_add(b.pids),
        }
    }
}

type Strings = BTreeMap<String, String>;

pub(super) fn eviction(file: &File, checks: &mut Checks) -> Eviction {
    let soft = thresholds(file.eviction_soft.as_ref(), "evictionSoft", false, checks);
    let graces = graces(file.eviction_soft_grace_period.as_ref(), checks);
    let soft = soft.into_iter().filter_map(|(signal, threshold)| match graces.get(&signal) {
        Some(grace) => Some((signal, (threshold, *grace))),
        None => {
            let problem = format!("{} has none, and evictionSoft names it", signal.name());
            checks.say("evictionSoftGracePeriod", problem);
            None
        }
    });
    let soft = soft.collect();
    let most = file.eviction_max_pod_grace_period.unwrap_or_default();
    Eviction {
        hard: thresholds(file.eviction_hard.as_ref(), "evictionHard", false, checks),
        soft,
        minimum_reclaim: thresholds(file.eviction_minimum_reclaim.as_ref(), "evictionMinimumReclaim", true, checks),
        transition: checks.time("evictionPressureTransitionPeriod", file.eviction_pressure_transition_period),
        max_pod_grace: u64::try_from(most).ok().map(Duration::from_secs),
    }
}

fn signal(name: &str, field: &str, checks: &mut Checks) -> Option<Signal> {
    let found = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    if found.is_none() {
        let names: Vec<_> = SIGNALS.iter().map(|(name, _)| *name).collect();
        checks.say(&format!("{field}[{name}]"), format!("is not a signal; there are: {}", names.join(", ")));
    }
    found
}

fn thresholds(given: Option<&Strings>, field: &str, zero: bool, checks: &mut Checks) -> BTreeMap<Signal, Threshold> {
    let mut found = BTreeMap::new();
    for (name, text) in given.into_iter().flatten() {
        let Some(signal) = signal(name, field, checks) else { continue };
        match threshold(text, zero) {
            Ok(Some(threshold)) => drop(found.insert(signal, threshold)),
            Ok(None) => {}
            Err(problem) => checks.say(&format!("{field}[{name}]"), problem),
        }
    }
    found
}

/// `None` for `0%` and `100%`, which turn a threshold off.
fn threshold(text: &str, zero: bool) -> Result<Option<Threshold>, String> {
    if let Some(number) = text.strip_suffix('%') {
        let amount = Amount::parse(number).map_err(|_| format!("{text:?} is not a percentage"))?;
        let part = amount.ceil_millis();
        return match part {
            _ if amount.is_negative() || part > 100_000 => Err(format!("{text:?} must be between 0% and 100%")),
            0 | 100_000 => Ok(None),
            part => Ok(u32::try_from(part).ok().map(Threshold::Part)),
        };
    }
    let amount = Amount::parse(text).map_err(|error| error.to_string())?;
    if amount.is_negative() || (amount == Amount::ZERO && !zero) {
        return Err(format!("{text:?} must be more than nothing"));
    }
    Ok(Some(Threshold::Amount(amount)))
}

fn graces(given: Option<&Strings>, checks: &mut Checks) -> BTreeMap<Signal, Duration> {
    let field = "evictionSoftGracePeriod";
    let mut found = BTreeMap::new();
    for (name, text) in given.into_iter().flatten() {
        let Some(signal) = signal(name, field, checks) else { continue };
        match GoDuration::parse(text).and_then(GoDuration::positive) {
            Some(grace) => drop(found.insert(signal, grace)),
            None => checks.say(&format!("{field}[{name}]"), format!("{text:?} is not a duration; 90s and 1m30s are")),
        }
    }
    found
}

pub(super) fn reservations(file: &File, checks: &mut Checks) -> Reservations {
    let enforced = file.enforce_node_allocatable.clone().unwrap_or_default();
    let cgroup = |given: &Option<String>| path(given.as_ref()).and(given.clone());
    let reservations = Reservations {
        system: reserved(file.system_reserved.as_ref(), "systemReserved", checks),
        kube: reserved(file.kube_reserved.as_ref(), "kubeReserved", checks),
        system_cgroup: cgroup(&file.system_reserved_cgroup),
        kube_cgroup: cgroup(&file.kube_reserved_cgroup),
        enforced: enforced.iter().filter(|word| *word != "none").cloned().collect(),
    };
    for word in &enforced {
        let cgroup = match word.as_str() {
            "pods" => continue,
            "none" if enforced.len() == 1 => continue,
            "system-reserved" | "system-reserved-compressible" => {
                ("systemReservedCgroup", reservations.system_cgroup.is_some())
            }
            "kube-reserved" | "kube-reserved-compressible" => {
                ("kubeReservedCgroup", reservations.kube_cgroup.is_some())
            }
            _ => {
                checks.say("enforceNodeAllocatable", format!("{word:?} is not one of: none (alone), pods, system-reserved, system-reserved-compressible, kube-reserved, kube-reserved-compressible"));
                continue;
            }
        };
        if !cgroup.1 {
            checks.say(cgroup.0, format!("is missing, and enforceNodeAllocatable names {word}"));
        }
    }
    reservations
}

fn reserved(given: Option<&Strings>, field: &str, checks: &mut Checks) -> Reserved {
    let mut found = Reserved::default();
    for (name, text) in given.into_iter().flatten() {
        let place = format!("{field}[{name}]");
        let amount = match Amount::parse(text) {
            Ok(amount) if !amount.is_negative() => amount,
            Ok(_) => {
                checks.say(&place, format!("is {text}, must not be negative"));
                continue;
            }
            Err(error) => {
                checks.say(&place, error.to_string());
                continue;
            }
        };
        match name.as_str() {
            "cpu" => found.cpu_millis = amount.ceil_millis(),
            "memory" => found.memory_bytes = amount.ceil_units(),
            "ephemeral-storage" => found.ephemeral_storage_bytes = amount.ceil_units(),
            "pid" => found.pids = amount.ceil_units(),
            _ => checks.say(&place, "cannot be reserved; cpu, memory, ephemeral-storage and pid can"),
        }
    }
    found
}

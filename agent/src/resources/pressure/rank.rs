//! Which pod goes first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::config::kubelet::Signal;
use crate::names::PodUid;
use crate::resources::preemption::is_critical;
use crate::resources::qos::{self, Side};

/// What something takes of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl std::ops::Add for OnDisk {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (bytes, inodes) = (self.bytes.saturating_add(other.bytes), self.inodes.saturating_add(other.inodes));
        Self { bytes, inodes }
    }
}

/// What one container uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Memory that cannot be taken back from it, bytes.
    pub memory: u64,
    /// What it has written to its root file system.
    pub layer: OnDisk,
    /// Its logs.
    pub logs: OnDisk,
}

/// What one pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Of the whole pod, tmpfs volumes included.
    pub memory: u64,
    /// Processes.
    pub pids: u64,
    /// emptyDirs on disk.
    pub volumes: OnDisk,
    /// By name.
    pub containers: BTreeMap<String, ContainerUsage>,
}

/// What the node needs back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Memory.
    Memory,
    /// Process ids.
    Pids,
    /// Of the file systems that these lie on.
    Disk {
        /// Inodes, not bytes.
        inodes: bool,
        /// Writable layers lie there.
        layers: bool,
        /// Volumes and logs lie there.
        volumes: bool,
    },
}

impl Need {
    /// What a signal asks for; with `shared` images and volumes are on one file system.
    pub fn of(signal: Signal, shared: bool) -> Self {
        let disk = |inodes, layers, volumes| Self::Disk { inodes, layers, volumes };
        match signal {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => Self::Memory,
            Signal::PidAvailable => Self::Pids,
            Signal::NodefsAvailable => disk(false, shared, true),
            Signal::NodefsInodesFree => disk(true, shared, true),
            Signal::ImagefsAvailable | Signal::ContainerfsAvailable => disk(false, true, shared),
            Signal::ImagefsInodesFree | Signal::ContainerfsInodesFree => disk(true, true, shared),
        }
    }

    fn used(self, usage: &PodUsage) -> u64 {
        let (inodes, layers, volumes) = match self {
            Self::Memory => return usage.memory,
            Self::Pids => return usage.pids,
            Self::Disk { inodes, layers, volumes } => (inodes, layers, volumes),
        };
        let mut all = if volumes { usage.volumes } else { OnDisk::default() };
        for container in usage.containers.values() {
            all = if layers { all + container.layer } else { all };
            all = if volumes { all + container.logs } else { all };
        }
        if inodes { all.inodes } else { all.bytes }
    }

    /// What the pod asked for of it; nobody asks for inodes or process ids.
    fn asked(self, pod: &Pod) -> u64 {
        match self {
            Self::Memory => qos::of_pod(pod, Side::Requests, "memory").ceil_units(),
            Self::Disk { inodes: false, .. } => qos::of_pod(pod, Side::Requests, "ephemeral-storage").ceil_units(),
            Self::Disk { inodes: true, .. } | Self::Pids => 0,
        }
    }
}

/// The pods that may go, first one first: one of which nothing is known, one that uses more than it asked for, the lowest
/// priority, the largest use beyond what was asked for. Of process ids only the last two count. Critical pods stay.
pub fn order<'a>(
    need: Need,
    pods: impl IntoIterator<Item = (&'a PodUid, &'a Pod)>,
    usage: &BTreeMap<PodUid, PodUsage>,
) -> Vec<PodUid> {
    let key = |(uid, pod): &(&PodUid, &Pod)| {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let Some(usage) = usage.get(*uid) else { return (false, false, priority, Reverse(0)) };
        let (used, asked) = (i128::from(need.used(usage)), i128::from(need.asked(pod)));
        (true, need != Need::Pids && used <= asked, priority, Reverse(used - asked))
    };
    let mut pods: Vec<_> = pods.into_iter().filter(|(_, pod)| !is_critical(pod)).collect();
    pods.sort_by_key(|pod| (key(pod), pod.0.clone()));
    pods.into_iter().map(|(uid, _)| uid.clone()).collect()
}

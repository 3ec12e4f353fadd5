//! How much of what has a threshold is left on this machine.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::config::Dirs;
use crate::config::kubelet::Signal;
use crate::machine::{FileSystem, Memory, Tasks};
use crate::node::NodeCgroups;
use crate::resources::pressure::{Level, Levels};

/// Reads the levels of some signals: nothing is read for a threshold that nobody has set.
pub(super) struct Meter {
    wanted: BTreeSet<Signal>,
    /// Volumes; logs are counted with them.
    volumes: PathBuf,
    /// Images and writable layers.
    images: PathBuf,
    cgroups: NodeCgroups,
    shared: bool,
}

impl Meter {
    pub(super) fn new(wanted: BTreeSet<Signal>, dirs: &Dirs, cgroups: NodeCgroups) -> Self {
        let device = |path: &PathBuf| std::fs::metadata(path).ok().map(|found| found.dev());
        let shared = device(&dirs.kubelet) == device(&dirs.root);
        Self { wanted, volumes: dirs.kubelet.clone(), images: dirs.root.clone(), cgroups, shared }
    }

    /// Nothing has a threshold.
    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Images and volumes are on one file system.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// What can be read.
    pub(super) fn read(&self) -> Levels {
        self.wanted.iter().filter_map(|signal| Some((*signal, self.level(*signal)?))).collect()
    }

    fn level(&self, signal: Signal) -> Option<Level> {
        let bytes = |path| FileSystem::of(path).map(|of| Level { available: of.available, capacity: of.capacity });
        let inodes = |path| FileSystem::of(path).map(|of| Level { available: of.inodes_free, capacity: of.inodes });
        let level = match signal {
            Signal::MemoryAvailable => {
                let memory = Memory::now()?;
                left(memory.total, memory.working_set)
            }
            // Pods have the whole machine: nothing is reserved from them.
            Signal::AllocatableMemoryAvailable => left(Memory::now()?.total, self.cgroups.pods_working_set()?),
            Signal::NodefsAvailable => bytes(&self.volumes)?,
            Signal::NodefsInodesFree => inodes(&self.volumes)?,
            Signal::ImagefsAvailable | Signal::ContainerfsAvailable => bytes(&self.images)?,
            Signal::ImagefsInodesFree | Signal::ContainerfsInodesFree => inodes(&self.images)?,
            Signal::PidAvailable => {
                let tasks = Tasks::now()?;
                left(tasks.most, tasks.now)
            }
        };
        // A file system that counts no inodes has no end of them.
        (level.capacity > 0).then_some(level)
    }
}

fn left(capacity: u64, used: u64) -> Level {
    Level { available: capacity.saturating_sub(used), capacity }
}

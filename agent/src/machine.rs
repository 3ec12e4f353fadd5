//! What this machine has and how much of it is used, from `/proc` and `statvfs`.

use std::path::Path;

use procfs::prelude::*;
use procfs::{LoadAverage, Meminfo};

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) usage: u64,
    /// Without the page cache that could be dropped at once.
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    pub(crate) swap_total: u64,
    pub(crate) swap_used: u64,
}

impl Memory {
    /// The whole machine's, the same with either version of cgroups.
    pub(crate) fn now() -> Option<Self> {
        Meminfo::current().ok().map(|info| Self::of(&info))
    }

    fn of(info: &Meminfo) -> Self {
        let usage = info.mem_total.saturating_sub(info.mem_free);
        Self {
            total: info.mem_total,
            usage,
            working_set: usage.saturating_sub(info.inactive_file.unwrap_or(0)),
            rss: info.anon_pages.unwrap_or(0),
            swap_total: info.swap_total,
            swap_used: info.swap_total.saturating_sub(info.swap_free),
        }
    }
}

/// Tasks, threads included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tasks {
    pub(crate) now: u64,
    /// The lower one of the kernel's two limits.
    pub(crate) most: u64,
}

impl Tasks {
    /// Those of the whole machine.
    pub(crate) fn now() -> Option<Self> {
        let now = LoadAverage::current().ok()?.max.into();
        let ids = procfs::sys::kernel::pid_max().ok().and_then(|most| u64::try_from(most).ok())?;
        let threads = std::fs::read_to_string("/proc/sys/kernel/threads-max").ok();
        let threads = threads.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
        Some(Self { now, most: ids.min(threads) })
    }
}

/// `statvfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl FileSystem {
    /// The one that holds `path`.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let size = stat.fragment_size();
        Some(Self {
            capacity: stat.blocks().saturating_mul(size),
            available: stat.blocks_available().saturating_mul(size),
            used: stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(size),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_figures() {
        let Memory { total, usage, working_set, .. } = Memory::now().unwrap();
        assert!(total > usage && usage >= working_set && working_set > 0);
        let tasks = Tasks::now().unwrap();
        assert!(tasks.now > 0 && tasks.most >= tasks.now);
        let root = FileSystem::of(Path::new("/")).unwrap();
        assert!(root.capacity > root.used && root.capacity >= root.available);
        assert_eq!(FileSystem::of(Path::new("/there/is/none")), None);
    }
}

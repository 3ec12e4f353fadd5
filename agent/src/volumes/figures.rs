//! What a pod's volumes hold, for the node's figures. Volumes of our own making are counted, others are asked for what their
//! file system says, as the kubelet does it (`pkg/volume/metrics_du.go`, `metrics_statfs.go`).

use std::io;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::layout::VOLUMES;
use super::usage;

/// Plugins whose volumes are directories of this node's disk.
const COUNTED: [&str; 5] = [
    "kubernetes.io~empty-dir",
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~downward-api",
    "kubernetes.io~projected",
];

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeFigures {
    /// As in the pod.
    pub(crate) name: String,
    /// It is on the node's own disk, and goes with the pod.
    pub(crate) is_ephemeral: bool,
    /// Bytes that it holds.
    pub(crate) used: u64,
    /// Files, directories and links that it holds.
    pub(crate) inodes_used: u64,
    /// Of its file system, bytes.
    pub(crate) capacity: u64,
    /// Of its file system, bytes.
    pub(crate) available: u64,
    /// Of its file system.
    pub(crate) inodes: u64,
    /// Of its file system.
    pub(crate) inodes_free: u64,
}

/// Whether the pod with this directory has volumes of somebody else: asking a server that is gone may take for ever.
pub(crate) fn may_hang(pod: &Path) -> bool {
    names(&pod.join(VOLUMES)).iter().any(|plugin| !COUNTED.contains(&plugin.as_str()))
}

/// All volumes of the pod with this directory; those that cannot be looked at are left out.
pub(crate) fn of_pod(pod: &Path) -> Vec<VolumeFigures> {
    let volumes = pod.join(VOLUMES);
    let all = names(&volumes).into_iter().flat_map(|plugin| {
        let dir = volumes.join(&plugin);
        let one = |name: String| of_volume(&dir.join(&name), name, COUNTED.contains(&plugin.as_str())).ok();
        names(&dir).into_iter().filter_map(one).collect::<Vec<_>>()
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn of_volume(path: &Path, name: String, is_counted: bool) -> io::Result<VolumeFigures> {
    let stat = statvfs(path)?;
    let size = stat.fragment_size();
    let (used, inodes_used) = if is_counted {
        let used = usage::of(path)?;
        (used.bytes, used.inodes)
    } else {
        let used = stat.blocks().saturating_sub(stat.blocks_free()).saturating_mul(size);
        (used, stat.files().saturating_sub(stat.files_free()))
    };
    Ok(VolumeFigures {
        name,
        // What is in memory is memory of the pod's.
        is_ephemeral: is_counted && statfs(path)?.filesystem_type() != TMPFS_MAGIC,
        used,
        inodes_used,
        capacity: stat.blocks().saturating_mul(size),
        available: stat.blocks_available().saturating_mul(size),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// Names in a directory; none where there is none.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn own_volumes_are_counted_and_others_asked() {
        let pod = tempfile::tempdir().unwrap();
        let make = |plugin: &str, name: &str| {
            let dir = pod.path().join(VOLUMES).join(plugin).join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        assert!(of_pod(pod.path()).is_empty() && !may_hang(pod.path()));
        fs::write(make("kubernetes.io~empty-dir", "scratch").join("file"), vec![1; 3 << 20]).unwrap();
        make("kubernetes.io~configmap", "config");
        assert!(!may_hang(pod.path()));
        make("kubernetes.io~nfs", "data");
        assert!(may_hang(pod.path()));
        let all = of_pod(pod.path());
        let names: Vec<_> = all.iter().map(|volume| (volume.name.as_str(), volume.inodes_used)).collect();
        assert_eq!((names[0], names[2], names.len()), (("config", 1), ("scratch", 2), 3));
        let [config, data, scratch] = &all[..] else { panic!("{all:?}") };
        assert!((3 << 20..4 << 20).contains(&scratch.used) && config.used < 1 << 20, "{all:?}");
        assert!(data.used > 4 << 20 && !data.is_ephemeral, "that of the whole file system: {data:?}");
        assert!(scratch.capacity > scratch.available && scratch.capacity == data.capacity);
    }
}

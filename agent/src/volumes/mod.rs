//! What pods mount, made and kept on this node's disk.
//!
//! ```text
//! Volumes::new(root, mounts) -> Volumes                      // Clone; root is the kubelet's, see `volumes`, section 1
//! async ensure_mounted(pod: &Arc<Pod>, uid, objects: &Objects, node: &Allocatable) -> Result<Arc<MountedVolumes>, VolumeError>
//! async refresh(pod, uid, objects, node) -> Result<(), VolumeError>   // rewrites what ConfigMaps, Secrets, labels changed
//! async subpath(SubPath { .. }, &MountedVolumes) -> Result<PathBuf, VolumeError>
//! async unmount_all(uid) -> Result<(), VolumeError>          // after the containers are gone; can be repeated
//! async remove_pod_dir(uid) -> Result<(), VolumeError>       // after unmount_all; never crosses a live mount
//! async on_disk() -> Result<Vec<PodUid>, VolumeError>        // pod directories, for orphans
//! ```
//!
//! The API is unknown here: ConfigMaps and Secrets are handed in.

mod error;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use error::VolumeError;

/// One volume, ready to be given to containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Where its content is on this node.
    pub host_path: PathBuf,
    /// Containers only read it, whatever their `volumeMounts` say.
    pub read_only: bool,
    /// Made by us: may be relabelled for SELinux. A hostPath is not.
    pub managed: bool,
}

/// All volumes of one pod that its containers mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountedVolumes {
    volumes: BTreeMap<String, MountedVolume>,
}

impl MountedVolumes {
    /// The volume called `name`, if a container mounts it.
    pub fn get(&self, name: &str) -> Option<&MountedVolume> {
        self.volumes.get(name)
    }

    /// Where the volume called `name` is on this node.
    pub fn host_path(&self, name: &str) -> Option<&Path> {
        self.get(name).map(|volume| volume.host_path.as_path())
    }
}

/// One `volumeMounts` entry with a sub path.
#[derive(Clone, Copy, Debug)]
pub struct SubPath<'a> {
    /// The volume.
    pub volume: &'a str,
    /// The container.
    pub container: &'a str,
    /// Place in the container's `volumeMounts`, from 0.
    pub index: usize,
    /// `subPath`, or `subPathExpr` with its variables put in.
    pub path: &'a str,
}

//! What pods mount, made and kept on this node's disk.
//!
//! `plan` decides, without a look at the disk, what each volume of a pod has to hold; a file per kind says so for its
//! kind. `set_up` makes it so, `atomic_write` changes what ConfigMaps, Secrets and labels changed, `subpath` and
//! `tear_down` do what their names say. The API is unknown here: ConfigMaps and Secrets are handed in.
//!
//! Everything below a pod's directory may be written by its containers: whoever writes or removes there goes by file
//! descriptor and follows no link.

mod atomic_write;
mod config_map;
mod downward_api;
mod empty_dir;
mod error;
mod host_path;
mod layout;
mod mounts;
mod ownership;
mod payload;
mod plan;
mod projected;
mod remove;
mod secret;
mod set_up;
mod subpath;
mod tear_down;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;

use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::sources::Objects;

pub use error::{SetUpError, VolumeError};
pub use layout::Layout;
pub use mounts::{KernelMounts, Mounts};

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

impl FromIterator<(String, MountedVolume)> for MountedVolumes {
    fn from_iter<I: IntoIterator<Item = (String, MountedVolume)>>(volumes: I) -> Self {
        Self { volumes: volumes.into_iter().collect() }
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

/// All pods' volumes below one root. Clones share one state.
#[derive(Clone)]
pub struct Volumes {
    layout: Layout,
    mounts: Arc<dyn Mounts>,
    /// One at a time per pod: a caller may give up waiting while its work goes on, and the next must not meet it.
    busy: Arc<Mutex<HashMap<PodUid, Arc<Mutex<()>>>>>,
}

impl Volumes {
    /// Volumes below `root`, the kubelet's directory (see `volumes`, section 1).
    pub fn new(root: impl Into<PathBuf>, mounts: Arc<dyn Mounts>) -> Self {
        Self { layout: Layout::new(root), mounts, busy: Arc::default() }
    }

    /// Where things are.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes every volume that a container of the pod mounts, and brings those that exist up to date. Fine to call
    /// twice; a pod without volumes costs nothing.
    ///
    /// # Errors
    /// The first volume that cannot be made, in the kubelet's words.
    pub async fn ensure_mounted(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<Arc<MountedVolumes>, VolumeError> {
        let plan = plan::plan(pod, objects, node)?;
        if plan.is_empty() {
            return Ok(Arc::default());
        }
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        self.alone(uid, move || set_up::all(&dir, &plan, mounts.as_ref())).await.map(Arc::new)
    }

    /// Rewrites what has changed in ConfigMaps, Secrets or the pod's own fields; containers see it at once, except
    /// through a sub path. Anything else is left alone.
    ///
    /// # Errors
    /// As [`Self::ensure_mounted`]; what a failed volume held before stays.
    pub async fn refresh(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<(), VolumeError> {
        let plan: Vec<_> = plan::plan(pod, objects, node)?.into_iter().filter(plan::Planned::changes).collect();
        if plan.is_empty() {
            return Ok(());
        }
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        self.alone(uid, move || set_up::all(&dir, &plan, mounts.as_ref())).await.map(drop)
    }

    /// Binds one sub path of a volume to a place of its own, which is what the container mounts. Resolved once, by
    /// file descriptor, never out of the volume; a path that is missing becomes a directory.
    ///
    /// # Errors
    /// A path that leaves the volume or cannot be made; the text hides the node's paths.
    pub async fn subpath(
        &self,
        uid: &PodUid,
        path: SubPath<'_>,
        volumes: &MountedVolumes,
    ) -> Result<PathBuf, VolumeError> {
        let Some(volume) = volumes.get(path.volume) else {
            let (container, volume) = (path.container.to_owned(), path.volume.to_owned());
            return Err(VolumeError::NoSuchVolume { container, volume });
        };
        let (root, wanted) = (volume.host_path.clone(), path.path.to_owned());
        let target = self.layout.subpath(uid, path.volume, path.container, path.index);
        let mounts = self.mounts.clone();
        let (volume, container) = (path.volume.to_owned(), path.container.to_owned());
        self.alone(uid, move || {
            let bound = subpath::bind(&root, &wanted, &target, mounts.as_ref());
            bound.map(|()| target).map_err(|source| VolumeError::SubPath { volume, container, source })
        })
        .await
    }

    /// Takes all volumes away, once the containers are gone: sub paths first, then mounts and contents. Can be
    /// repeated; a mount that is still in use is an error and keeps everything below it.
    ///
    /// # Errors
    /// The first thing that cannot be taken away.
    pub async fn unmount_all(&self, uid: &PodUid) -> Result<(), VolumeError> {
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        self.alone(uid, move || tear_down::volumes(&dir, mounts.as_ref())).await
    }

    /// Removes the pod's directory, after [`Self::unmount_all`]. Can be repeated; never crosses a live mount.
    ///
    /// # Errors
    /// Volumes that are still there, or whatever the disk says.
    pub async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), VolumeError> {
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        self.alone(uid, move || tear_down::pod_dir(&dir, mounts.as_ref())).await?;
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        Ok(())
    }

    /// The pods that have a directory here, for those that nobody knows any more.
    ///
    /// # Errors
    /// When the directory of all pods cannot be listed.
    pub async fn on_disk(&self) -> Result<Vec<PodUid>, VolumeError> {
        let pods = self.layout.pods();
        blocking(move || tear_down::on_disk(&pods)).await
    }

    async fn alone<T: Send + 'static>(
        &self,
        uid: &PodUid,
        work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let turn = self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default().clone();
        blocking(move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(VolumeError::Stopping),
    }
}

#[cfg(test)]
mod tests;

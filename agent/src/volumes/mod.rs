//! What pods mount, made and kept on this node's disk.
//!
//! `plan` decides, without a look at the disk, what each volume of a pod has to hold; a file per kind says so for its
//! kind. `set_up` makes it so, `atomic_write` changes what ConfigMaps, Secrets and labels changed, `subpath` and
//! `tear_down` do what their names say. The API is unknown here: ConfigMaps and Secrets are handed in, tokens are asked for on a seam.
//!
//! Everything below a pod's directory may be written by its containers: whoever writes or removes there goes by file
//! descriptor and follows no link.

mod atomic_write;
mod attach;
mod claims;
mod config_map;
mod device;
mod downward_api;
mod empty_dir;
mod error;
mod figures;
mod host_path;
mod huge_pages;
mod layout;
mod mounts;
mod nfs;
mod ownership;
mod payload;
mod plan;
mod projected;
mod readers;
mod remove;
mod secret;
mod set_up;
mod subpath;
mod tear_down;
mod tokens;
mod trust;
mod turns;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};

use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::resources::pressure::OnDisk;
use crate::sources::Objects;

pub use error::{SetUpError, VolumeError};
pub(crate) use figures::{VolumeFigures, may_hang, of_pod as figures_of_pod};
pub use layout::Layout;
pub use mounts::{KernelMounts, Mounts};
pub use tokens::{Token, TokenWanted, Tokens};
pub(crate) use usage::of as on_disk;

/// One volume, ready to be given to containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedVolume {
    /// Where its content is on this node.
    pub host_path: PathBuf,
    /// Containers only read it, whatever their `volumeMounts` say.
    pub read_only: bool,
    /// Made by us: may be relabelled for SELinux. A hostPath is not.
    pub managed: bool,
    /// An image: nothing of it is on this node's disk until the runtime mounts it.
    pub image: Option<ImageVolume>,
    /// A block device, for `volumeDevices`; otherwise something to mount.
    pub device: bool,
    /// The group that its PersistentVolume says its files belong to: the pod's processes are in it.
    pub gid: Option<i64>,
}

/// An image as a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolume {
    /// As the manifest names it.
    pub reference: String,
    /// When it is pulled. Unset means where it is not here: there may be no registry to ask.
    pub policy: crate::images::Policy,
}

impl ImageVolume {
    /// What a pod asks for.
    pub fn of(source: &ImageVolumeSource) -> Self {
        use crate::images::Policy::{Always, IfNotPresent, Never};
        let policy = match source.pull_policy.as_deref() {
            Some("Always") => Always,
            Some("Never") => Never,
            _ => IfNotPresent,
        };
        Self { reference: source.reference.clone().unwrap_or_default(), policy }
    }

    /// What the runtime knows it by.
    pub fn name(&self) -> String {
        crate::images::with_default_tag(&self.reference)
    }
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

    /// Groups of its volumes that are not the pod's own already, each once.
    pub fn groups(&self, own: &[i64]) -> Vec<i64> {
        let groups: BTreeSet<i64> = self.volumes.values().filter_map(|volume| volume.gid).collect();
        groups.into_iter().filter(|group| !own.contains(group)).collect()
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
    claims: claims::ClaimStore,
    tokens: Option<Arc<dyn Tokens>>,
    turns: turns::Turns,
    /// Measuring waits for nothing that is set up, and holds nothing up.
    measuring: turns::Turns,
}

/// How long somebody waits for a pod's volumes: what the kubelet waits before it says that they are not mounted.
const LIMIT: Duration = Duration::from_secs(123);

impl Volumes {
    /// Volumes below `root`, the kubelet's directory (see `volumes`, section 1), on the node of this name. What claims
    /// are bound to, and the directories that are made for them, is kept in `claims`.
    pub fn new(root: impl Into<PathBuf>, claims: impl Into<PathBuf>, node_name: &str, mounts: Arc<dyn Mounts>) -> Self {
        let layout = Layout::new(root);
        let claims = claims::ClaimStore::new(claims.into(), layout.pods(), node_name);
        let (turns, measuring) = (turns::Turns::new(LIMIT), turns::Turns::new(LIMIT));
        Self { layout, mounts, claims, tokens: None, turns, measuring }
    }

    /// The same, with tokens of service accounts.
    #[must_use]
    pub fn with_tokens(self, tokens: Option<Arc<dyn Tokens>>) -> Self {
        Self { tokens, ..self }
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
        let issued = tokens::issue(self.tokens.as_deref(), pod, uid).await;
        let plan = plan::plan(pod, objects, node, &issued)?;
        if plan.is_empty() {
            return Ok(Arc::default());
        }
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        let stored = plan.iter().any(plan::Planned::is_claim).then(|| claims::Stored::of(objects));
        let (claims, of_pod) = (self.claims.clone(), uid.clone());
        let work = move |doing: &turns::Doing| {
            let plan = match stored {
                Some(stored) => {
                    plan::with_claims(plan, |name, claim| claims.resolve(&dir, &of_pod, name, claim, &stored))?
                }
                None => plan,
            };
            set_up::all(&dir, &plan, mounts.as_ref(), doing)
        };
        self.turns.run(uid, work).await.map(Arc::new)
    }

    /// Rewrites what has changed in ConfigMaps, Secrets, tokens or the pod's own fields; containers see it at once, except
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
        let issued = tokens::issue(self.tokens.as_deref(), pod, uid).await;
        let plan = plan::plan(pod, objects, node, &issued)?;
        let plan: Vec<_> = plan.into_iter().filter(plan::Planned::changes).collect();
        if plan.is_empty() {
            return Ok(());
        }
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        self.turns.run(uid, move |doing| set_up::all(&dir, &plan, mounts.as_ref(), doing)).await.map(drop)
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
        self.turns
            .run(uid, move |_| {
                let bound = subpath::bind(&root, &wanted, &target, mounts.as_ref());
                bound.map(|()| target).map_err(|source| VolumeError::SubPath {
                    volume,
                    container,
                    source: Box::new(source),
                })
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
        self.turns.run(uid, move |_| tear_down::volumes(&dir, mounts.as_ref())).await
    }

    /// Removes the pod's directory, after [`Self::unmount_all`]. Can be repeated; never crosses a live mount.
    ///
    /// # Errors
    /// Volumes that are still there, or whatever the disk says.
    pub async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), VolumeError> {
        let (dir, mounts) = (self.layout.pod(uid), self.mounts.clone());
        let (claims, of_pod) = (self.claims.clone(), uid.clone());
        let work = move |_: &turns::Doing| {
            claims.forget(&of_pod).map_err(|source| VolumeError::SetUp { volume: "ephemeral".to_owned(), source })?;
            tear_down::pod_dir(&dir, mounts.as_ref())
        };
        self.turns.run(uid, work).await?;
        self.turns.forget(uid);
        self.measuring.forget(uid);
        Ok(())
    }

    /// Bytes on disk of these emptyDirs of a pod and, by any name, of these other directories.
    ///
    /// # Errors
    /// The first that cannot be read.
    pub async fn usage(
        &self,
        uid: &PodUid,
        empty_dirs: Vec<String>,
        others: Vec<(String, PathBuf)>,
    ) -> Result<(BTreeMap<String, OnDisk>, BTreeMap<String, OnDisk>), VolumeError> {
        let pod = self.layout.pod(uid);
        let of = |path: &Path| usage::of(path).map_err(|source| VolumeError::Measure { path: path.to_owned(), source });
        let work = move |_: &turns::Doing| {
            let dir = |name: &str| layout::volume(&pod, empty_dir::PLUGIN, name);
            let own = empty_dirs.into_iter().map(|name| Ok((name.clone(), of(&dir(&name))?)));
            let own = own.collect::<Result<_, VolumeError>>()?;
            let others = others.into_iter().map(|(name, path)| Ok((name, of(&path)?)));
            Ok((own, others.collect::<Result<_, VolumeError>>()?))
        };
        self.measuring.run(uid, work).await
    }

    /// The pods that have a directory here, for those that nobody knows any more.
    ///
    /// # Errors
    /// When the directory of all pods cannot be listed.
    pub async fn on_disk(&self) -> Result<Vec<PodUid>, VolumeError> {
        let pods = self.layout.pods();
        self.turns.run_for_all(move || tear_down::on_disk(&pods)).await
    }
}

#[cfg(test)]
mod tests;

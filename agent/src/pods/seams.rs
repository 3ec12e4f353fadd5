//! What a worker needs of the rooms around it, and nothing more.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cri_proto::v1::LinuxContainerResources;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod};
use tokio::sync::watch;

use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::probes::{HookAnswer, ProbeResults, SavedProbes};
use crate::sources::Objects;
use crate::volumes::{MountedVolumes, SubPath, VolumeError};

/// A pod's volumes and its directory.
#[async_trait]
pub trait PodVolumes: Send + Sync {
    /// Makes everything that containers of the pod mount; fine to call twice.
    async fn ensure_mounted(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<Arc<MountedVolumes>, VolumeError>;

    /// Brings the contents up to date.
    async fn refresh(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<(), VolumeError>;

    /// Where a sub path of a volume can be mounted from.
    async fn subpath(&self, uid: &PodUid, path: SubPath<'_>, volumes: &MountedVolumes) -> Result<PathBuf, VolumeError>;

    /// Takes all volumes away; fine to call twice.
    async fn unmount_all(&self, uid: &PodUid) -> Result<(), VolumeError>;

    /// Removes the pod's directory; never crosses a live mount.
    async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), VolumeError>;
}

/// A cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("{what} the cgroup {path}")]
pub struct CgroupError {
    /// `making`, `changing` or `removing`.
    pub what: &'static str,
    /// The cgroup, from the hierarchy's root.
    pub path: String,
    /// Why not.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Pod cgroups: made before the sandbox, removed after everything else.
#[async_trait]
pub trait PodCgroups: Send + Sync {
    /// Makes the cgroup with these values; fine to call twice.
    async fn ensure(&self, path: &str, resources: &LinuxContainerResources) -> Result<(), CgroupError>;
    /// Changes what is set in `resources`, and leaves the rest.
    async fn update(&self, path: &str, resources: &LinuxContainerResources) -> Result<(), CgroupError>;
    /// Removes it with everything in it; fine to call twice.
    async fn remove(&self, path: &str) -> Result<(), CgroupError>;
}

/// A container that probes may begin to look at.
#[derive(Clone, Debug)]
pub struct Probed {
    /// The container's name.
    pub container: String,
    /// The instance.
    pub id: String,
    /// Since when it runs.
    pub started: Timestamp,
    /// It was started by a former run of the agent.
    pub restored: bool,
    /// Where it can be reached; `None` without an address.
    pub pod_ip: Option<String>,
}

/// Probes of one pod's containers: they look and report.
pub trait PodProbes: Send + Sync {
    /// Begins; the results come through the channel. `saved` is what [`PodProbes::save`] gave to a former run.
    fn track(&self, pod: &Arc<Pod>, uid: &PodUid, saved: Option<SavedProbes>) -> watch::Receiver<Arc<ProbeResults>>;
    /// A container runs, and its postStart hook is through.
    fn running(&self, uid: &PodUid, container: Probed);
    /// It does not run any more.
    fn stopped(&self, uid: &PodUid, container: &str);
    /// A status was made: containers that are not ready are looked at again at once.
    fn readiness_wanted(&self, uid: &PodUid);
    /// The pod ends: only readiness still counts.
    fn terminating(&self, uid: &PodUid);
    /// The pod is gone.
    fn forget(&self, uid: &PodUid);
    /// Counters that should survive the agent.
    fn save(&self, uid: &PodUid) -> Option<SavedProbes>;
}

/// A hook's HTTP request failed to be sent; what the answer says does not matter.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HookError(pub String);

/// HTTP requests of lifecycle hooks.
#[async_trait]
pub trait HttpHooks: Send + Sync {
    /// Sends the request; any answer is success.
    async fn get(
        &self,
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: Option<&str>,
    ) -> Result<HookAnswer, HookError>;
}

//! The real rooms behind the workers' seams.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use cri_proto::Runtime;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod};
use tokio::sync::watch;

use super::collector::Collector;
use super::{Lock, Node, NodeCgroups, NodeError, Seams, calls, evictor, orphans, pressure};
use crate::config::Config;
use crate::events::Recorder;
use crate::fields::Allocatable;
use crate::metrics::Figures;
use crate::names::PodUid;
use crate::pods::seams::{HookError, HttpHooks, PodProbes, PodVolumes, Probed};
use crate::probes::{HookAnswer, Http, ProbeResults, Probes, Running, SavedProbes, http_get};
use crate::resources::cgroup_values;
use crate::resources::pressure::Conditions;
use crate::sources::{Desired, Objects};
use crate::volumes::{KernelMounts, MountedVolumes, SubPath, Tokens, VolumeError, Volumes};

impl Node {
    /// Adopts what runs and starts all tasks. `desired` must hold the whole set from the start. Without `tokens`, volumes
    /// that hold tokens of service accounts are refused. What the node is short of is told to `pressure`.
    ///
    /// # Errors
    /// [`NodeError`]; nothing runs then.
    pub async fn build(
        config: Config,
        lock: Lock,
        runtime: Arc<dyn Runtime>,
        desired: watch::Receiver<Arc<Desired>>,
        recorder: Recorder,
        tokens: Option<Arc<dyn Tokens>>,
        pressure: watch::Sender<Conditions>,
    ) -> Result<Self, NodeError> {
        let volumes = volumes(&config).with_tokens(tokens);
        let figures = Figures::default();
        let runtime = calls::counted(runtime, figures.clone());
        let (seams, cgroups, probes) =
            real(&config, volumes.clone(), runtime, figures, &recorder, pressure.subscribe())?;
        let wanted = Arc::clone(&desired.borrow());
        let left = orphans::clear(&config, &volumes, &seams.runtime, &wanted).await;
        let mut node = Self::join(config, seams, desired, recorder).await?;
        node.handle.cgroups = Some(cgroups.clone());
        node.handle.probes = Some(probes.clone());
        node._lock = Some(lock);
        node.tasks.spawn(probes.run(node.stop.child_token()));
        let again = orphans::follow(left, volumes.clone(), node.handle().views, node.stop.child_token());
        node.tasks.spawn(again);
        node.tasks.spawn(evictor::run(node.handle(), volumes.clone(), node.stop.child_token()));
        let collector = Collector::new(node.handle());
        node.tasks.spawn(collector.clone().run(node.stop.child_token()));
        let watch = pressure::Watch::new(node.handle(), volumes, cgroups, collector, pressure);
        node.tasks.spawn(watch.run(node.stop.child_token()));
        Ok(node)
    }
}

fn volumes(config: &Config) -> Volumes {
    let dirs = &config.dirs;
    Volumes::new(&dirs.kubelet, dirs.root.join("claims"), &config.node_name, Arc::new(KernelMounts))
}

fn real(
    config: &Config,
    volumes: Volumes,
    runtime: Arc<dyn Runtime>,
    figures: Figures,
    recorder: &Recorder,
    pressure: watch::Receiver<Conditions>,
) -> Result<(Seams, NodeCgroups, Probes), NodeError> {
    let memory = memory();
    let cgroups = NodeCgroups::detect(&config.cgroup_root)?;
    let http = Http::new().map_err(NodeError::Tls)?;
    let probes = Probes::new(Arc::clone(&runtime), http.clone(), recorder.clone());
    let seams = Seams {
        volumes: Arc::new(volumes),
        cgroup_facts: cgroups.facts(memory),
        cgroups: Arc::new(cgroups.clone()),
        hooks: Arc::new(Hooks(http)),
        probes: Arc::new(probes.clone()),
        allocatable: allocatable(config),
        figures,
        runtime,
        pressure,
    };
    Ok((seams, cgroups, probes))
}

/// What pods may use of this machine: what is to stay free is nobody's.
pub fn allocatable(config: &Config) -> Allocatable {
    crate::resources::pressure::allocatable(&config.eviction, capacity(config))
}

/// What this machine has.
pub fn capacity(config: &Config) -> Allocatable {
    cgroup_values::allocatable(cpus(), memory(), disk(config))
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1))
}

/// Bytes of memory of this machine.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

fn disk(config: &Config) -> u64 {
    let dir = config.dirs.kubelet.ancestors().find(|dir| dir.exists());
    let stat = dir.and_then(|dir| nix::sys::statvfs::statvfs(dir).ok());
    stat.map_or(0, |stat| stat.blocks().saturating_mul(stat.fragment_size()))
}

#[async_trait]
impl PodVolumes for Volumes {
    async fn ensure_mounted(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<Arc<MountedVolumes>, VolumeError> {
        Self::ensure_mounted(self, pod, uid, objects, node).await
    }

    async fn refresh(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        objects: &Objects,
        node: &Allocatable,
    ) -> Result<(), VolumeError> {
        Self::refresh(self, pod, uid, objects, node).await
    }

    async fn subpath(&self, uid: &PodUid, path: SubPath<'_>, volumes: &MountedVolumes) -> Result<PathBuf, VolumeError> {
        Self::subpath(self, uid, path, volumes).await
    }

    async fn unmount_all(&self, uid: &PodUid) -> Result<(), VolumeError> {
        Self::unmount_all(self, uid).await
    }

    async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), VolumeError> {
        Self::remove_pod_dir(self, uid).await
    }
}

impl PodProbes for Probes {
    fn track(&self, pod: &Arc<Pod>, uid: &PodUid, saved: Option<SavedProbes>) -> watch::Receiver<Arc<ProbeResults>> {
        Self::track(self, pod, uid, saved)
    }

    fn running(&self, uid: &PodUid, probed: Probed) {
        let Probed { container, id, started, restored, pod_ip } = &probed;
        let pod_ip = pod_ip.as_deref();
        Self::running(self, uid, &Running { container, id, since: *started, restored: *restored, pod_ip });
    }

    fn stopped(&self, uid: &PodUid, container: &str) {
        Self::stopped(self, uid, container);
    }

    fn readiness_wanted(&self, uid: &PodUid) {
        Self::readiness_wanted(self, uid);
    }

    fn terminating(&self, uid: &PodUid) {
        Self::terminating(self, uid);
    }

    fn forget(&self, uid: &PodUid) {
        Self::forget(self, uid);
    }

    fn save(&self, uid: &PodUid) -> Option<SavedProbes> {
        Self::save(self, uid)
    }
}

struct Hooks(Http);

#[async_trait]
impl HttpHooks for Hooks {
    async fn get(
        &self,
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: Option<&str>,
    ) -> Result<HookAnswer, HookError> {
        http_get(&self.0, action, container, pod_ip).await.map_err(|error| HookError(error.to_string()))
    }
}

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cri_proto::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod};
use tokio::sync::watch;

use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::pods::seams::{CgroupError, HookError, HttpHooks, PodCgroups, PodProbes, PodVolumes, Probed};
use crate::probes::{ContainerResults, HookAnswer, ProbeResults, SavedProbes};
use crate::sources::Objects;
use crate::volumes::{MountedVolumes, SubPath, VolumeError};

/// Pods without volumes; directories are removed for real.
pub(crate) struct FakeVolumes {
    pods: PathBuf,
}

impl FakeVolumes {
    pub(crate) fn new(pods: PathBuf) -> Self {
        Self { pods }
    }
}

#[async_trait]
impl PodVolumes for FakeVolumes {
    async fn ensure_mounted(
        &self,
        _: &Arc<Pod>,
        _: &PodUid,
        _: &Objects,
        _: &Allocatable,
    ) -> Result<Arc<MountedVolumes>, VolumeError> {
        Ok(Arc::default())
    }

    async fn refresh(&self, _: &Arc<Pod>, _: &PodUid, _: &Objects, _: &Allocatable) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn subpath(&self, _: &PodUid, path: SubPath<'_>, _: &MountedVolumes) -> Result<PathBuf, VolumeError> {
        let (container, volume) = (path.container.to_owned(), path.volume.to_owned());
        Err(VolumeError::NoSuchVolume { container, volume })
    }

    async fn unmount_all(&self, _: &PodUid) -> Result<(), VolumeError> {
        Ok(())
    }

    async fn remove_pod_dir(&self, uid: &PodUid) -> Result<(), VolumeError> {
        let path = self.pods.join(uid.as_str());
        std::fs::remove_dir_all(&path).map_err(|source| VolumeError::TearDown { path, source })
    }
}

/// Cgroups that are always fine.
pub(crate) struct NoCgroups;

#[async_trait]
impl PodCgroups for NoCgroups {
    async fn ensure(&self, _: &str, _: &LinuxContainerResources) -> Result<(), CgroupError> {
        Ok(())
    }

    async fn update(&self, _: &str, _: &LinuxContainerResources) -> Result<(), CgroupError> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), CgroupError> {
        Ok(())
    }
}

/// No HTTP anywhere.
pub(crate) struct NoHttp;

#[async_trait]
impl HttpHooks for NoHttp {
    async fn get(&self, _: &HTTPGetAction, _: &Container, _: Option<&str>) -> Result<HookAnswer, HookError> {
        Err(HookError("connection refused".to_owned()))
    }
}

/// Probes that say what a test tells them to.
#[derive(Default)]
pub(crate) struct FakeProbes {
    channels: Mutex<BTreeMap<PodUid, watch::Sender<Arc<ProbeResults>>>>,
}

impl FakeProbes {
    /// Changes what the probes of a container say.
    pub(crate) fn say(&self, container: &str, change: impl FnOnce(&mut ContainerResults)) {
        let channels = self.channels.lock().unwrap();
        let channel = channels.values().next().expect("a pod");
        channel.send_modify(|results| {
            change(Arc::make_mut(results).containers.entry(container.to_owned()).or_default());
        });
    }

    /// The agent has ended.
    pub(crate) fn forget_all(&self) {
        self.channels.lock().unwrap().clear();
    }

    fn change(&self, uid: &PodUid, change: impl FnOnce(&mut ProbeResults)) {
        if let Some(channel) = self.channels.lock().unwrap().get(uid) {
            channel.send_modify(|results| change(Arc::make_mut(results)));
        }
    }
}

impl PodProbes for FakeProbes {
    fn track(&self, _: &Arc<Pod>, uid: &PodUid, _: Option<SavedProbes>) -> watch::Receiver<Arc<ProbeResults>> {
        let mut channels = self.channels.lock().unwrap();
        channels.entry(uid.clone()).or_insert_with(|| watch::Sender::new(Arc::default())).subscribe()
    }

    fn running(&self, uid: &PodUid, container: Probed) {
        self.change(uid, |results| {
            let fresh = ContainerResults { container_id: container.id, ..ContainerResults::default() };
            results.containers.insert(container.container, fresh);
        });
    }

    fn stopped(&self, uid: &PodUid, container: &str) {
        self.change(uid, |results| {
            results.containers.remove(container);
        });
    }

    fn readiness_wanted(&self, _: &PodUid) {}

    fn terminating(&self, _: &PodUid) {}

    fn forget(&self, uid: &PodUid) {
        self.channels.lock().unwrap().remove(uid);
    }

    fn save(&self, _: &PodUid) -> Option<SavedProbes> {
        None
    }
}

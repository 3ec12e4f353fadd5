//! What the node, its pods and containers use, measured when somebody asks and never in between.
//!
//! ```text
//! measure(node) -> Usage    the machine (machine), the runtime's figures, the views; one look for one scrape
//! summary::document         /stats/summary                     (rates: against the look before this one)
//! resource::text            /metrics/resource, what metrics-server reads
//! cadvisor::text            /metrics/cadvisor, what dashboards read
//! disks                     volumes and logs: walks over files, at most one a minute and pod
//! ```

pub(super) mod cadvisor;
mod disks;
mod machine;
mod rates;
pub(super) mod resource;
pub(super) mod summary;
pub(super) mod volumes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cri_proto::{Deadline, RuntimeError, v1};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use self::disks::PodDisk;
pub(super) use self::disks::{Disks, PodDisks};
use self::machine::Machine;
pub(super) use self::rates::Rates;
use super::RUNTIME;
use crate::machine::FileSystem;
use crate::names::PodUid;
use crate::node::Handle;
use crate::view::PodView;

/// One look at everything.
pub(super) struct Usage {
    node: String,
    machine: Machine,
    /// File systems: the pods' folders, and the images.
    kubelet_fs: FileSystem,
    image_fs: FileSystem,
    image_bytes: Option<u64>,
    pods: Vec<PodUsage>,
}

/// A pod that has a sandbox.
struct PodUsage {
    stats: v1::PodSandboxStats,
    view: Option<PodView>,
    /// Volumes and logs, where somebody has looked at them.
    disk: Option<Arc<PodDisk>>,
}

/// Looks at everything.
///
/// # Errors
/// When the runtime does not answer.
pub(super) async fn measure(node: &Handle) -> Result<Usage, RuntimeError> {
    let by = Deadline::within(RUNTIME);
    let pods = node.runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter: None }, by);
    let images = node.runtime.image_fs_info(v1::ImageFsInfoRequest {}, by);
    let (pods, images) = tokio::join!(pods, images);
    let views = node.views.borrow().clone();
    let dirs = node.config.dirs.clone();
    let file_system = |path: &Path| FileSystem::of(path).unwrap_or_default();
    let of_machine = move || (machine::look(), file_system(&dirs.kubelet), file_system(&dirs.root));
    let looked = tokio::task::spawn_blocking(of_machine).await;
    let (machine, kubelet_fs, image_fs) = looked.unwrap_or_default();
    let image_bytes = images.ok().and_then(|info| info.image_filesystems.first()?.used_bytes.map(|bytes| bytes.value));
    let pods = pods?.stats.into_iter().map(|stats| with_view(stats, &views)).collect();
    Ok(Usage { node: node.config.node_name.clone(), machine, kubelet_fs, image_fs, image_bytes, pods })
}

impl Usage {
    /// The same with what is known of volumes and logs.
    pub(super) fn with_disks(mut self, disks: &PodDisks) -> Self {
        for pod in &mut self.pods {
            let uid = PodUid::try_from(pod.metadata().uid).ok();
            pod.disk = uid.and_then(|uid| disks.get(&uid).cloned());
        }
        self
    }
}

fn with_view(stats: v1::PodSandboxStats, views: &Arc<BTreeMap<PodUid, PodView>>) -> PodUsage {
    let uid = stats.attributes.as_ref().and_then(|all| Some(all.metadata.as_ref()?.uid.clone()));
    let view = uid.and_then(|uid| views.get(&PodUid::try_from(uid).ok()?).cloned());
    PodUsage { stats, view, disk: None }
}

impl PodUsage {
    fn metadata(&self) -> v1::PodSandboxMetadata {
        self.stats.attributes.clone().and_then(|all| all.metadata).unwrap_or_default()
    }

    fn linux(&self) -> Option<&v1::LinuxPodSandboxStats> {
        self.stats.linux.as_ref()
    }

    fn containers(&self) -> impl Iterator<Item = (&str, &v1::ContainerStats)> {
        let all = self.linux().map(|linux| linux.containers.as_slice()).unwrap_or_default();
        all.iter().filter_map(|stats| Some((stats.attributes.as_ref()?.metadata.as_ref()?.name.as_str(), stats)))
    }

    fn status(&self, container: &str) -> Option<&ContainerStatus> {
        self.view.as_ref()?.container(container)
    }

    /// When the container that runs was started.
    fn started(&self, container: &str) -> Option<Timestamp> {
        let state = self.status(container)?.state.as_ref()?;
        state.running.as_ref()?.started_at.as_ref().map(|time| time.0)
    }

    fn pod_started(&self) -> Option<Timestamp> {
        self.view.as_ref()?.status.start_time.as_ref().map(|time| time.0)
    }
}

fn value(number: Option<&v1::UInt64Value>) -> Option<u64> {
    number.map(|number| number.value)
}

fn time(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default()
}

/// Seconds of nanoseconds.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod fixture;

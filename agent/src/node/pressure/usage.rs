//! What every pod uses of what the node is short of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, v1};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use tracing::{debug, warn};

use crate::errors::chain;
use crate::names::PodUid;
use crate::node::{Handle, evictor};
use crate::resources::eviction;
use crate::resources::pressure::{ContainerUsage, Need, OnDisk, PodUsage};
use crate::view::PodView;
use crate::volumes::Volumes;

/// For one pod's files. A pod whose files cannot be counted in this time is one of which nothing is known: it goes first.
const COUNTING: Duration = Duration::from_secs(30);
/// Pods whose files are counted at the same time.
const AT_ONCE: usize = 4;

type Pods = BTreeMap<PodUid, Arc<Pod>>;

/// Pods that use something and are not about to go.
pub(super) fn active(views: &BTreeMap<PodUid, PodView>) -> Pods {
    let active = views.iter().filter(|(_, view)| !view.stopping && !has_ended(view));
    active.map(|(uid, view)| (uid.clone(), Arc::clone(&view.pod))).collect()
}

/// Nothing of the pod runs any more, nor will.
pub(super) fn has_ended(view: &PodView) -> bool {
    matches!(view.status.phase.as_deref(), Some("Failed" | "Succeeded"))
}

/// Nothing is in the folder of a pod's volumes.
pub(super) async fn is_empty(volumes: &Path) -> bool {
    let Ok(mut plugins) = tokio::fs::read_dir(volumes).await else { return true };
    while let Ok(Some(plugin)) = plugins.next_entry().await {
        let Ok(mut entries) = tokio::fs::read_dir(plugin.path()).await else { continue };
        if matches!(entries.next_entry().await, Ok(Some(_))) {
            return false;
        }
    }
    true
}

/// What the runtime says, and for disk the pods' files. Of pods that are missing nothing is known.
pub(super) async fn measure(node: &Handle, volumes: &Volumes, need: Need, pods: &Pods) -> BTreeMap<PodUid, PodUsage> {
    let by = Deadline::within(node.config.timing.request);
    let request = v1::ListPodSandboxStatsRequest { filter: None };
    let stats = match node.runtime.list_pod_sandbox_stats(request, by).await {
        Ok(answer) => answer.stats,
        Err(error) => {
            warn!(error = chain(&error), "asking what the pods use");
            Vec::new()
        }
    };
    let all = stats.iter().filter_map(of_runtime).filter(|(uid, _)| pods.contains_key(uid));
    if !matches!(need, Need::Disk { volumes: true, .. }) {
        return all.collect();
    }
    let counted = futures::stream::iter(all).map(|(uid, usage)| async {
        let pod = pods.get(&uid)?;
        let usage = with_files(node, volumes, &uid, pod, usage).await?;
        Some((uid, usage))
    });
    counted.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn with_files(
    node: &Handle,
    volumes: &Volumes,
    uid: &PodUid,
    pod: &Pod,
    mut usage: PodUsage,
) -> Option<PodUsage> {
    let counting = volumes.usage(uid, eviction::empty_dirs(pod), evictor::log_dirs(node, pod));
    let (of_volumes, of_logs) = match tokio::time::timeout(COUNTING, counting).await {
        Ok(Ok(counted)) => counted,
        Ok(Err(error)) => {
            debug!(pod = %uid, error = chain(&error), "counting a pod's files");
            return None;
        }
        Err(_) => return None,
    };
    usage.volumes = of_volumes.into_values().fold(OnDisk::default(), |sum, used| sum + used);
    for (name, logs) in of_logs {
        usage.containers.entry(name).or_default().logs = logs;
    }
    Some(usage)
}

fn of_runtime(stats: &v1::PodSandboxStats) -> Option<(PodUid, PodUsage)> {
    let uid = stats.attributes.as_ref()?.metadata.as_ref()?.uid.clone();
    let linux = stats.linux.as_ref()?;
    let containers = linux.containers.iter().filter_map(|container| {
        let name = container.attributes.as_ref()?.metadata.as_ref()?.name.clone();
        Some((name, of_container(container)))
    });
    let usage = PodUsage {
        memory: working_set(linux.memory.as_ref()),
        pids: number(linux.process.as_ref().and_then(|process| process.process_count.as_ref())),
        volumes: OnDisk::default(),
        containers: containers.collect(),
    };
    Some((PodUid::try_from(uid).ok()?, usage))
}

fn of_container(stats: &v1::ContainerStats) -> ContainerUsage {
    let layer = stats.writable_layer.as_ref();
    ContainerUsage {
        memory: working_set(stats.memory.as_ref()),
        layer: OnDisk {
            bytes: number(layer.and_then(|layer| layer.used_bytes.as_ref())),
            inodes: number(layer.and_then(|layer| layer.inodes_used.as_ref())),
        },
        logs: OnDisk::default(),
    }
}

fn working_set(memory: Option<&v1::MemoryUsage>) -> u64 {
    number(memory.and_then(|memory| memory.working_set_bytes.as_ref()))
}

fn number(value: Option<&v1::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

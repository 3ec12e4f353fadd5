//! Looks at intervals how much disk limited pods use, and asks for the end of those that use too much.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::{Deadline, v1};
use k8s_openapi::api::core::v1::Pod;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Handle;
use crate::container::{all_containers, labels, logs};
use crate::errors::chain;
use crate::names::PodUid;
use crate::pods::registry::Ask;
use crate::resources::eviction::{self, Measure, Usage};
use crate::resources::pressure::OnDisk;
use crate::volumes::Volumes;

/// As often as the kubelet's eviction manager.
const EVERY: Duration = Duration::from_secs(10);
/// How long a pod has to end that used too much.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Measuring a pod takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// Measures until `stop`.
pub(super) async fn run(node: Handle, volumes: Volumes, stop: CancellationToken) {
    let mut due: BTreeMap<PodUid, Instant> = BTreeMap::new();
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // A measurement that hangs holds up its own pod only: it is not due again before it has ended.
            Some(Ok((uid, took))) = under_way.join_next(), if !under_way.is_empty() => {
                due.insert(uid, Instant::now() + EVERY.max(took * SHARE));
            }
            () = tokio::time::sleep(EVERY / 10) => {
                let limited = limited(&node);
                due.retain(|uid, _| limited.contains_key(uid));
                for (uid, pod) in limited {
                    let now = Instant::now();
                    if due.get(&uid).is_none_or(|due| *due <= now) {
                        due.insert(uid.clone(), now + Duration::from_secs(86_400));
                        under_way.spawn(judge(node.clone(), volumes.clone(), uid, pod));
                    }
                }
            }
        }
    }
}

/// Pods that something limits, and that have not ended.
fn limited(node: &Handle) -> BTreeMap<PodUid, Arc<Pod>> {
    let views = node.views.borrow();
    let running = views.iter().filter(|(_, view)| {
        let phase = view.status.phase.as_deref().unwrap_or_default();
        !view.stopping && phase != "Failed" && phase != "Succeeded" && !eviction::measure(&view.pod).is_empty()
    });
    running.map(|(uid, view)| (uid.clone(), Arc::clone(&view.pod))).collect()
}

async fn judge(node: Handle, volumes: Volumes, uid: PodUid, pod: Arc<Pod>) -> (PodUid, Duration) {
    let began = Instant::now();
    match usage(&node, &volumes, &uid, &pod).await {
        Ok(usage) => {
            if let Some(message) = eviction::verdict(&pod, &usage) {
                info!(pod = %uid, message, "a pod uses more disk than it may");
                // Where nobody listens any more, the agent ends.
                let _ = node.asks.send(Ask::Evict(uid.clone(), message, AT_ONCE)).await;
            }
        }
        Err(error) => debug!(pod = %uid, error, "measuring a pod"),
    }
    (uid, began.elapsed())
}

async fn usage(node: &Handle, volumes: &Volumes, uid: &PodUid, pod: &Pod) -> Result<Usage, String> {
    let Measure { volumes: names, containers } = eviction::measure(pod);
    let log_dirs = if containers { log_dirs(node, pod) } else { Vec::new() };
    let (of_volumes, of_logs) = volumes.usage(uid, names, log_dirs).await.map_err(|error| chain(&error))?;
    let bytes = |all: BTreeMap<String, OnDisk>| all.into_iter().map(|(name, used)| (name, used.bytes)).collect();
    let (of_volumes, mut of_containers): (_, BTreeMap<_, _>) = (bytes(of_volumes), bytes(of_logs));
    if containers {
        for (name, bytes) in layers(node, uid).await? {
            *of_containers.entry(name).or_default() += bytes;
        }
    }
    Ok(Usage { volumes: of_volumes, containers: of_containers })
}

/// The folders of the logs of a pod's containers, by container.
pub(super) fn log_dirs(node: &Handle, pod: &Pod) -> Vec<(String, PathBuf)> {
    let dir = logs::pod_dir(&node.config.dirs.logs, pod);
    all_containers(pod).map(|container| (container.name.clone(), dir.join(&container.name))).collect()
}

/// What the pod's containers have written to their own root file systems.
async fn layers(node: &Handle, uid: &PodUid) -> Result<Vec<(String, u64)>, String> {
    let label_selector = [(labels::POD_UID.to_owned(), uid.to_string())].into();
    let filter = v1::ContainerStatsFilter { label_selector, ..Default::default() };
    let request = v1::ListContainerStatsRequest { filter: Some(filter) };
    let by = Deadline::within(node.config.timing.request);
    let answer = node.runtime.list_container_stats(request, by).await.map_err(|error| error.to_string())?;
    let one = |stats: v1::ContainerStats| {
        let name = stats.attributes?.metadata?.name;
        Some((name, stats.writable_layer?.used_bytes?.value))
    };
    Ok(answer.stats.into_iter().filter_map(one).collect())
}

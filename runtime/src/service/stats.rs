//! Calls about what is used, read when they are asked for: nothing is measured for nobody.

use std::path::PathBuf;
use std::sync::Arc;

use cri_proto::v1;
use futures::StreamExt;

use super::filter::labels_match;
use crate::Embedded;
use crate::blocking::{blocking, now_ns};
use crate::cgroups::{CgroupError, CgroupPath, MemoryStats, Psi, PsiLine, Stats, SwapStats};
use crate::container::Container;
use crate::core::Core;
use crate::error::{Doing, LifeError};
use crate::sandbox::Sandbox;
use crate::state::facts;
use crate::stats::interfaces::{self, Counters};

/// Groups read at the same time.
const AT_ONCE: usize = 8;

impl Embedded {
    pub(super) async fn stats_of_container(&self, id: String) -> Result<v1::ContainerStatsResponse, LifeError> {
        let container = self.core.container(&id)?;
        Ok(v1::ContainerStatsResponse { stats: Some(container_stats(&self.core, &container).await?) })
    }

    pub(super) async fn stats_of_containers(
        &self,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, LifeError> {
        let filter = filter.unwrap_or_default();
        let wanted = |container: &Arc<Container>| {
            container.running().is_some()
                && container.id.as_str().starts_with(&filter.id)
                && container.sandbox.as_str().starts_with(&filter.pod_sandbox_id)
                && labels_match(&container.config().labels, &filter.label_selector)
        };
        let all = self.core.containers().into_iter().filter(wanted);
        let stats = futures::stream::iter(all).map(|container| self.stats_if_there(container)).buffered(AT_ONCE);
        Ok(stats.filter_map(std::future::ready).collect().await)
    }

    /// One that ends while it is being asked has nothing to tell.
    async fn stats_if_there(&self, container: Arc<Container>) -> Option<v1::ContainerStats> {
        container_stats(&self.core, &container).await.ok()
    }

    pub(super) async fn stats_of_sandbox(&self, id: String) -> Result<v1::PodSandboxStatsResponse, LifeError> {
        let sandbox = self.core.sandbox(&id)?;
        Ok(v1::PodSandboxStatsResponse { stats: Some(sandbox_stats(&self.core, &sandbox).await?) })
    }

    pub(super) async fn stats_of_sandboxes(
        &self,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, LifeError> {
        let filter = filter.unwrap_or_default();
        let wanted = |sandbox: &Arc<Sandbox>| {
            sandbox.phase() == crate::state::records::SandboxPhase::Ready
                && sandbox.id.as_str().starts_with(&filter.id)
                && labels_match(&sandbox.config.labels, &filter.label_selector)
        };
        let all = self.core.sandboxes().into_iter().filter(wanted);
        let stats =
            futures::stream::iter(all).map(|sandbox| async move { sandbox_stats(&self.core, &sandbox).await.ok() });
        Ok(stats.buffered(AT_ONCE).filter_map(std::future::ready).collect().await)
    }
}

async fn container_stats(core: &Arc<Core>, container: &Arc<Container>) -> Result<v1::ContainerStats, LifeError> {
    let doing = || format!("reading what container {} ({}) uses", container.id, container.name);
    let (of_core, path) = (core.clone(), container.record().cgroup);
    let read = blocking(move || read_group(&of_core, &path));
    let (stats, layer) = tokio::join!(read, core.images.snapshot_usage(container.id.as_str()));
    // A container that has ended has no group any more, but its files are still there.
    let stats = stats.unwrap_or_default();
    let layer = layer.doing(doing)?;
    let now = now_ns();
    let config = container.config();
    Ok(v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.to_string(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: cpu(&stats, now),
        memory: memory(&stats, now),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: now,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: core.image_fs.display().to_string() }),
            used_bytes: some(layer.bytes),
            inodes_used: some(layer.inodes),
        }),
        swap: swap(&stats, now),
        io: io(&stats, now),
    })
}

async fn sandbox_stats(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<v1::PodSandboxStats, LifeError> {
    let doing = || format!("reading what sandbox {} of {} uses", sandbox.id, sandbox.name);
    let (of_core, of_task) = (core.clone(), sandbox.clone());
    let (stats, network) = blocking(move || {
        let stats = read_group(&of_core, &of_task.record().cgroup_parent)?;
        Ok((stats, counters(&of_task)))
    })
    .await
    .map_err(|error: CgroupError| LifeError::because(doing(), error))?;
    let running = sandbox.containers().into_iter().filter(|container| container.running().is_some());
    let containers =
        futures::future::join_all(running.map(|container| async move { container_stats(core, &container).await.ok() }));
    let (containers, now) = (containers.await.into_iter().flatten().collect(), now_ns());
    Ok(v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: sandbox.id.to_string(),
            metadata: sandbox.config.metadata.clone(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cpu(&stats, now),
            memory: memory(&stats, now),
            network: network.map(|counters| network_usage(counters, now)),
            process: stats.pids.map(|pids| v1::ProcessUsage { timestamp: now, process_count: some(pids) }),
            containers,
            io: io(&stats, now),
        }),
        windows: None,
    })
}

fn read_group(core: &Core, path: &str) -> Result<Stats, CgroupError> {
    core.cgroups.stats(&CgroupPath::new(path)?)
}

/// The pause is in the pod's network: its view of the interfaces is the pod's. The node's own are not a pod's.
fn counters(sandbox: &Sandbox) -> Option<Vec<Counters>> {
    sandbox.netns()?;
    let pause = facts::process(&sandbox.dir.pause_pid()).ok().flatten()?;
    let text = std::fs::read_to_string(PathBuf::from(format!("/proc/{}/net/dev", pause.pid))).ok()?;
    Some(interfaces::parse(&text))
}

fn network_usage(counters: Vec<Counters>, now: i64) -> v1::NetworkUsage {
    let usage = |counters: Counters| v1::NetworkInterfaceUsage {
        name: counters.name,
        rx_bytes: some(counters.rx_bytes),
        rx_errors: some(counters.rx_errors),
        tx_bytes: some(counters.tx_bytes),
        tx_errors: some(counters.tx_errors),
    };
    let (own, others): (Vec<_>, Vec<_>) = counters.into_iter().partition(|one| one.name == cni::POD_INTERFACE);
    v1::NetworkUsage {
        timestamp: now,
        default_interface: own.into_iter().next().map(usage),
        interfaces: others.into_iter().map(usage).collect(),
    }
}

fn some(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(stats: &Stats, timestamp: i64) -> Option<v1::CpuUsage> {
    let used = stats.cpu_usage_ns?;
    Some(v1::CpuUsage {
        timestamp,
        usage_core_nano_seconds: some(used),
        // A rate needs two moments; callers have them, we keep none.
        usage_nano_cores: None,
        psi: psi(stats.cpu_pressure),
    })
}

fn memory(stats: &Stats, timestamp: i64) -> Option<v1::MemoryUsage> {
    let memory: MemoryStats = stats.memory?;
    Some(v1::MemoryUsage {
        timestamp,
        working_set_bytes: some(memory.working_set),
        available_bytes: memory.available().and_then(some),
        usage_bytes: some(memory.usage),
        rss_bytes: some(memory.rss),
        page_faults: some(memory.page_faults),
        major_page_faults: some(memory.major_page_faults),
        psi: psi(stats.memory_pressure),
    })
}

fn swap(stats: &Stats, timestamp: i64) -> Option<v1::SwapUsage> {
    let swap: SwapStats = stats.swap?;
    let available = swap.limit.map(|limit| limit.saturating_sub(swap.usage));
    Some(v1::SwapUsage {
        timestamp,
        swap_available_bytes: available.and_then(some),
        swap_usage_bytes: some(swap.usage),
    })
}

fn io(stats: &Stats, timestamp: i64) -> Option<v1::IoUsage> {
    psi(stats.io_pressure).map(|psi| v1::IoUsage { timestamp, psi: Some(psi) })
}

fn psi(pressure: Option<Psi>) -> Option<v1::PsiStats> {
    let line =
        |line: PsiLine| v1::PsiData { total: line.total, avg10: line.avg10, avg60: line.avg60, avg300: line.avg300 };
    pressure.map(|psi| v1::PsiStats { full: Some(line(psi.full)), some: Some(line(psi.some)) })
}

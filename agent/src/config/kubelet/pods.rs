//! What pods get and may do, and where static ones come from.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::LogRotation;
use super::checks::{Checks, path};
use super::file::File;
use crate::container::sysctls;
use crate::quantity::Amount;

/// Limits and habits of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    /// `maxPods`, before `podsPerCore` is looked at.
    pub max: u64,
    /// `podsPerCore`: so many for each cpu, if that is fewer.
    pub per_core: Option<u64>,
    /// `podPidsLimit`; `None` for as many as the node has.
    pub pids_limit: Option<u64>,
    /// `allowedUnsafeSysctls`.
    pub unsafe_sysctls: Vec<String>,
    /// `crashLoopBackOff.maxContainerRestartPeriod`.
    pub longest_back_off: Duration,
    /// `containerLogMaxSize`, `containerLogMaxFiles`, `containerLogMonitorInterval`.
    pub logs: LogRotation,
    /// `podLogsDir`.
    pub logs_dir: PathBuf,
    /// `cgroupRoot`; `/` where it is not set.
    pub cgroup_root: String,
    /// `cpuCFSQuota`: cpu limits are enforced.
    pub cpu_quota: bool,
    /// `cpuCFSQuotaPeriod`.
    pub cpu_quota_period: Duration,
    /// `seccompDefault`: containers that name no seccomp profile get the runtime's.
    pub seccomp_default: bool,
    /// `localStorageCapacityIsolation`.
    pub local_storage_isolation: bool,
}

impl Pods {
    /// How many pods a node with so many cpus takes.
    pub fn most(&self, cpus: u64) -> u64 {
        self.per_core.map_or(self.max, |each| self.max.min(each.saturating_mul(cpus)))
    }
}

/// What pods resolve names with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDns {
    /// `clusterDomain`; empty for none.
    pub domain: String,
    /// `clusterDNS`.
    pub servers: Vec<IpAddr>,
    /// `resolvConf`: the node's own resolver; `None` when it is set to nothing.
    pub resolv_conf: Option<PathBuf>,
}

/// Where static pods come from. Headers may hold secrets, so that they are not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticPods {
    /// `staticPodPath`.
    pub path: Option<PathBuf>,
    /// `staticPodURL`.
    pub url: Option<String>,
    /// `staticPodURLHeader`, each `NAME:VALUE`.
    pub headers: Vec<String>,
    /// `fileCheckFrequency`.
    pub file_check: Duration,
    /// `httpCheckFrequency`.
    pub http_check: Duration,
}

impl std::fmt::Debug for StaticPods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, url, headers, .. } = self;
        let headers = headers.len();
        f.debug_struct("StaticPods").field("path", path).field("url", url).field("headers", &headers).finish()
    }
}

pub(super) fn pods(file: &File, checks: &mut Checks) -> Pods {
    let any = (0, i64::from(i32::MAX));
    let per_core: u64 = checks.number("podsPerCore", file.pods_per_core, any);
    let back_off = file.crash_loop_back_off.clone().unwrap_or_default().max_container_restart_period;
    let back_off = checks.time("crashLoopBackOff.maxContainerRestartPeriod", back_off);
    if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&back_off) {
        checks.say("crashLoopBackOff.maxContainerRestartPeriod", "must be between 1s and 300s");
    }
    let unsafe_sysctls = file.allowed_unsafe_sysctls.clone().unwrap_or_default();
    for (index, problem) in unsafe_sysctls.iter().map(|pattern| sysctls::check_pattern(pattern)).enumerate() {
        if let Err(problem) = problem {
            checks.say(&format!("allowedUnsafeSysctls[{index}]"), problem);
        }
    }
    let period = checks.time("cpuCFSQuotaPeriod", file.cpu_cfs_quota_period);
    if !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) {
        checks.say("cpuCFSQuotaPeriod", "must be between 1ms and 1s");
    }
    if file.run_once == Some(true) {
        checks.say("runOnce", "is gone; `longshore run` runs pods of manifests without a cluster");
    }
    Pods {
        max: checks.number("maxPods", file.max_pods, (1, any.1)),
        per_core: (per_core > 0).then_some(per_core),
        pids_limit: u64::try_from(file.pod_pids_limit.unwrap_or(-1)).ok(),
        unsafe_sysctls,
        longest_back_off: back_off,
        logs: logs(file, checks),
        logs_dir: logs_dir(file, checks),
        cgroup_root: file.cgroup_root.clone().filter(|root| !root.is_empty()).unwrap_or_else(|| "/".to_owned()),
        cpu_quota: file.cpu_cfs_quota == Some(true),
        cpu_quota_period: period,
        seccomp_default: file.seccomp_default == Some(true),
        local_storage_isolation: file.local_storage_capacity_isolation == Some(true),
    }
}

fn logs(file: &File, checks: &mut Checks) -> LogRotation {
    let size = file.container_log_max_size.as_deref().unwrap_or_default();
    let max_size = match Amount::parse(size) {
        Ok(amount) if amount == Amount::ZERO => {
            checks.say("containerLogMaxSize", "must be more than nothing; a negative size turns rotation off");
            None
        }
        Ok(amount) => (!amount.is_negative()).then(|| amount.ceil_units()),
        Err(error) => {
            checks.say("containerLogMaxSize", error.to_string());
            None
        }
    };
    let every = checks.time("containerLogMonitorInterval", file.container_log_monitor_interval);
    if every < Duration::from_secs(3) {
        checks.say("containerLogMonitorInterval", "must be at least 3s");
    }
    LogRotation {
        max_size,
        max_files: checks.number("containerLogMaxFiles", file.container_log_max_files, (2, i64::from(i32::MAX))),
        every,
    }
}

fn logs_dir(file: &File, checks: &mut Checks) -> PathBuf {
    let dir = path(file.pod_logs_dir.as_ref()).unwrap_or_default();
    if !dir.is_absolute() || dir.components().any(|part| part == std::path::Component::ParentDir) {
        checks.say("podLogsDir", format!("{} must be an absolute path without '..'", dir.display()));
    }
    dir
}

pub(super) fn dns(file: &File, checks: &mut Checks) -> ClusterDns {
    let servers = file.cluster_dns.iter().flatten().enumerate();
    let servers = servers.filter_map(|(index, text)| checks.address(&format!("clusterDNS[{index}]"), text)).collect();
    ClusterDns {
        domain: file.cluster_domain.clone().unwrap_or_default(),
        servers,
        resolv_conf: path(file.resolv_conf.as_ref()),
    }
}

pub(super) fn static_pods(file: &File, checks: &mut Checks) -> StaticPods {
    let url = file.static_pod_url.clone().filter(|url| !url.is_empty());
    if url.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        checks.say("staticPodURL", "must begin with http:// or https://");
    }
    let headers = file.static_pod_url_header.iter().flatten();
    let headers = headers.flat_map(|(name, values)| values.iter().map(move |value| format!("{name}:{value}")));
    let path = path(file.static_pod_path.as_ref());
    if let Some(path) = path.as_deref().filter(|path| *path == Path::new("/")) {
        checks.say("staticPodPath", format!("{} cannot be a folder of manifests", path.display()));
    }
    StaticPods {
        path,
        url,
        headers: headers.collect(),
        file_check: checks.time("fileCheckFrequency", file.file_check_frequency),
        http_check: checks.time("httpCheckFrequency", file.http_check_frequency),
    }
}

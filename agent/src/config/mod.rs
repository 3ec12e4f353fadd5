//! The one checked configuration: paths, addresses and limits, all of them set before anything else starts.
//!
//! [`kubelet`] is what a node of a cluster is told in the kubelet's own words.

pub mod kubelet;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use self::kubelet::Eviction;
use crate::container::sysctls;

/// What the rest of the agent reads; every value has been checked by [`Draft::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's name: lower case, as pods see it in `spec.nodeName`.
    pub node_name: String,
    /// Where things are kept.
    pub dirs: Dirs,
    /// The pod network.
    pub network: Network,
    /// What pods get to resolve names with.
    pub dns: Dns,
    /// The cgroup below which `kubepods` is made, such as `/` or `/longshore-2`. Begins with a slash.
    pub cgroup_root: String,
    /// Waits and limits.
    pub timing: Timing,
    /// How many images are pulled at the same time.
    pub parallel_pulls: usize,
    /// How many pods this node takes.
    pub max_pods: u64,
    /// When and how far containers' logs are rotated.
    pub logs: LogRotation,
    /// Sysctls beside the safe ones that pods may set; patterns may end in `*`.
    pub allowed_sysctls: Vec<String>,
    /// When the node is short of something, so that pods have to go.
    pub eviction: Eviction,
    /// When images that nobody uses are removed.
    pub images: kubelet::Images,
}

/// When a container's log is rotated, and how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// From this size on; `None` for never.
    pub max_size: Option<u64>,
    /// How many files of one container instance there are at most, with the one that is written: two at least.
    pub max_files: usize,
    /// How often sizes are looked at.
    pub every: Duration,
}

impl Default for LogRotation {
    /// The kubelet's.
    fn default() -> Self {
        Self { max_size: Some(10 << 20), max_files: 5, every: Duration::from_secs(10) }
    }
}

/// Directories; absolute, and none inside a pod's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// State of the agent and of the embedded runtime.
    pub root: PathBuf,
    /// The kubelet's root: `pods/<uid>` lies below it.
    pub kubelet: PathBuf,
    /// Sockets, locks and everything that need not outlive a reboot.
    pub run: PathBuf,
    /// Pod logs: `<namespace>_<name>_<uid>/<container>/<n>.log`.
    pub logs: PathBuf,
    /// Where the legacy `<pod>_<namespace>_<container>-<id>.log` links go, if anywhere.
    pub log_links: Option<PathBuf>,
}

impl Dirs {
    /// The directories of all pods.
    pub fn pods(&self) -> PathBuf {
        self.kubelet.join("pods")
    }

    /// Localhost seccomp profiles.
    pub fn seccomp(&self) -> PathBuf {
        self.kubelet.join("seccomp")
    }

    /// The file that says which process owns these directories.
    pub fn lock(&self) -> PathBuf {
        self.run.join("agent.lock")
    }
}

/// The pod network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The bridge's name, at most 15 bytes.
    pub bridge: String,
    /// Where pod addresses come from.
    pub pod_cidr: IpNet,
    /// The node's own addresses, primary first; what `status.hostIPs` shows.
    pub node_ips: Vec<IpAddr>,
}

/// What pods get to resolve names with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// `cluster.local`, or empty for none.
    pub cluster_domain: String,
    /// The cluster's name servers; empty on a node of its own.
    pub cluster_dns: Vec<IpAddr>,
    /// The node's own resolver configuration; `None` when pods get none of it.
    pub resolv_conf: Option<PathBuf>,
    /// The node's own hosts file.
    pub hosts: PathBuf,
    /// The node is part of a cluster: pods that miss its name servers are told so.
    pub in_cluster: bool,
}

/// Waits and limits. The defaults are the kubelet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// First restart delay of a crashing container.
    pub crash_first: Duration,
    /// Longest restart delay of a crashing container.
    pub crash_max: Duration,
    /// First delay after a failed pull.
    pub pull_first: Duration,
    /// Longest delay after a failed pull.
    pub pull_max: Duration,
    /// Delay after any other failed step; up to half of it is added at random.
    pub retry: Duration,
    /// How soon a resize that was put off is looked at again, although no pod has given anything back.
    pub reconsider: Duration,
    /// How often a pod is listed anew although nothing was heard of it: it repairs lost events.
    pub relist: Duration,
    /// How long the runtime may take for an ordinary call.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            crash_first: Duration::from_secs(10),
            crash_max: Duration::from_secs(300),
            pull_first: Duration::from_secs(10),
            pull_max: Duration::from_secs(300),
            retry: Duration::from_secs(10),
            reconsider: Duration::from_secs(10),
            relist: Duration::from_secs(10),
            request: Duration::from_secs(120),
        }
    }
}

/// A configuration as flags and files give it, before it is checked.
#[derive(Clone, Debug)]
pub struct Draft {
    /// See [`Config::node_name`]; the host's name when empty.
    pub node_name: String,
    /// See [`Dirs::root`].
    pub root: PathBuf,
    /// See [`Dirs::kubelet`]; `<root>/kubelet` when unset.
    pub kubelet: Option<PathBuf>,
    /// See [`Dirs::run`].
    pub run: PathBuf,
    /// See [`Dirs::logs`].
    pub logs: PathBuf,
    /// See [`Dirs::log_links`].
    pub log_links: Option<PathBuf>,
    /// See [`Network::bridge`].
    pub bridge: String,
    /// See [`Network::pod_cidr`].
    pub pod_cidr: String,
    /// See [`Network::node_ips`].
    pub node_ips: Vec<IpAddr>,
    /// See [`Dns::cluster_domain`].
    pub cluster_domain: String,
    /// See [`Dns::cluster_dns`].
    pub cluster_dns: Vec<IpAddr>,
    /// See [`Dns::resolv_conf`].
    pub resolv_conf: Option<PathBuf>,
    /// See [`Config::cgroup_root`].
    pub cgroup_root: String,
    /// See [`Timing::crash_max`]: 1 s to 300 s. Below 10 s it is the first delay as well.
    pub crash_max: Duration,
    /// See [`Config::parallel_pulls`].
    pub parallel_pulls: usize,
    /// See [`Config::max_pods`].
    pub max_pods: u64,
    /// See [`Config::logs`].
    pub log_rotation: LogRotation,
    /// See [`Config::allowed_sysctls`].
    pub allowed_sysctls: Vec<String>,
    /// See [`Config::eviction`].
    pub eviction: Eviction,
    /// See [`Config::images`].
    pub images: kubelet::Images,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            node_name: String::new(),
            root: "/var/lib/longshore".into(),
            kubelet: None,
            run: "/run/longshore".into(),
            logs: "/var/log/pods".into(),
            log_links: None,
            bridge: "longshore0".into(),
            pod_cidr: "10.88.0.0/16".into(),
            node_ips: Vec::new(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            cgroup_root: "/".into(),
            crash_max: Duration::from_secs(300),
            parallel_pulls: 4,
            max_pods: 110,
            log_rotation: LogRotation::default(),
            allowed_sysctls: Vec::new(),
            eviction: Eviction::default(),
            images: kubelet::Images::KEPT,
        }
    }
}

/// One thing that is wrong with a [`Draft`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct BadSetting {
    /// The field of [`Draft`].
    pub setting: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl Draft {
    /// The configuration, or everything that is wrong with it.
    ///
    /// # Errors
    /// Every bad setting, not just the first.
    pub fn check(self) -> Result<Config, Vec<BadSetting>> {
        let mut bad = Vec::new();
        let pod_cidr = self.pod_cidr.parse::<IpNet>();
        self.complain(&mut bad);
        match pod_cidr {
            Ok(pod_cidr @ IpNet::V4(_)) if bad.is_empty() => Ok(self.into_config(pod_cidr)),
            Ok(IpNet::V4(_)) => Err(bad),
            Ok(IpNet::V6(_)) => {
                let problem =
                    format!("{:?} is no IPv4 network; the pod bridge needs one, such as 10.88.0.0/16", self.pod_cidr);
                bad.push(BadSetting { setting: "pod_cidr", problem });
                Err(bad)
            }
            Err(_) => {
                let problem = format!("{:?} is no network; 10.88.0.0/16 is one", self.pod_cidr);
                bad.push(BadSetting { setting: "pod_cidr", problem });
                Err(bad)
            }
        }
    }

    fn complain(&self, bad: &mut Vec<BadSetting>) {
        let mut say = |setting, problem: String| bad.push(BadSetting { setting, problem });
        if !is_subdomain(&self.node_name) {
            say("node_name", format!("{:?} is no node name: lower-case letters, digits, '-' and '.'", self.node_name));
        }
        for (setting, dir) in [("root", &self.root), ("run", &self.run), ("logs", &self.logs)] {
            if !is_plain_absolute(dir) {
                say(setting, format!("{} must be an absolute path without '..'", dir.display()));
            }
        }
        if let Some(dir) = self.kubelet.as_ref().filter(|dir| !is_plain_absolute(dir)) {
            say("kubelet", format!("{} must be an absolute path without '..'", dir.display()));
        }
        // IFNAMSIZ is 16 with its final zero.
        if self.bridge.is_empty() || self.bridge.len() > 15 || self.bridge.contains(['/', ' ', ':']) {
            say("bridge", format!("{:?} is no name for a link: 1 to 15 bytes without '/', ':' or spaces", self.bridge));
        }
        if !self.cluster_domain.is_empty() && !is_subdomain(&self.cluster_domain) {
            say("cluster_domain", format!("{:?} is no domain name", self.cluster_domain));
        }
        if !is_plain_absolute(Path::new(&self.cgroup_root)) {
            say("cgroup_root", format!("{:?} must begin with '/' and have no '..'", self.cgroup_root));
        }
        if !(1..=300).contains(&self.crash_max.as_secs()) {
            say("crash_max", format!("{} s is not between 1 s and 300 s", self.crash_max.as_secs()));
        }
        for problem in self.allowed_sysctls.iter().filter_map(|pattern| sysctls::check_pattern(pattern).err()) {
            say("allowed_sysctls", problem);
        }
        if self.parallel_pulls == 0 {
            say("parallel_pulls", "at least one image must be pulled at a time".to_owned());
        }
        if self.max_pods == 0 {
            say("max_pods", "a node that takes no pod is of no use".to_owned());
        }
        if self.log_rotation.max_files < 2 {
            say(
                "container_log_max_files",
                "there must be room for the log that is written and one before it: 2".to_owned(),
            );
        }
    }

    fn into_config(self, pod_cidr: IpNet) -> Config {
        let defaults = Timing::default();
        Config {
            node_name: self.node_name,
            dirs: Dirs {
                kubelet: self.kubelet.unwrap_or_else(|| self.root.join("kubelet")),
                root: self.root,
                run: self.run,
                logs: self.logs,
                log_links: self.log_links,
            },
            network: Network { bridge: self.bridge, pod_cidr, node_ips: self.node_ips },
            dns: Dns {
                cluster_domain: self.cluster_domain,
                cluster_dns: self.cluster_dns,
                resolv_conf: self.resolv_conf,
                hosts: "/etc/hosts".into(),
                in_cluster: false,
            },
            cgroup_root: self.cgroup_root,
            timing: Timing {
                crash_first: defaults.crash_first.min(self.crash_max),
                crash_max: self.crash_max,
                ..defaults
            },
            parallel_pulls: self.parallel_pulls,
            max_pods: self.max_pods,
            logs: self.log_rotation,
            allowed_sysctls: self.allowed_sysctls,
            eviction: self.eviction,
            images: self.images,
        }
    }
}

fn is_plain_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| part == std::path::Component::ParentDir)
}

fn is_subdomain(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_need_only_a_node_name() {
        let config = Draft { node_name: "n1".into(), ..Draft::default() }.check().unwrap();
        assert_eq!(config.dirs.pods(), Path::new("/var/lib/longshore/kubelet/pods"));
        assert_eq!(config.timing, Timing::default());
    }

    #[test]
    fn every_bad_setting_is_named_at_once() {
        let draft = Draft {
            root: "relative".into(),
            bridge: "a-name-that-is-too-long".into(),
            pod_cidr: "10.88.0.0".into(),
            crash_max: Duration::ZERO,
            ..Draft::default()
        };
        let named: Vec<_> = draft.check().unwrap_err().into_iter().map(|bad| bad.setting).collect();
        assert_eq!(named, ["node_name", "root", "bridge", "crash_max", "pod_cidr"]);
    }

    #[test]
    fn a_small_maximum_lowers_the_first_delay() {
        let draft = Draft { node_name: "n1".into(), crash_max: Duration::from_secs(2), ..Draft::default() };
        assert_eq!(draft.check().unwrap().timing.crash_first, Duration::from_secs(2));
    }
}

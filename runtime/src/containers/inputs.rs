//! The values a spec is made of that come from neither the CRI nor the machine.

use std::path::PathBuf;

/// What an image's configuration says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Program and leading arguments, used when the container names no command.
    pub entrypoint: Vec<String>,
    /// Arguments (or the whole command), used when the container names neither command nor arguments.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// Name or number of the signal that asks the container to stop; empty means SIGTERM.
    pub stop_signal: String,
}

impl From<&oci_spec::image::Config> for ImageDefaults {
    fn from(config: &oci_spec::image::Config) -> Self {
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().clone().unwrap_or_default(),
        }
    }
}

/// Who the container's process is, already looked up in the image's files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, all of them (the primary one included where it belongs there).
    pub groups: Vec<u32>,
}

/// What the container takes from its sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxFacts {
    /// Namespaces that the sandbox holds.
    pub namespaces: SandboxNamespaces,
    /// Pid of the process whose pid namespace is to be joined, for the namespace mode TARGET.
    pub target_pid: Option<i32>,
    /// The sandbox's hostname, or the node's for a pod on the host network: the value of `HOSTNAME`.
    pub hostname: String,
    /// Mounted at `/etc/resolv.conf` unless the container mounts its own.
    pub resolv_conf: Option<PathBuf>,
    /// Mounted at `/etc/hostname` unless the container mounts its own.
    pub hostname_file: Option<PathBuf>,
    /// Mounted at `/etc/hosts` unless the container mounts its own (the kubelet always does).
    pub hosts_file: Option<PathBuf>,
    /// The sandbox's shared memory directory, mounted at `/dev/shm` unless IPC is the node's.
    pub shm: Option<PathBuf>,
}

/// Paths of the namespaces a sandbox holds; `None` where the pod uses the node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxNamespaces {
    /// Network.
    pub network: Option<PathBuf>,
    /// System V IPC and POSIX message queues.
    pub ipc: Option<PathBuf>,
    /// Hostname.
    pub uts: Option<PathBuf>,
    /// Process ids, where the pod shares them.
    pub pid: Option<PathBuf>,
    /// Users, where the pod has ids of its own.
    pub user: Option<UserIds>,
}

/// A pod's user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// Where it is.
    pub path: PathBuf,
    /// What user 0 inside is on the host.
    pub uid: u32,
    /// What group 0 inside is on the host.
    pub gid: u32,
    /// How many there are of each.
    pub length: u32,
}

impl SandboxNamespaces {
    /// The namespaces of a pause process that owns one of each kind but of users.
    pub fn of_process(pid: i32) -> Self {
        let path = |kind: &str| Some(PathBuf::from(format!("/proc/{pid}/ns/{kind}")));
        Self { network: path("net"), ipc: path("ipc"), uts: path("uts"), pid: path("pid"), user: None }
    }
}

//! What a caller wants of a sandbox, checked before anything is made; and the pause that follows from it.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::PathBuf;

use cri_proto::{Kind, v1};
use shim::plan::{JoinNamespace, Launch, User};

use super::handle::namespace_options;
use super::users::{self, Ids};
use super::{SandboxName, network};
use crate::cgroups::CgroupPath;
use crate::error::{Doing, LifeError};

/// `runtimeHandler` values that mean this runtime.
pub(crate) const HANDLERS: [&str; 3] = ["", "longshore", "embedded"];

/// `sethostname(2)` takes no more.
const LONGEST_HOSTNAME: usize = 64;

/// Nobody, as the image of the usual pause has it: it needs no rights at all.
const PAUSE_USER: u32 = 65535;

/// A sandbox that can be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    /// Whose attempt it is.
    pub name: SandboxName,
    /// What it is to be.
    pub config: v1::PodSandboxConfig,
    /// The handler that was asked for.
    pub handler: String,
    /// Empty when the caller leaves the group to us.
    pub cgroup_parent: String,
    /// Written in its namespaces.
    pub sysctls: Vec<(PathBuf, Vec<u8>)>,
    /// Which namespaces are its own.
    pub own: OwnNamespaces,
    /// The ids of its user namespace, where it has one.
    pub users: Option<Ids>,
}

/// Namespaces that a sandbox does not share with the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnNamespaces {
    /// Network, and with it the hostname.
    pub network: bool,
    /// System V IPC and POSIX message queues, and with it `/dev/shm`.
    pub ipc: bool,
    /// Process ids, one for all containers.
    pub pid: bool,
}

impl Wish {
    /// Checks a request.
    ///
    /// # Errors
    /// `InvalidArgument` with what is wrong.
    pub(crate) fn check(request: v1::RunPodSandboxRequest) -> Result<Self, LifeError> {
        let bad = |why: String| LifeError::new(Kind::InvalidArgument, why);
        let config = request.config.ok_or_else(|| bad("the request holds no sandbox configuration".into()))?;
        let metadata = config.metadata.as_ref().ok_or_else(|| bad("the sandbox has no metadata".into()))?;
        let name = SandboxName::of(metadata);
        if metadata.name.is_empty() || metadata.uid.is_empty() || metadata.namespace.is_empty() {
            return Err(bad(format!("sandbox {name}: name, namespace and uid must not be empty")));
        }
        if !HANDLERS.contains(&request.runtime_handler.as_str()) {
            let handler = request.runtime_handler;
            return Err(bad(format!("sandbox {name}: there is no runtime handler {handler:?} here")));
        }
        if config.hostname.len() > LONGEST_HOSTNAME || config.hostname.contains('\0') {
            return Err(bad(format!("sandbox {name}: a hostname has at most {LONGEST_HOSTNAME} characters")));
        }
        let own = own_namespaces(&config).map_err(|why| bad(format!("sandbox {name}: {why}")))?;
        let users = users::ids(&namespace_options(&config)).map_err(|why| bad(format!("sandbox {name}: {why}")))?;
        network::host_ports(&config.port_mappings).doing(|| format!("sandbox {name}"))?;
        let linux = config.linux.clone().unwrap_or_default();
        let sysctls = sysctls(&linux.sysctls, own).map_err(|why| bad(format!("sandbox {name}: {why}")))?;
        let cgroup_parent = match linux.cgroup_parent.as_str() {
            "" => String::new(),
            path => CgroupPath::new(path).map_err(|error| bad(format!("sandbox {name}: {error}")))?.to_string(),
        };
        Ok(Self { name, handler: request.runtime_handler, cgroup_parent, sysctls, own, users, config })
    }

    /// What the shim starts as the pause.
    pub(crate) fn pause(&self, netns: Option<PathBuf>, cgroups: Vec<PathBuf>, oom_score_adj: i32) -> Launch {
        let join = netns.map(|path| JoinNamespace { kind: flag(libc::CLONE_NEWNET), path });
        let (ipc, pid) = (flag(libc::CLONE_NEWIPC), flag(libc::CLONE_NEWPID));
        let uts = flag(libc::CLONE_NEWUTS);
        let create = [(self.own.ipc, ipc), (self.own.network, uts), (self.own.pid, pid)];
        Launch {
            cgroups,
            oom_score_adj: Some(oom_score_adj),
            join: join.into_iter().collect(),
            create: create.into_iter().filter_map(|(own, flag)| own.then_some(flag)).fold(0, |all, flag| all | flag),
            hostname: self.hostname(),
            sysctls: self.sysctls.clone(),
            user: User { uid: PAUSE_USER, gid: PAUSE_USER, ..User::default() },
            no_new_privileges: true,
            cwd: c"/".to_owned(),
            ..Launch::default()
        }
    }

    /// A pod on the node's network keeps the node's name.
    fn hostname(&self) -> Option<CString> {
        let named = self.own.network && !self.config.hostname.is_empty();
        named.then(|| CString::new(self.config.hostname.as_str()).ok()).flatten()
    }
}

/// `CLONE_NEW*` are small positive numbers that libc calls signed.
fn flag(clone: libc::c_int) -> u64 {
    u64::from(clone.unsigned_abs())
}

fn own_namespaces(config: &v1::PodSandboxConfig) -> Result<OwnNamespaces, String> {
    let options = namespace_options(config);
    let pod_or_node = |mode: v1::NamespaceMode, what: &str| match mode {
        v1::NamespaceMode::Pod => Ok(true),
        v1::NamespaceMode::Node => Ok(false),
        _ => Err(format!("a sandbox's {what} namespace is POD or NODE")),
    };
    Ok(OwnNamespaces {
        network: pod_or_node(options.network(), "network")?,
        ipc: pod_or_node(options.ipc(), "IPC")?,
        pid: options.pid() == v1::NamespaceMode::Pod,
    })
}

/// Only what a namespace of the sandbox's own keeps apart from the node may be set.
fn sysctls(wanted: &HashMap<String, String>, own: OwnNamespaces) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let mut sorted: Vec<_> = wanted.iter().collect();
    sorted.sort();
    sorted.into_iter().map(|(name, value)| sysctl(name, value, own)).collect()
}

fn sysctl(name: &str, value: &str, own: OwnNamespaces) -> Result<(PathBuf, Vec<u8>), String> {
    const OF_IPC: [&str; 4] = ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"];
    let path = name.replace('.', "/");
    let apart = match () {
        () if path.starts_with("net/") => own.network,
        () if OF_IPC.iter().any(|start| path.starts_with(start)) => own.ipc,
        () => return Err(format!("sysctl {name} belongs to the whole node")),
    };
    if !apart {
        return Err(format!("sysctl {name} would change the node's, whose namespace the pod shares"));
    }
    let clean = path
        .split('/')
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
    if clean {
        Ok((path.into(), value.as_bytes().to_vec()))
    } else {
        Err(format!("{name:?} is not the name of a sysctl"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<Wish, LifeError> {
        let metadata =
            v1::PodSandboxMetadata { name: "web".into(), uid: "u".into(), namespace: "default".into(), attempt: 0 };
        let mut config =
            v1::PodSandboxConfig { metadata: Some(metadata), hostname: "web".into(), ..Default::default() };
        change(&mut config);
        Wish::check(v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() })
    }

    fn with_options(config: &mut v1::PodSandboxConfig, options: v1::NamespaceOption) {
        let security = v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        config.linux = Some(v1::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    }

    #[test]
    fn a_plain_pod_gets_network_ipc_and_name_of_its_own() {
        let options = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
        let pause = request(|config| with_options(config, options)).unwrap().pause(Some("/net".into()), vec![], -998);
        assert_eq!(pause.create, flag(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS));
        assert_eq!((pause.join.len(), pause.hostname), (1, Some(c"web".to_owned())));
    }

    #[test]
    fn a_pod_on_the_nodes_network_keeps_the_nodes_name() {
        let options = v1::NamespaceOption {
            network: v1::NamespaceMode::Node.into(),
            ipc: v1::NamespaceMode::Node.into(),
            pid: v1::NamespaceMode::Node.into(),
            ..Default::default()
        };
        let pause = request(|config| with_options(config, options)).unwrap().pause(None, vec![], 0);
        assert_eq!((pause.create, pause.join.len(), pause.hostname), (0, 0, None));
    }

    #[test]
    fn only_sysctls_that_stay_in_the_pod_are_set() {
        let own = OwnNamespaces { network: true, ipc: false, pid: false };
        assert_eq!(sysctl("net.ipv4.tcp_syncookies", "1", own), Ok(("net/ipv4/tcp_syncookies".into(), b"1".to_vec())));
        for bad in
            ["kernel.shmmax", "vm.swappiness", "kernel.core_pattern", "net.../etc/passwd", "net./x", "net/../vm/x"]
        {
            assert!(sysctl(bad, "1", own).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused_before_anything_is_made() {
        assert!(request(|_| ()).is_ok());
        let refused = [
            request(|config| config.metadata = None),
            request(|config| config.hostname = "x".repeat(65)),
            request(|config| config.metadata.as_mut().unwrap().uid.clear()),
            request(|config| {
                with_options(config, v1::NamespaceOption::default());
                config.linux.as_mut().unwrap().cgroup_parent = "../x".into();
            }),
            request(|config| {
                // No ids at all.
                let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), ..Default::default() };
                with_options(config, v1::NamespaceOption { userns_options: Some(users), ..Default::default() });
            }),
        ];
        for wish in refused {
            assert_eq!(wish.unwrap_err().kind(), Kind::InvalidArgument);
        }
    }
}

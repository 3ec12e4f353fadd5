//! An OCI spec as what a shim carries out: every flag a number, every set a mask.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType as Kind, PosixRlimitType, Process, Spec,
};
use shim::plan;

use super::capabilities;
use super::seccomp::{Programs, SeccompError};
use crate::cgroups::CgroupBind;

mod options;

/// What a launch needs to know besides the spec.
#[derive(Clone, Debug)]
pub struct LaunchFacts<'a> {
    /// Files a process is written to so that it enters the container's cgroup, in every hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// The container's groups as it is shown them on cgroup v1; empty on v2.
    pub cgroup_binds: Vec<CgroupBind>,
    /// Compiled seccomp filters.
    pub programs: &'a Programs,
}

/// A process to start beside a container's init.
#[derive(Clone, Copy, Debug)]
pub struct ExecRequest<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// A terminal of this many columns and rows (0, 0: not known) instead of pipes.
    pub terminal: Option<(u16, u16)>,
}

/// A spec that cannot be turned into a launch.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A part every container has is missing.
    #[error("the spec has no {0}")]
    Missing(&'static str),
    /// A text with a NUL byte in it.
    #[error("{0} holds a NUL byte")]
    NulByte(&'static str),
    /// A namespace of a kind that only a later kernel or another runtime knows.
    #[error("namespaces of the kind {0} are not supported by this runtime")]
    Namespace(Kind),
    /// A mount option that means something to others and nothing to us.
    #[error("mount at {target}: option {option:?} is not supported by this runtime")]
    MountOption {
        /// Where.
        target: PathBuf,
        /// Which.
        option: String,
    },
    /// A device number that does not fit.
    #[error("device {0} has numbers out of range")]
    Device(PathBuf),
    /// A seccomp profile that cannot be compiled.
    #[error("compiling the seccomp profile")]
    Seccomp(#[from] SeccompError),
}

/// The launch of a container's init.
///
/// # Errors
/// [`LaunchError`].
pub fn container(spec: &Spec, facts: &LaunchFacts<'_>) -> Result<plan::Launch, LaunchError> {
    let (process, linux) = parts(spec)?;
    let mut launch = common(process, linux, facts)?;
    for namespace in linux.namespaces().iter().flatten() {
        match namespace.path() {
            Some(path) if namespace.typ() == Kind::User => launch.users = Some(users(linux, path.clone())?),
            Some(path) => launch.join.push(plan::JoinNamespace { kind: flag(namespace.typ())?, path: path.clone() }),
            None => launch.create |= flag(namespace.typ())?,
        }
    }
    launch.hostname = spec.hostname().as_deref().map(|name| c_string(name, "the hostname")).transpose()?;
    launch.sysctls = sysctls(linux);
    launch.args = c_strings(process.args().iter().flatten(), "the command")?;
    launch.terminal = process.terminal().unwrap_or(false).then(|| console(process));
    launch.root = Some(root(spec, linux, facts)?);
    Ok(launch)
}

/// What every process beside the init of pid `init` has alike: as confined as the init, and in its namespaces.
///
/// # Errors
/// [`LaunchError`].
pub fn beside(spec: &Spec, init: i32, facts: &LaunchFacts<'_>) -> Result<plan::Launch, LaunchError> {
    let (process, linux) = parts(spec)?;
    let mut launch = common(process, linux, facts)?;
    let kinds: Vec<Kind> = linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
    if kinds.contains(&Kind::User) {
        launch.users = Some(users(linux, PathBuf::from(format!("/proc/{init}/ns/user")))?);
    }
    // The mount namespace comes last: the others are found through the host's procfs.
    for (kind, name) in EXEC_ORDER.iter().filter(|(kind, _)| kinds.contains(kind)) {
        let path = PathBuf::from(format!("/proc/{init}/ns/{name}"));
        launch.join.push(plan::JoinNamespace { kind: flag(*kind)?, path });
    }
    Ok(launch)
}

/// The launch of one process, of what all of its container have alike.
///
/// # Errors
/// [`LaunchError`].
pub fn exec(alike: &plan::Launch, request: &ExecRequest<'_>) -> Result<plan::Launch, LaunchError> {
    if request.command.first().is_none_or(String::is_empty) {
        return Err(LaunchError::Missing("command"));
    }
    let mut launch = alike.clone();
    launch.args = c_strings(request.command.iter(), "the command")?;
    launch.terminal = request.terminal;
    if request.terminal.is_some() && !launch.env.iter().any(|variable| variable.as_bytes().starts_with(b"TERM=")) {
        launch.env.push(c"TERM=xterm".to_owned());
    }
    Ok(launch)
}

const EXEC_ORDER: [(Kind, &str); 6] = [
    (Kind::Ipc, "ipc"),
    (Kind::Uts, "uts"),
    (Kind::Network, "net"),
    (Kind::Pid, "pid"),
    (Kind::Cgroup, "cgroup"),
    (Kind::Mount, "mnt"),
];

fn parts(spec: &Spec) -> Result<(&Process, &Linux), LaunchError> {
    let process = spec.process().as_ref().ok_or(LaunchError::Missing("process"))?;
    let linux = spec.linux().as_ref().ok_or(LaunchError::Missing("linux section"))?;
    Ok((process, linux))
}

/// What an init and an exec have alike.
fn common(process: &Process, linux: &Linux, facts: &LaunchFacts<'_>) -> Result<plan::Launch, LaunchError> {
    let seccomp = match linux.seccomp() {
        Some(profile) => facts.programs.of(profile)?,
        None => Default::default(),
    };
    let cwd = process.cwd().to_str().ok_or(LaunchError::Missing("working directory"))?;
    let apparmor = process.apparmor_profile().as_deref().filter(|name| !name.is_empty());
    Ok(plan::Launch {
        cgroups: facts.cgroups.clone(),
        oom_score_adj: process.oom_score_adj(),
        rlimits: rlimits(process),
        user: user(process),
        capabilities: masks(process),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp: seccomp.bytes.to_vec(),
        seccomp_flags: seccomp.flags,
        apparmor: apparmor.map(|name| c_string(name, "the AppArmor profile")).transpose()?,
        cwd: c_string(cwd, "the working directory")?,
        env: c_strings(process.env().iter().flatten(), "the environment")?,
        ..plan::Launch::default()
    })
}

fn flag(kind: Kind) -> Result<u64, LaunchError> {
    match kind {
        // One that exists with its ids written is entered in its own way; none is made here.
        Kind::User | Kind::Time => Err(LaunchError::Namespace(kind)),
        // The values of the enum are the kernel's CLONE_NEW* flags.
        other => Ok(other as u64),
    }
}

/// The user namespace at `path`, with the ids that the spec says it has.
fn users(linux: &Linux, path: PathBuf) -> Result<plan::UserNamespace, LaunchError> {
    let root = |maps: &Option<Vec<LinuxIdMapping>>| {
        let map = maps.iter().flatten().find(|map| map.container_id() == 0);
        map.map(LinuxIdMapping::host_id).ok_or(LaunchError::Missing("id mapping"))
    };
    Ok(plan::UserNamespace { path, uid: root(linux.uid_mappings())?, gid: root(linux.gid_mappings())? })
}

fn user(process: &Process) -> plan::User {
    let user = process.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    plan::User { uid: user.uid(), gid: user.gid(), groups, umask: user.umask() }
}

fn masks(process: &Process) -> plan::Capabilities {
    let Some(sets) = process.capabilities() else { return plan::Capabilities::default() };
    plan::Capabilities {
        bounding: capabilities::of_oci(sets.bounding().as_ref()),
        effective: capabilities::of_oci(sets.effective().as_ref()),
        permitted: capabilities::of_oci(sets.permitted().as_ref()),
        inheritable: capabilities::of_oci(sets.inheritable().as_ref()),
        ambient: capabilities::of_oci(sets.ambient().as_ref()),
    }
}

fn rlimits(process: &Process) -> Vec<(u32, u64, u64)> {
    let number = |kind| match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    };
    process.rlimits().iter().flatten().map(|limit| (number(limit.typ()), limit.soft(), limit.hard())).collect()
}

/// Dots of a name are the slashes of its path.
fn sysctls(linux: &Linux) -> Vec<(PathBuf, Vec<u8>)> {
    let path = |name: &String| PathBuf::from(name.replace('.', "/"));
    let mut all: Vec<_> =
        linux.sysctl().iter().flatten().map(|(name, value)| (path(name), value.clone().into_bytes())).collect();
    all.sort();
    all
}

fn console(process: &Process) -> (u16, u16) {
    let size = process.console_size().unwrap_or_default();
    let number = |size: u64| u16::try_from(size).unwrap_or(u16::MAX);
    (number(size.width()), number(size.height()))
}

fn root(spec: &Spec, linux: &Linux, facts: &LaunchFacts<'_>) -> Result<plan::Root, LaunchError> {
    let root = spec.root().as_ref().ok_or(LaunchError::Missing("root"))?;
    let mut mounts = Vec::new();
    let in_users = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == Kind::User);
    for mount in spec.mounts().iter().flatten() {
        mounts.extend(options::mounts(mount, facts, in_users)?);
    }
    // Where the container brings its own /dev there is nothing to be made in it.
    let own_dev = spec
        .mounts()
        .iter()
        .flatten()
        .any(|mount| mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("bind"));
    let devices = linux.devices().iter().flatten().map(device).collect::<Result<Vec<_>, _>>()?;
    Ok(plan::Root {
        path: root.path().clone(),
        readonly: root.readonly().unwrap_or(false),
        propagation: options::root_propagation(linux.rootfs_propagation().as_deref()),
        mounts,
        devices: if own_dev { Vec::new() } else { with_standard(devices) },
        links: if own_dev { Vec::new() } else { links() },
        masked: linux.masked_paths().iter().flatten().map(PathBuf::from).collect(),
        readonly_paths: linux.readonly_paths().iter().flatten().map(PathBuf::from).collect(),
    })
}

fn device(device: &LinuxDevice) -> Result<plan::Device, LaunchError> {
    let bad = || LaunchError::Device(device.path().clone());
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::A => return Err(bad()),
    };
    Ok(plan::Device {
        path: device.path().clone(),
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: u32::try_from(device.major()).map_err(|_| bad())?,
        minor: u32::try_from(device.minor()).map_err(|_| bad())?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// The six nodes the OCI specification promises; one the spec itself makes at the same place counts instead.
fn with_standard(mut devices: Vec<plan::Device>) -> Vec<plan::Device> {
    const STANDARD: [(&str, u32, u32); 6] = [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    // A privileged container's list has the host's ptmx, which belongs to the host's devpts; ours is a link.
    devices.retain(|device| device.path != Path::new("/dev/ptmx"));
    for (path, major, minor) in STANDARD {
        if !devices.iter().any(|device| device.path == Path::new(path)) {
            let mode = libc::S_IFCHR | 0o666;
            devices.push(plan::Device { path: path.into(), mode, major, minor, uid: 0, gid: 0 });
        }
    }
    devices
}

/// As the OCI specification has them.
fn links() -> Vec<(CString, PathBuf)> {
    let all = [
        (c"/proc/self/fd", "/dev/fd"),
        (c"/proc/self/fd/0", "/dev/stdin"),
        (c"/proc/self/fd/1", "/dev/stdout"),
        (c"/proc/self/fd/2", "/dev/stderr"),
        (c"pts/ptmx", "/dev/ptmx"),
    ];
    all.into_iter().map(|(target, path)| (target.to_owned(), PathBuf::from(path))).collect()
}

fn c_string(text: &str, what: &'static str) -> Result<CString, LaunchError> {
    CString::new(text).map_err(|_| LaunchError::NulByte(what))
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a String>, what: &'static str) -> Result<Vec<CString>, LaunchError> {
    texts.map(|text| c_string(text, what)).collect()
}

#[cfg(test)]
mod tests;

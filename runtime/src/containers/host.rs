//! What this machine and this process can give to containers, read once at start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::PosixRlimitType;
use tracing::warn;

use super::{apparmor, capabilities};
use crate::cgroups::{Cgroups, Version};

/// A resource limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which.
    pub kind: PosixRlimitType,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Facts about the machine that decide what a spec may say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// v1, hybrid or v2.
    pub cgroups: Version,
    /// Capabilities we hold, as bits: no container can have more.
    pub capabilities: u64,
    /// CAP_SYS_RESOURCE is among them: scores can be lowered and hard limits raised.
    pub sys_resource: bool,
    /// Our own `oom_score_adj`.
    pub oom_score_adj: i32,
    /// Our own limits.
    pub rlimits: Vec<Rlimit>,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// The loaded profile that stands for RuntimeDefault, if there is one.
    pub apparmor_default: Option<String>,
    /// SELinux is active.
    pub selinux: bool,
}

impl Default for HostFacts {
    /// A v2 machine on which we may do anything.
    fn default() -> Self {
        Self {
            cgroups: Version::V2,
            capabilities: (1 << capabilities::NAMES.len()) - 1,
            sys_resource: true,
            oom_score_adj: 0,
            rlimits: Vec::new(),
            apparmor: false,
            apparmor_default: None,
            selinux: false,
        }
    }
}

/// A fact could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of procfs.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of procfs that says something unexpected.
    #[error("{path} does not hold {wanted}")]
    Unexpected {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
}

impl HostFacts {
    /// Reads them. On a machine with AppArmor this loads our default profile once per boot, which takes a moment.
    ///
    /// # Errors
    /// [`HostError`]: procfs is not there or not as expected.
    pub fn read(cgroups: &Cgroups) -> Result<Self, HostError> {
        let held = held_capabilities()?;
        let apparmor = apparmor::is_active();
        Ok(Self {
            cgroups: cgroups.version(),
            capabilities: held,
            sys_resource: capabilities::bit("SYS_RESOURCE").is_some_and(|bit| held & bit != 0),
            oom_score_adj: own_score()?,
            rlimits: own_rlimits(),
            apparmor,
            apparmor_default: if apparmor { default_profile() } else { None },
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
        })
    }
}

fn required(path: &str) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Read { path: path.into(), source })
}

fn held_capabilities() -> Result<u64, HostError> {
    let path = "/proc/self/status";
    let status = required(path)?;
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    // Only what is in both can be handed on: the bounding set survives no exec of ours enlarged.
    let both = mask("CapPrm:").zip(mask("CapBnd:")).map(|(permitted, bounding)| permitted & bounding);
    both.ok_or_else(|| HostError::Unexpected { path: path.into(), wanted: "capability sets" })
}

fn own_score() -> Result<i32, HostError> {
    let path = "/proc/self/oom_score_adj";
    let unexpected = |_| HostError::Unexpected { path: path.into(), wanted: "a number" };
    required(path)?.trim().parse().map_err(unexpected)
}

fn own_rlimits() -> Vec<Rlimit> {
    let one = |(kind, resource)| getrlimit(resource).ok().map(|(soft, hard)| Rlimit { kind, soft, hard });
    let all = [
        (PosixRlimitType::RlimitNofile, Resource::RLIMIT_NOFILE),
        (PosixRlimitType::RlimitNproc, Resource::RLIMIT_NPROC),
        (PosixRlimitType::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
        (PosixRlimitType::RlimitCore, Resource::RLIMIT_CORE),
    ];
    all.into_iter().filter_map(one).collect()
}

/// Without one, containers run as on a machine without AppArmor: worth a word at every start, and not at every pod.
fn default_profile() -> Option<String> {
    let found = apparmor::ensure_default();
    found.inspect_err(|error| warn!(error = error as &dyn std::error::Error, "no default AppArmor profile")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read() {
        let facts = HostFacts::read(&Cgroups::detect().unwrap()).unwrap();
        assert!(facts.rlimits.iter().any(|limit| limit.kind == PosixRlimitType::RlimitNofile && limit.soft > 0));
        assert_eq!(
            facts.sys_resource,
            caps::has_cap(None, caps::CapSet::Permitted, caps::Capability::CAP_SYS_RESOURCE).unwrap()
        );
    }
}

//! What is to be started, decided to the last flag: the shim's forked child only carries it out.
//!
//! The runtime turns an OCI spec into a [`Launch`] (a pure function), writes [`Launch::encode`] to a file, and names
//! that to the shim. Nothing in here is decided again: every path, flag and number is final.

use std::ffi::CString;
use std::path::PathBuf;

use crate::codec::{self, DecodeError, record};

/// Longest encoded [`Launch`], bytes: arguments and environment of a process are bounded by the kernel at 2 MiB.
pub const LARGEST_LAUNCH: usize = 4 * 1024 * 1024;

/// One process to start: a container's init, an exec inside a running container, or the pause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// `cgroup.procs` (or v1 `tasks`) files to enter, in order, before any namespace is left. The one on cgroup v2 is
    /// entered by being forked into it.
    pub cgroups: Vec<PathBuf>,
    /// Written to `/proc/self/oom_score_adj`, already clamped to what this machine allows.
    pub oom_score_adj: Option<i32>,
    /// The user namespace to live in: entered before every other namespace is joined or created.
    pub users: Option<UserNamespace>,
    /// Existing namespaces to enter, in this order. `CLONE_NEWUSER` is refused.
    pub join: Vec<JoinNamespace>,
    /// `CLONE_NEW*` flags for namespaces to create. `CLONE_NEWUSER` is refused.
    pub create: u64,
    /// The root to pivot into with its mounts; `None` for an exec, which finds everything in the joined mount namespace.
    pub root: Option<Root>,
    /// `sethostname` in a new UTS namespace.
    pub hostname: Option<CString>,
    /// `(relative path below /proc/sys, value)`, written in the new namespaces.
    pub sysctls: Vec<(PathBuf, Vec<u8>)>,
    /// `RLIMIT_*` number, soft, hard; already clamped.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Who the process is.
    pub user: User,
    /// Capability sets as bit masks (bit n is capability n).
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// A classic BPF program (`struct sock_filter` array in native byte order); empty means unconfined.
    pub seccomp: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub seccomp_flags: u32,
    /// AppArmor profile for the exec, where the kernel has AppArmor.
    pub apparmor: Option<CString>,
    /// Working directory inside the root; created (0755) when missing and `root` is set.
    pub cwd: CString,
    /// Program and arguments. A program without `/` is looked for in `PATH` of `env`. Empty: the pause that is built
    /// into the shim; one that creates a pid namespace gets an empty read-only root of its own, because containers
    /// that share the namespace see `/proc/1/root`.
    pub args: Vec<CString>,
    /// `NAME=value`.
    pub env: Vec<CString>,
    /// A terminal of this many columns and rows (0, 0 when the caller does not know) instead of pipes. It comes from
    /// the devpts that is mounted at `/dev/pts` inside, and is also `/dev/console` of a container.
    pub terminal: Option<(u16, u16)>,
}

/// A user namespace that exists already, with its ids written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// Where it is.
    pub path: PathBuf,
    /// What user 0 of the namespace is on the host; the others follow.
    pub uid: u32,
    /// What group 0 of the namespace is on the host; the others follow.
    pub gid: u32,
}

/// A namespace that exists already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinNamespace {
    /// The `CLONE_NEW*` flag of its kind.
    pub kind: u64,
    /// Where it is, such as `/proc/4711/ns/net`.
    pub path: PathBuf,
}

/// A container's file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Directory on the host that becomes `/`: the mounted overlay.
    pub path: PathBuf,
    /// Remounted read-only after everything is in place.
    pub readonly: bool,
    /// `MS_SLAVE`, `MS_PRIVATE` or `MS_SHARED` (with `MS_REC`) for `/` of the new mount namespace; 0 is slave.
    /// With `MS_SHARED`, `path` should be a mount of its own: the mount it is on stops being shared here.
    pub propagation: u64,
    /// In order.
    pub mounts: Vec<Mount>,
    /// Device nodes to make below the root's `/dev`.
    pub devices: Vec<Device>,
    /// `(target, link path)` made below the root, such as `/proc/self/fd` at `/dev/fd`.
    pub links: Vec<(CString, PathBuf)>,
    /// Hidden: `/dev/null` over files, an empty read-only tmpfs over directories. A path that is not there is skipped.
    pub masked: Vec<PathBuf>,
    /// Bound over themselves read-only. A path that is not there is skipped.
    pub readonly_paths: Vec<PathBuf>,
}

/// One mount below the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Absolute source path for a bind (on the host, links are followed), or the name shown for a file system.
    pub source: CString,
    /// Absolute path as the container sees it; made when missing (a file when a bind's source is one).
    pub target: PathBuf,
    /// File system type; ignored for a bind.
    pub fstype: CString,
    /// `MS_*` flags; `MS_BIND` (with or without `MS_REC`) makes it a bind, whose other flags need a remount.
    pub flags: u64,
    /// File system options such as `mode=755,size=65536k`.
    pub data: CString,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, with or without `MS_REC`; 0 leaves what there is.
    pub propagation: u64,
    /// `mount_setattr(AT_RECURSIVE, MOUNT_ATTR_RDONLY)`: every mount below becomes read-only as well.
    pub recursive_readonly: bool,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Absolute path as the container sees it.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`, with the permission bits.
    pub mode: u32,
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
}

/// Ids inside the container's user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups, all of them.
    pub groups: Vec<u32>,
    /// File mode creation mask, where the spec sets one.
    pub umask: Option<u32>,
}

/// Capability sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What can ever be regained.
    pub bounding: u64,
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// Kept over an exec of a capable file.
    pub inheritable: u64,
    /// Kept over an exec of any file.
    pub ambient: u64,
}

impl Launch {
    /// The content of a `launch` file.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a `launch` file back.
    ///
    /// # Errors
    /// When the bytes are longer than [`LARGEST_LAUNCH`] or not what [`Launch::encode`] of this version wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, LARGEST_LAUNCH)
    }
}

record!(Launch {
    cgroups,
    oom_score_adj,
    users,
    join,
    create,
    root,
    hostname,
    sysctls,
    rlimits,
    user,
    capabilities,
    no_new_privileges,
    seccomp,
    seccomp_flags,
    apparmor,
    cwd,
    args,
    env,
    terminal,
});
record!(UserNamespace { path, uid, gid });
record!(JoinNamespace { kind, path });
record!(Root { path, readonly, propagation, mounts, devices, links, masked, readonly_paths });
record!(Mount { source, target, fstype, flags, data, propagation, recursive_readonly });
record!(Device { path, mode, major, minor, uid, gid });
record!(User { uid, gid, groups, umask });
record!(Capabilities { bounding, effective, permitted, inheritable, ambient });

#[cfg(test)]
mod tests;

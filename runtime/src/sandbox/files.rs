//! The files and mounts that a pod's containers share: hostname, resolv.conf, /dev/shm.

use std::io;
use std::path::{Path, PathBuf};

use cri_proto::v1::DnsConfig;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::users::Ids;
use crate::state::files::{FileError, read, write_shared};

/// What Docker and containerd give a pod, bytes.
const SHM_BYTES: u64 = 64 << 20;

/// The kubelet's bound on a host's resolv.conf.
const LARGEST_COPY: u64 = 10 << 20;

/// A mount of a sandbox could not be made or undone.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub(crate) struct MountError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl MountError {
    pub(crate) fn new(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { what, path: path.into(), source: source.into() }
    }
}

/// The text of a resolv.conf(5) for `config`; `None` when it says nothing and the node's own is to be used.
pub(crate) fn resolv_conf(config: Option<&DnsConfig>) -> Option<String> {
    let config = config?;
    if config.servers.is_empty() && config.searches.is_empty() && config.options.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !config.searches.is_empty() {
        text += &format!("search {}\n", config.searches.join(" "));
    }
    for server in &config.servers {
        text += &format!("nameserver {server}\n");
    }
    if !config.options.is_empty() {
        text += &format!("options {}\n", config.options.join(" "));
    }
    Some(text)
}

/// Writes `path` from `config`, or as a copy of the node's.
///
/// # Errors
/// When the file cannot be written. A node without a resolv.conf gives an empty one.
pub(crate) fn write_resolv_conf(path: &Path, config: Option<&DnsConfig>) -> Result<(), FileError> {
    match resolv_conf(config) {
        Some(text) => write_shared(path, text.as_bytes()),
        None => copy_shared(Path::new("/etc/resolv.conf"), path),
    }
}

/// Writes `to` as a copy of one of the node's small files; one that is not there gives an empty copy.
///
/// # Errors
/// When it cannot be read or written.
pub(crate) fn copy_shared(from: &Path, to: &Path) -> Result<(), FileError> {
    write_shared(to, &read(from, LARGEST_COPY)?.unwrap_or_default())
}

/// Mounts the pod's shared memory, which belongs to root of its user namespace where it has one.
///
/// # Errors
/// When it cannot be mounted.
pub(crate) fn mount_shm(path: &Path, users: Option<Ids>) -> Result<(), MountError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    std::fs::create_dir(path)
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .map_err(|source| MountError::new("making", path, source))?;
    let owner = users.map(|ids| format!(",uid={},gid={}", ids.uid, ids.gid)).unwrap_or_default();
    let data = std::ffi::CString::new(format!("mode=1777,size={SHM_BYTES}{owner}")).unwrap_or_default();
    mount("shm", path, "tmpfs", flags, Some(data.as_c_str()))
        .map_err(|source| MountError::new("mounting shared memory at", path, source))
}

/// Unmounts whatever is mounted at `path`, however often; that nothing is, or no such file, is fine.
///
/// # Errors
/// When something stays mounted.
pub(crate) fn unmount_all(path: &Path) -> Result<(), MountError> {
    // A crash between two tries can have stacked two; sixteen would be a loop.
    for _ in 0..16 {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(source) => return Err(MountError::new("unmounting", path, source)),
        }
    }
    Err(MountError::new("unmounting", path, rustix::io::Errno::BUSY))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn dns_settings_become_the_three_kinds_of_lines() {
        let config = DnsConfig {
            servers: vec!["10.96.0.10".into(), "1.1.1.1".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        expect![[r#"
            search default.svc.cluster.local svc.cluster.local
            nameserver 10.96.0.10
            nameserver 1.1.1.1
            options ndots:5
        "#]]
        .assert_eq(&resolv_conf(Some(&config)).unwrap());
    }

    #[test]
    fn settings_that_say_nothing_leave_it_to_the_node() {
        assert_eq!(resolv_conf(None), None);
        assert_eq!(resolv_conf(Some(&DnsConfig::default())), None);
    }
}

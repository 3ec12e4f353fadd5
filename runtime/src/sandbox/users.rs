//! A pod's user namespace: which ids it has, and how it is made, with the network namespace that it owns.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use cri_proto::v1;
use rustix::mount::mount_bind;

use super::files::MountError;

/// The ids of a pod: 0 and those after it, inside and on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    /// What user 0 is on the host.
    pub uid: u32,
    /// What group 0 is on the host.
    pub gid: u32,
    /// How many there are of each.
    pub length: u32,
}

/// The ids that a sandbox asks for; `None` where it lives with the node's.
///
/// # Errors
/// What cannot be had: anything but one range for users and one as long for groups, both from 0 on.
pub(crate) fn ids(options: &v1::NamespaceOption) -> Result<Option<Ids>, String> {
    let Some(wanted) = options.userns_options.as_ref().filter(|users| users.mode() != v1::NamespaceMode::Node) else {
        return Ok(None);
    };
    if wanted.mode() != v1::NamespaceMode::Pod {
        return Err("a user namespace is POD or NODE".into());
    }
    let ([users], [groups]) = (wanted.uids.as_slice(), wanted.gids.as_slice()) else {
        return Err("a user namespace needs one range of user ids and one of group ids".into());
    };
    let whole = users.container_id == 0 && groups.container_id == 0 && users.length == groups.length;
    // Below these lie the node's own users; and the last id means "nobody" to the kernel.
    let fits = |map: &v1::IdMapping| map.host_id > 0 && map.length > 0 && map.host_id.checked_add(map.length).is_some();
    if !whole || !fits(users) || !fits(groups) {
        return Err(
            "a user namespace needs ranges of the same length that begin at 0 inside, and not on the node".into()
        );
    }
    let apart = |mode| mode != v1::NamespaceMode::Node;
    if !(apart(options.network()) && apart(options.ipc()) && apart(options.pid())) {
        return Err("a user namespace needs network, IPC and process namespaces of the pod's own".into());
    }
    Ok(Some(Ids { uid: users.host_id, gid: groups.host_id, length: users.length }))
}

/// Makes a user namespace with these ids and a network namespace that it owns, and pins both.
///
/// Blocks for about a millisecond.
///
/// # Errors
/// When they cannot be made or pinned.
pub(crate) fn pin(users: &Path, network: &Path, ids: Ids) -> Result<(), MountError> {
    let failed = |path, what| move |source: io::Error| MountError::new(what, path, source);
    File::create(users).map_err(failed(users, "making"))?;
    File::create(network).map_err(failed(network, "making"))?;
    let holder = Holder::start().map_err(failed(users, "making a user namespace for"))?;
    holder.write("uid_map", ids.uid, ids.length).map_err(failed(users, "writing the user ids of"))?;
    holder.write("gid_map", ids.gid, ids.length).map_err(failed(users, "writing the group ids of"))?;
    holder.pin("user", users).map_err(failed(users, "pinning a new user namespace at"))?;
    holder.pin("net", network).map_err(failed(network, "pinning a new network namespace at"))
}

/// A process that only holds new namespaces until they are pinned; it ends with this value, or with us.
struct Holder {
    pid: libc::pid_t,
    alive: Option<OwnedFd>,
}

impl Holder {
    fn start() -> io::Result<Self> {
        let (held, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (held_number, alive_number) = (raw(&held), raw(&alive));
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
        // SAFETY: without CLONE_VM the child has a copy of everything. We may have other threads, whose locks it has in
        // whatever state they are in: it makes raw system calls alone, with numbers and a buffer of its own stack.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0);
            if pid == 0 {
                libc::syscall(libc::SYS_close, alive_number);
                let mut byte = 0_u8;
                libc::syscall(libc::SYS_read, held_number, &raw mut byte, 1);
                libc::syscall(libc::SYS_exit_group, 0);
            }
            pid
        };
        match libc::pid_t::try_from(pid) {
            Ok(pid) if pid > 0 => Ok(Self { pid, alive: Some(alive) }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn write(&self, file: &str, host: u32, length: u32) -> io::Result<()> {
        fs::write(format!("/proc/{}/{file}", self.pid), format!("0 {host} {length}\n"))
    }

    fn pin(&self, kind: &str, path: &Path) -> io::Result<()> {
        Ok(mount_bind(format!("/proc/{}/ns/{kind}", self.pid), path)?)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            // It ends at once: its only read has come to its end.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

fn raw(file: &OwnedFd) -> libc::c_long {
    libc::c_long::from(std::os::fd::AsRawFd::as_raw_fd(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> v1::NamespaceOption {
        let maps = |list: &[(u32, u32, u32)]| {
            let map = |(container_id, host_id, length): &(u32, u32, u32)| v1::IdMapping {
                container_id: *container_id,
                host_id: *host_id,
                length: *length,
            };
            list.iter().map(map).collect()
        };
        let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: maps(uids), gids: maps(gids) };
        v1::NamespaceOption {
            pid: v1::NamespaceMode::Container.into(),
            userns_options: Some(users),
            ..Default::default()
        }
    }

    #[test]
    fn a_range_from_zero_on_is_taken_and_everything_else_is_refused() {
        let range = [(0, 131_072, 65_536)];
        assert_eq!(ids(&options(&range, &range)), Ok(Some(Ids { uid: 131_072, gid: 131_072, length: 65_536 })));
        assert_eq!(ids(&v1::NamespaceOption::default()), Ok(None));
        for (uids, gids) in [
            (&[][..], &range[..]),
            (&[(1, 131_072, 65_536)], &range),
            (&[(0, 0, 65_536)], &[(0, 0, 65_536)]),
            (&[(0, 131_072, 1)], &range),
            (&[(0, u32::MAX, 65_536)], &[(0, u32::MAX, 65_536)]),
            (&[(0, 1, 1), (1, 2, 1)], &range),
        ] {
            assert!(ids(&options(uids, gids)).is_err(), "{uids:?} {gids:?}");
        }
        let host = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..options(&range, &range) };
        assert!(ids(&host).is_err());
    }
}

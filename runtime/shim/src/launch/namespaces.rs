//! Cgroups and namespaces: which to enter, which to create, and in what order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use shim::plan::Launch;

use super::{Doing, Failure};
use crate::sys;
use crate::sys::process;

pub(super) const PID: u64 = libc::CLONE_NEWPID as u64;
pub(super) const USER: u64 = libc::CLONE_NEWUSER as u64;
const UTS: u64 = libc::CLONE_NEWUTS as u64;

/// A start that would be less confined than asked for is refused before anything is made.
pub(super) fn refuse_unsupported(launch: &Launch) -> Result<(), Failure> {
    let joins = |kind| launch.join.iter().any(|namespace| namespace.kind == kind);
    if launch.create & USER != 0 || joins(USER) {
        // It has to be entered before, and on another way.
        return Err(Failure::plain("a user namespace is not joined or made like others".into(), libc::EINVAL));
    }
    if launch.hostname.is_some() && launch.create & UTS == 0 {
        return Err(Failure::plain("a hostname needs a UTS namespace of its own".into(), libc::EINVAL));
    }
    if launch.root.is_some() && launch.create & libc::CLONE_NEWNS as u64 == 0 {
        return Err(Failure::plain("a root needs a mount namespace of its own".into(), libc::EINVAL));
    }
    Ok(())
}

/// The cgroup v2 directory among those to enter, with its place in the list: a fork straight into it spares the
/// kernel the lock that moving a process takes.
pub(super) fn unified_cgroup(launch: &Launch) -> Result<Option<(usize, OwnedFd)>, Failure> {
    for (index, file) in launch.cgroups.iter().enumerate() {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let doing = || format!("opening cgroup {}", directory.display());
        let opened = sys::open(directory, libc::O_PATH | libc::O_DIRECTORY).doing(doing)?;
        if sys::filesystem(opened.as_fd()).doing(doing)? == i64::from(libc::CGROUP2_SUPER_MAGIC as u32) {
            return Ok(Some((index, opened)));
        }
    }
    Ok(None)
}

/// Makes the shim itself a member of the cgroups that `launch` is to enter, before it is anything else.
///
/// Into cgroup v2 only a child is born without the lock that moving a process takes (a grace period, 8 ms and more), so
/// the shim goes on as a child of its own, and whoever was started ends. Where that cannot be, it stays where it is:
/// a shim in the wrong group is better than none.
pub(crate) fn move_in(launch: &Launch) {
    let unified = unified_cgroup(launch).ok().flatten();
    let index = unified.as_ref().map(|(index, _)| *index);
    for (_, file) in launch.cgroups.iter().enumerate().filter(|(at, _)| Some(*at) != index) {
        if let Ok(opened) = sys::open(file, libc::O_WRONLY) {
            let _ = sys::write_value(opened.as_fd(), b"0");
        }
    }
    let Some((_, directory)) = unified else { return };
    // SAFETY: the shim never has a second thread.
    if let Ok(1..) = unsafe { process::fork(0, Some(directory.as_fd())) } {
        process::exit(0);
    }
}

/// Forks into a new or an existing pid namespace (which only a fork can enter), or neither. 0 in the child.
pub(super) fn fork(launch: &Launch, cgroup: Option<BorrowedFd<'_>>) -> Result<i32, Failure> {
    let joined = launch.join.iter().find(|namespace| namespace.kind == PID);
    let Some(joined) = joined else {
        // SAFETY: the shim never has a second thread.
        return unsafe { process::fork(launch.create & PID, cgroup) }.doing(|| "starting a process".into());
    };
    let doing = || format!("joining {}", joined.path.display());
    let own = sys::open(Path::new("/proc/self/ns/pid"), libc::O_RDONLY).doing(doing)?;
    let namespace = sys::open(&joined.path, libc::O_RDONLY).doing(doing)?;
    process::setns(namespace.as_fd(), PID).doing(doing)?;
    let pid = forked_into(0, cgroup);
    if !matches!(pid, Ok(0)) {
        process::setns(own.as_fd(), PID).doing(|| "returning to the shim's pid namespace".into())?;
    }
    pid
}

pub(super) fn forked_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32, Failure> {
    // SAFETY: the shim never has a second thread.
    unsafe { process::fork(flags, cgroup) }.map_err(|error| match error.raw_os_error() {
        // The pid namespace's first process has ended: nothing can be started in it any more.
        Some(libc::ENOMEM) => Failure::plain("starting a process: its pid namespace has ended".into(), libc::ESRCH),
        errno => Failure::new("starting a process".into(), errno.unwrap_or_default()),
    })
}

/// Enters what is left of the cgroups.
pub(super) fn cgroups(launch: &Launch, entered: Option<usize>) -> Result<(), Failure> {
    for (_, file) in launch.cgroups.iter().enumerate().filter(|(index, _)| Some(*index) != entered) {
        let doing = || format!("entering cgroup {}", file.display());
        let opened = sys::open(file, libc::O_WRONLY).doing(doing)?;
        sys::write_value(opened.as_fd(), b"0").doing(doing)?;
    }
    Ok(())
}

/// Enters what is left of the namespaces, then creates the new ones: a cgroup namespace begins at the cgroup its
/// creator is in.
pub(super) fn enter(launch: &Launch) -> Result<(), Failure> {
    // All are opened before the first is entered: afterwards the paths may mean something else.
    let mut opened = Vec::new();
    for namespace in launch.join.iter().filter(|namespace| namespace.kind != PID) {
        let doing = || format!("opening namespace {}", namespace.path.display());
        opened.push((namespace, sys::open(&namespace.path, libc::O_RDONLY).doing(doing)?));
    }
    for (namespace, file) in opened {
        process::setns(file.as_fd(), namespace.kind).doing(|| format!("joining {}", namespace.path.display()))?;
    }
    match launch.create & !PID {
        0 => Ok(()),
        flags => process::unshare(flags).doing(|| format!("creating namespaces {flags:#x}")),
    }
}

/// The hostname of a UTS namespace that was just created.
pub(super) fn name(launch: &Launch) -> Result<(), Failure> {
    let Some(hostname) = &launch.hostname else { return Ok(()) };
    // SAFETY: the name is live and of the length given.
    sys::check(unsafe { libc::sethostname(hostname.as_ptr(), hostname.as_bytes().len()) })
        .doing(|| format!("setting the hostname {}", hostname.to_string_lossy()))
        .map(drop)
}

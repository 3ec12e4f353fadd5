//! Into a pod's user namespace, which nobody who has entered it can leave: the shim forks a process that does what takes
//! the host's rights, enters, and starts the real child as its sibling, so that the shim is the parent of both.
//!
//! ```text
//! shim ---fork---> between: oom score, cgroups, limits, owner of the streams | setns(user, pid) | clone(PARENT) -> child
//!   ^------ the child's pid, or why not -----'
//! ```

use std::os::fd::{AsFd, OwnedFd};

use shim::plan::{Launch, UserNamespace};

use super::namespaces::{self, PID, USER};
use super::proc::Proc;
use super::{Doing, Failure, Given, failure, identity};
use crate::sys;
use crate::sys::process;

/// Like [`namespaces::fork`], with all cgroups entered. `cgroup` is the one on v2, with its place in the list.
pub(super) fn fork(
    launch: &Launch,
    users: &UserNamespace,
    given: &Given<'_>,
    cgroup: Option<&(usize, OwnedFd)>,
) -> Result<i32, Failure> {
    let (ours, theirs) = sys::socket_pair().doing(|| "making a control socket".into())?;
    // SAFETY: the shim never has a second thread.
    let between = unsafe { process::fork(0, None) }.doing(|| "starting a process".into())?;
    if between == 0 {
        let said = match enter(launch, users, given, cgroup) {
            Ok(0) => return Ok(0),
            Ok(pid) => sys::write(theirs.as_fd(), &pid.to_le_bytes()),
            Err(failure) => sys::write(theirs.as_fd(), &failure.encode()),
        };
        process::exit(i32::from(said.is_err()));
    }
    drop(theirs);
    // Nothing of what it does can take long: no file system of a pod is touched.
    let mut buffer = [0; failure::LONGEST];
    let length = sys::read(ours.as_fd(), &mut buffer).doing(|| "hearing of a process".into())?;
    match buffer[..length].try_into() {
        Ok(pid) => Ok(i32::from_le_bytes(pid)),
        Err(_) if length == 0 => Err(Failure::plain("a process was killed while it was started".into(), libc::ECHILD)),
        Err(_) => Err(Failure::decode(&buffer[..length])),
    }
}

/// 0 in the child, which is in the user namespace and in its pid namespace.
fn enter(
    launch: &Launch,
    users: &UserNamespace,
    given: &Given<'_>,
    cgroup: Option<&(usize, OwnedFd)>,
) -> Result<i32, Failure> {
    if let Some(score) = launch.oom_score_adj {
        Proc::open()?.write(c"self/oom_score_adj", score.to_string().as_bytes())?;
    }
    namespaces::cgroups(launch, cgroup.map(|(index, _)| *index))?;
    identity::limit(&launch.rlimits)?;
    for stream in given.stdio.iter().flatten() {
        let (uid, gid) = (users.uid.saturating_add(launch.user.uid), users.gid.saturating_add(launch.user.gid));
        identity::own(*stream, uid, gid)?;
    }
    let doing = || format!("entering the user namespace {}", users.path.display());
    let namespace = sys::open(&users.path, libc::O_RDONLY).doing(doing)?;
    let joined = launch.join.iter().find(|namespace| namespace.kind == PID);
    let pids = joined.map(|joined| {
        sys::open(&joined.path, libc::O_RDONLY).doing(|| format!("opening namespace {}", joined.path.display()))
    });
    let pids = pids.transpose()?;
    process::setns(namespace.as_fd(), USER).doing(doing)?;
    match pids {
        Some(pids) => process::setns(pids.as_fd(), PID).doing(|| "joining a pid namespace".into())?,
        None if launch.create & PID != 0 => process::unshare(PID).doing(|| "creating a pid namespace".into())?,
        None => {}
    }
    namespaces::forked_into(libc::CLONE_PARENT as u64, cgroup.map(|(_, directory)| directory.as_fd()))
}

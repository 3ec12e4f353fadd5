//! The forked child that turns into a container's process: carries out a [`Launch`] step by step, then execs.
//!
//! ```text
//! shim                                  child
//!  fork (pid namespace, v2 cgroup) ----> own descriptors, session, oom score
//!  writes the pid file                   cgroups, namespaces, hostname, sysctls
//!  sends the gate byte ------+           root: mounts, devices, masks, pivot
//!                            |           terminal, limits, identity
//!  reads failure or EOF <-+  +---------> waits for the gate: nobody runs who is not on record
//!                         +------------- exec closes the control socket
//! ```

mod exec;
mod failure;
mod hidden;
mod identity;
mod inside;
mod mounts;
mod namespaces;
mod nodes;
mod proc;
mod rootfs;
mod seccomp;
mod terminal;
mod users;

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use shim::packet;
use shim::plan::Launch;

use crate::sys;
use crate::sys::process;
pub(crate) use failure::{Doing, Failure};
use inside::Inside;
use proc::Proc;

/// First byte of what the child sends; a failure follows its own.
const TERMINAL: u8 = b'T';

/// Exit code of a child whose shim was lost before it was let go on; its successor may see it and take it for the
/// container's, so it is the one that says "unknown".
const NEVER_STARTED: i32 = 255;

/// What the child is given besides its plan.
pub(crate) struct Given<'a> {
    /// Becomes stdin, stdout and stderr; `None` when the plan asks for a terminal.
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Executed when the plan names no program: the pause.
    pub(crate) executable: Option<BorrowedFd<'a>>,
}

pub(crate) use namespaces::move_in;

/// A child on its way to its exec.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    /// Tells what became of it, see [`Child::news`]; closed by its exec.
    pub(crate) control: OwnedFd,
}

/// What a child on its way says.
pub(crate) enum News {
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// It could not, and has ended or is about to.
    Failed(Failure),
    /// The program runs (or the child was killed on its way: then its exit follows).
    Running,
    /// None yet.
    Nothing,
}

/// Starts a child that carries out `launch`, as far as the gate.
pub(crate) fn start(launch: &Launch, given: &Given<'_>) -> Result<Child, Failure> {
    namespaces::refuse_unsupported(launch)?;
    let (ours, theirs) = sys::socket_pair().doing(|| "making a control socket".into())?;
    let cgroup = namespaces::unified_cgroup(launch)?;
    let pid = match &launch.users {
        Some(users) => users::fork(launch, users, given, cgroup.as_ref())?,
        None => namespaces::fork(launch, cgroup.as_ref().map(|(_, directory)| directory.as_fd()))?,
    };
    if pid == 0 {
        let entered = cgroup.map(|(index, _)| index);
        let Err(failure) = carry_out(launch, given, theirs.as_fd(), entered);
        let _ = sys::write(theirs.as_fd(), &failure.encode());
        process::exit(1);
    }
    Ok(Child { pid, control: ours })
}

impl Child {
    /// Lets it go on to its exec: its pid is on disk.
    pub(crate) fn open_gate(&self) {
        // A child that is gone has said why, or is about to be reaped.
        let _ = packet::send(self.control.as_fd(), b"g", &[], libc::MSG_DONTWAIT);
    }

    /// What there is to hear, without waiting.
    pub(crate) fn news(&self) -> News {
        let mut buffer = [0; failure::LONGEST];
        let mut hear = || packet::receive(self.control.as_fd(), &mut buffer, libc::MSG_DONTWAIT);
        // A child that failed before it came to the gate leaves the gate's byte unread. The kernel reports that
        // first, once, then what the child has said.
        let heard = hear().or_else(|error| match error.kind() {
            std::io::ErrorKind::ConnectionReset => hear(),
            _ => Err(error),
        });
        match heard {
            Ok((0, _)) => News::Running,
            Ok((length, mut descriptors)) => match (buffer[0], descriptors.pop()) {
                (TERMINAL, Some(master)) => News::Terminal(master),
                _ => News::Failed(Failure::decode(&buffer[..length])),
            },
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => News::Nothing,
            Err(_) => News::Running,
        }
    }
}

/// Everything between the fork and the exec. Nothing here is undone on failure: the process ends.
fn carry_out(
    launch: &Launch,
    given: &Given<'_>,
    control: BorrowedFd<'_>,
    entered: Option<usize>,
) -> Result<Infallible, Failure> {
    settle(given, control).doing(|| "putting descriptors in place".into())?;
    let proc = Proc::open()?;
    // In a user namespace the host's part was done on the way into it, and nothing there is 0 yet.
    let in_users = launch.users.is_some();
    if !in_users {
        if let Some(score) = launch.oom_score_adj {
            proc.write(c"self/oom_score_adj", score.to_string().as_bytes())?;
        }
        namespaces::cgroups(launch, entered)?;
    }
    namespaces::enter(launch)?;
    if in_users && launch.root.is_none() {
        identity::become_root()?;
    }
    namespaces::name(launch)?;
    proc.sysctls(&launch.sysctls)?;
    match &launch.root {
        Some(root) => rootfs::build(root, in_users)?,
        None if given.executable.is_some() && launch.create & libc::CLONE_NEWPID as u64 != 0 => rootfs::empty()?,
        None => {}
    }
    let inside = Inside::current().doing(|| "opening the root".into())?;
    if let Some(size) = launch.terminal {
        terminal::open(&inside, size, launch.user.uid, launch.root.is_some(), control)?;
    }
    if let Some(root) = &launch.root {
        rootfs::finish(root, &inside, &launch.cwd)?;
    }
    drop(inside);
    if !in_users {
        identity::own_stdio(&launch.user)?;
        identity::limit(&launch.rlimits)?;
    }
    if let Some(profile) = &launch.apparmor {
        proc.apparmor(profile)?;
    }
    identity::assume(launch, || pass_gate(control))?;
    exec::run(launch, given.executable)
}

/// Its own stdio, session, keys and signals, and no descriptor of the shim's but the few it needs.
fn settle(given: &Given<'_>, control: BorrowedFd<'_>) -> std::io::Result<()> {
    if let Some(stdio) = &given.stdio {
        for (number, file) in stdio.iter().enumerate() {
            sys::put_at(*file, number as i32)?;
        }
    }
    let mut keep = vec![0, 1, 2, control.as_raw_fd()];
    keep.extend(given.executable.map(|file| file.as_raw_fd()));
    keep.sort_unstable();
    process::close_all_but(&keep)?;
    process::block_signals(false);
    process::set_umask(0);
    process::new_keyring()?;
    process::new_session()
}

/// Waits until the shim has written our pid down. A shim that is gone never will: then nothing was started.
fn pass_gate(control: BorrowedFd<'_>) {
    let mut byte = [0];
    if !matches!(sys::read(control, &mut byte), Ok(1)) {
        process::exit(NEVER_STARTED);
    }
}

//! Processes: starting, waiting, identity.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use super::{check, check_long, own};

/// `struct clone_args` up to and including `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP`
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks with `CLONE_NEW*` flags or `CLONE_PARENT` (a sibling), straight into a cgroup v2 directory if one is given.
/// 0 in the child.
///
/// # Safety
/// The process must have a single thread.
pub(crate) unsafe fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<i32> {
    // A sibling ends with the signal that we would end with.
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let mut arguments = CloneArguments { flags, exit_signal, ..Default::default() };
    if let Some(cgroup) = cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `arguments` is live and of the size given; without CLONE_VM the child has its own copy of everything,
    // and with a single thread no lock can be held by somebody who is not there.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, mem::size_of::<CloneArguments>()) };
    check_long(pid).map(|pid| pid as i32)
}

pub(crate) fn setns(namespace: BorrowedFd<'_>, kind: u64) -> io::Result<()> {
    // SAFETY: only numbers.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind as i32) }).map(drop)
}

pub(crate) fn unshare(flags: u64) -> io::Result<()> {
    // SAFETY: only numbers; the callers have a single thread.
    check(unsafe { libc::unshare(flags as i32) }).map(drop)
}

/// One child that has ended: its pid and wait status.
pub(crate) fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is live.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if pid > 0 { Some((pid, status)) } else { None }
}

/// 0–255, or 128 + signal.
pub(crate) fn exit_code(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: only numbers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: only numbers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

pub(crate) fn pidfd_kill(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none = ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    check_long(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) }).map(drop)
}

/// Wait status of a process that somebody else has reaped; `None` before that, and on kernels before 6.15.
pub(crate) fn pidfd_status(process: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: all zero bytes are a valid pidfd_info.
    let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: PIDFD_GET_INFO writes at most the size that is part of its number.
    check(unsafe { libc::ioctl(process.as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) }).ok()?;
    (info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}

/// Closes every descriptor that is not in `keep` (sorted).
pub(crate) fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut from = 0;
    for number in keep {
        if *number > from {
            close_range(from as u32, *number as u32 - 1, 0)?;
        }
        from = number + 1;
    }
    close_range(from as u32, u32::MAX, 0)
}

/// Every descriptor above stdio is closed by the next exec.
pub(crate) fn close_above_stdio_on_exec() -> io::Result<()> {
    close_range(3, u32::MAX, 4) // CLOSE_RANGE_CLOEXEC
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: only numbers; called by a fresh child whose copies of the parent's values are never dropped, or before
    // anything was opened.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
}

pub(crate) fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::prctl(option, argument as libc::c_ulong, 0, 0, 0) }).map(drop)
}

/// `PR_CAP_AMBIENT` with one of its commands.
pub(crate) fn ambient(command: i32, capability: u64) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, command as libc::c_ulong, capability as libc::c_ulong, 0, 0) })
        .map(drop)
}

pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3: two words per set, low then high.
    let header: [u32; 2] = [0x2008_0522, 0];
    let halves = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    let data: [[u32; 3]; 2] = [halves(0), halves(32)];
    // SAFETY: header and data have the layout of version 3 and are live.
    check_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Gives `list` of `(RLIMIT_*, soft, hard)` to the calling process.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` is live; the old value is not wanted.
    check(unsafe { libc::prlimit64(0, resource as _, &limit, ptr::null_mut()) }).map(drop)
}

/// Raw calls: glibc's wrappers would signal every thread to do the same, and there is one.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is live and of the length given.
    check_long(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: only numbers.
    check_long(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: only numbers.
    check_long(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Loads a classic BPF program of 8-byte instructions.
pub(crate) fn seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len() / 8).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `len` instructions from `filter`, which needs no alignment for that.
    check_long(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
        .map(drop)
}

/// What the kernel calls the working directory; "(unreachable)…" when it is outside the root.
pub(crate) fn working_directory() -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is live and of the length given. The raw call, because glibc hides "(unreachable)".
    let length = check_long(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate(usize::try_from(length).unwrap_or_default().saturating_sub(1));
    Ok(buffer)
}

pub(crate) fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: path is NUL-terminated.
    check(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

pub(crate) fn fchdir(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: only numbers.
    check(unsafe { libc::fchdir(directory.as_raw_fd()) }).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }).map(drop)
}

/// Ends at once; nothing is flushed or dropped.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Blocks every signal, or none.
pub(crate) fn block_signals(all: bool) {
    // SAFETY: all zero bytes are a valid sigset_t, filled right after; the old set is not wanted.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        if all {
            libc::sigfillset(&mut set);
        } else {
            libc::sigemptyset(&mut set);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// A descriptor that becomes readable when a child has ended.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: all zero bytes are a valid sigset_t, filled right after.
    own(unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }
    .into())
}

/// Every signal does what it does by default: our starter may have ignored some, Rust's start-up code ignores
/// SIGPIPE, and an exec hands that on; with SIGCHLD ignored there would be nobody to reap.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is valid for every signal; the few that refuse can't be changed by anybody.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A session keyring of its own: the one inherited may hold the host's keys.
pub(crate) fn new_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for one without a name.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    match check_long(joined) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()), // a kernel without keys
        done => done.map(drop),
    }
}

/// What `ps` shows, at most 15 bytes.
pub(crate) fn set_name(name: &CStr) -> io::Result<()> {
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }).map(drop)
}

//! Who the process is and what it may do, taken on in an order in which each step is still allowed to be taken.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use shim::plan::{Launch, User};

use super::{Doing, Failure, seccomp};
use crate::sys;
use crate::sys::process;

/// Needed to load a filter without `no_new_privs`.
const SYS_ADMIN: u64 = 1 << 21;

/// No capability has a higher number than this in a 64-bit set.
const MOST_CAPABILITIES: u64 = 64;

/// A pipe or terminal on stdio belongs to the user, who may then open `/dev/stdout` again.
pub(super) fn own_stdio(user: &User) -> Result<(), Failure> {
    for number in 0..3 {
        // SAFETY: descriptors 0 to 2 are open from the start.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        own(file, user.uid, user.gid)?;
    }
    Ok(())
}

/// Gives a pipe to a user; what is anything else stays whose it is.
pub(super) fn own(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Failure> {
    let doing = || format!("giving descriptor {} to user {uid}", file.as_raw_fd());
    let found = sys::fstat(file).doing(doing)?;
    if found.st_mode & libc::S_IFMT == libc::S_IFIFO && (found.st_uid, found.st_gid) != (uid, gid) {
        sys::chownat(file, c"", uid, gid).doing(doing)?;
    }
    Ok(())
}

/// 0 of the user namespace that was just entered: whoever is nobody in it can make nothing in it.
pub(super) fn become_root() -> Result<(), Failure> {
    process::become_user(0, 0, &[]).doing(|| "becoming root of the user namespace".into())
}

pub(super) fn limit(limits: &[(u32, u64, u64)]) -> Result<(), Failure> {
    limits.iter().try_for_each(|(resource, soft, hard)| {
        process::set_limit(*resource, *soft, *hard).doing(|| format!("setting limit {resource} to {soft}, {hard}"))
    })
}

/// Working directory, user, capabilities and filter; `ready` is called before the filter could forbid it.
pub(super) fn assume(launch: &Launch, ready: impl FnOnce()) -> Result<(), Failure> {
    let entered = enter_directory(&launch.cwd);
    drop_bounding(launch.capabilities.bounding)?;
    become_user(&launch.user)?;
    // Some directories only their owner can enter, not even root (a network file system): tried again as the user.
    entered.or_else(|_| enter_directory(&launch.cwd))?;
    process::set_umask(launch.user.umask.unwrap_or(0o022));
    ready();
    if launch.no_new_privileges { confine_for_good(launch) } else { confine(launch) }
}

/// A directory that is not below the root would be a way out of it.
fn enter_directory(path: &CStr) -> Result<(), Failure> {
    let doing = || format!("entering the working directory {}", path.to_string_lossy());
    process::chdir(path).doing(doing)?;
    if process::working_directory().doing(doing)?.starts_with(b"/") {
        Ok(())
    } else {
        Err(Failure::plain(format!("{}: it is outside the root", doing()), libc::EXDEV))
    }
}

fn drop_bounding(keep: u64) -> Result<(), Failure> {
    for capability in (0..MOST_CAPABILITIES).filter(|capability| keep & (1 << capability) == 0) {
        match process::prctl(libc::PR_CAPBSET_DROP, capability) {
            // The first number the kernel does not know.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            done => done.doing(|| format!("dropping capability {capability}"))?,
        }
    }
    Ok(())
}

fn become_user(user: &User) -> Result<(), Failure> {
    let become_it = || -> io::Result<()> {
        process::prctl(libc::PR_SET_KEEPCAPS, 1)?;
        process::become_user(user.uid, user.gid, &user.groups)?;
        process::prctl(libc::PR_SET_KEEPCAPS, 0)
    };
    become_it().doing(|| format!("becoming user {}, group {}", user.uid, user.gid))
}

/// With `no_new_privs` the filter needs no capability and comes last.
fn confine_for_good(launch: &Launch) -> Result<(), Failure> {
    process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).doing(|| "setting no_new_privs".into())?;
    take_capabilities(launch, 0)?;
    raise_ambient(launch.capabilities.ambient)?;
    seccomp::load(launch)
}

/// Without it the filter needs CAP_SYS_ADMIN, which is given up right after.
fn confine(launch: &Launch) -> Result<(), Failure> {
    let spare = if launch.seccomp.is_empty() { 0 } else { SYS_ADMIN };
    take_capabilities(launch, spare)?;
    raise_ambient(launch.capabilities.ambient)?;
    seccomp::load(launch)?;
    if spare == 0 { Ok(()) } else { take_capabilities(launch, 0) }
}

fn take_capabilities(launch: &Launch, spare: u64) -> Result<(), Failure> {
    let sets = &launch.capabilities;
    process::capset(sets.effective | spare, sets.permitted | spare, sets.inheritable)
        .doing(|| format!("taking on capabilities {:#x}", sets.permitted))
}

fn raise_ambient(ambient: u64) -> Result<(), Failure> {
    for capability in (0..MOST_CAPABILITIES).filter(|capability| ambient & (1 << capability) != 0) {
        process::ambient(libc::PR_CAP_AMBIENT_RAISE, capability)
            .doing(|| format!("raising ambient capability {capability}"))?;
    }
    Ok(())
}

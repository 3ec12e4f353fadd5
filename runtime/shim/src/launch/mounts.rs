//! One mount of a plan: made detached, given its flags, then attached where its target was found to be.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use shim::plan::Mount;

use super::inside::{Inside, Missing};
use super::{Doing, Failure};
use crate::sys;
use crate::sys::mounts::{self, Configuring};

/// `MS_*` flags of one mount with the `MOUNT_ATTR_*` they mean.
const ATTRIBUTES: [(u64, u64); 7] = [
    (libc::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, libc::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    (libc::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
    (libc::MS_NOATIME, libc::MOUNT_ATTR_NOATIME),
    (libc::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME),
];

/// `MS_*` flags of a file system with the option they mean.
const OPTIONS: [(u64, &CStr); 4] = [
    (libc::MS_SYNCHRONOUS, c"sync"),
    (libc::MS_DIRSYNC, c"dirsync"),
    (libc::MS_LAZYTIME, c"lazytime"),
    (libc::MS_MANDLOCK, c"mand"),
];

/// Flags that say how, not what: MS_RELATIME is what the kernel does anyway, MS_SILENT only quiets its log.
const HOW: u64 = libc::MS_BIND | libc::MS_REC | libc::MS_RELATIME | libc::MS_SILENT;

/// What a bind brings, attached nowhere; nothing for a file system that is to be made.
pub(super) fn source(mount: &Mount) -> Result<Option<OwnedFd>, Failure> {
    refuse_unknown(mount)?;
    if mount.flags & libc::MS_BIND == 0 { Ok(None) } else { clone(mount).map(Some) }
}

pub(super) fn mount(inside: &Inside, mount: &Mount, source: Option<OwnedFd>) -> Result<(), Failure> {
    let doing = || describe(mount);
    let bind = source.is_some();
    let tree = source.map_or_else(|| make(mount), Ok)?;
    let is_directory = !bind || sys::kind(tree.as_fd()).doing(doing)? == libc::S_IFDIR;
    let target = target(inside, mount, is_directory).doing(doing)?;
    mounts::attach(tree.as_fd(), target.as_fd()).doing(doing)?;
    let recursive = mount.propagation & libc::MS_REC != 0;
    match mount.propagation & !libc::MS_REC {
        0 => Ok(()),
        // Only now: sharing begins where the mount is, not where it was cloned.
        propagation => mounts::change(tree.as_fd(), 0, 0, propagation, recursive).doing(doing),
    }
}

fn describe(mount: &Mount) -> String {
    let what = if mount.flags & libc::MS_BIND != 0 { &mount.source } else { &mount.fstype };
    format!("mounting {} at {}", what.to_string_lossy(), mount.target.display())
}

/// A flag that is not understood may be one that confines.
fn refuse_unknown(mount: &Mount) -> Result<(), Failure> {
    let known = HOW
        | ATTRIBUTES.iter().fold(0, |all, (flag, _)| all | flag)
        | if mount.flags & libc::MS_BIND == 0 { OPTIONS.iter().fold(0, |all, (flag, _)| all | flag) } else { 0 };
    match mount.flags & !known {
        0 => Ok(()),
        unknown => Err(Failure::plain(format!("{}: unknown flags {unknown:#x}", describe(mount)), libc::EINVAL)),
    }
}

/// `(set, clear)` for `mount_setattr`.
fn attributes(flags: u64) -> (u64, u64) {
    let set = ATTRIBUTES.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |all, (_, attribute)| all | attribute);
    let times = libc::MS_NOATIME | libc::MS_STRICTATIME | libc::MS_RELATIME;
    (set, if flags & times != 0 { libc::MOUNT_ATTR__ATIME } else { 0 })
}

fn clone(mount: &Mount) -> Result<OwnedFd, Failure> {
    let doing = || describe(mount);
    // An empty path would be our working directory: the host's root.
    if !mount.source.as_bytes().starts_with(b"/") {
        return Err(Failure::plain(format!("{}: its source is not an absolute path", doing()), libc::EINVAL));
    }
    // SAFETY: AT_FDCWD is always valid to borrow.
    let here = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
    let tree = mounts::clone_tree(here, &mount.source, mount.flags & libc::MS_REC != 0).doing(doing)?;
    let (set, clear) = attributes(mount.flags);
    if set | clear != 0 {
        mounts::change(tree.as_fd(), set, clear, 0, false).doing(doing)?;
    }
    if mount.recursive_readonly {
        mounts::change(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, 0, 0, true).doing(doing)?;
    }
    Ok(tree)
}

fn make(mount: &Mount) -> Result<OwnedFd, Failure> {
    let made = Configuring::open(&mount.fstype).doing(|| describe(mount))?;
    configured(&made, mount).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or_default();
        match made.complaint() {
            Some(complaint) => Failure::plain(format!("{}: {complaint}", describe(mount)), errno),
            None => Failure::new(describe(mount), errno),
        }
    })
}

fn configured(made: &Configuring, mount: &Mount) -> std::io::Result<OwnedFd> {
    if !mount.source.is_empty() {
        made.text(c"source", &mount.source)?;
    }
    for (_, option) in OPTIONS.iter().filter(|(flag, _)| mount.flags & flag != 0) {
        made.flag(option)?;
    }
    for option in mount.data.to_bytes().split(|byte| *byte == b',').filter(|option| !option.is_empty()) {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| std::io::ErrorKind::InvalidInput);
        match option.iter().position(|byte| *byte == b'=') {
            Some(at) => made.text(&text(&option[..at])?, &text(&option[at + 1..])?)?,
            None => made.flag(&text(option)?)?,
        }
    }
    made.mount(attributes(mount.flags).0)
}

/// procfs and sysfs are what masks and checks rely on: an image must not lead them elsewhere by a link.
fn target(inside: &Inside, mount: &Mount, is_directory: bool) -> std::io::Result<OwnedFd> {
    let missing = if is_directory { Missing::Directory } else { Missing::File };
    let found = inside.ensure(&mount.target, missing)?;
    let strict = [c"proc", c"sysfs"].contains(&mount.fstype.as_c_str()) && mount.flags & libc::MS_BIND == 0;
    if strict { inside.open_plain(&mount.target, libc::O_PATH) } else { Ok(found) }
}

//! Mounts whose files belong to other ids than on disk (Linux 5.12): 0 of a user namespace where the disk says 0.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// What `source` leads to, with all that is mounted below it, as the user namespace at `users` is to see it; attached
/// nowhere.
///
/// # Errors
/// When it is not there, or its file system cannot be mounted with other ids: then the error says so.
pub(crate) fn clone(source: &Path, users: &File) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, flags)?;
    map(&tree, users).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            let why = "its file system, or one that is mounted below it, cannot be given the ids of a user namespace";
            io::Error::new(io::ErrorKind::Unsupported, why)
        }
        _ => error,
    })?;
    Ok(tree)
}

fn map(tree: &OwnedFd, users: &File) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid mount_attr.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
    attributes.userns_fd = u64::try_from(users.as_raw_fd()).unwrap_or(u64::MAX);
    // SAFETY: the path is NUL-terminated, `attributes` is live and of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            mem::size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a detached mount at `target`.
///
/// # Errors
/// When nothing can be mounted there.
pub(crate) fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

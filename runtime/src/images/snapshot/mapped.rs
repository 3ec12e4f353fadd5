//! A snapshot for a user namespace: its layers are shown with the namespace's ids (overlayfs takes such since Linux 5.19),
//! its writable layer holds the host's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::thread::UnshareFlags;

use super::mount;
use crate::idmap;

/// Mounts an overlay of `lower` (highest first), as the user namespace at `users` is to see it, with `upper` on `root`.
pub(super) fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path, users: &Path) -> io::Result<()> {
    let users = File::open(users)?;
    // Older kernels take only layers that are mounted somewhere: each is mounted over itself, in a mount namespace that
    // ends with its thread, so that a crash leaves nothing behind. What is taken out of it is the finished overlay.
    let made = std::thread::scope(|scope| {
        let build = || build(lower, upper, work, root, &users);
        let thread = std::thread::Builder::new().stack_size(128 << 10).name("snapshot".into());
        let thread = thread.spawn_scoped(scope, build)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the snapshot thread panicked")))
    })?;
    idmap::attach(&made, root)
}

fn build(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path, users: &File) -> io::Result<OwnedFd> {
    // SAFETY: only this thread leaves its mount namespace and shares no working directory with others from here on; it
    // ends here.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for layer in lower {
        idmap::attach(&idmap::clone(layer, users)?, layer)?;
    }
    mount::overlay(lower, upper, work, root)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, root, flags)?)
}

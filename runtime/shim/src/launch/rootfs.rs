//! From a directory on the host to the `/` of a container.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shim::plan::Root;

use super::inside::{Inside, Missing};
use super::{Doing, Failure, hidden, identity, mounts, nodes};
use crate::sys;
use crate::sys::mounts::{attach, change, clone_tree, detach_here, pivot_here, propagate};
use crate::sys::process;

/// Mounts everything below the new root and makes it `/`. Read-only comes last, with [`finish`].
///
/// Sources are found first, with what are still the host's ids: in a user namespace its root may not look into the
/// host's closed directories, and only its root can make things in the container's.
pub(super) fn build(root: &Root, in_users: bool) -> Result<(), Failure> {
    let inside = Inside::of(prepare(root)?);
    let sources = root.mounts.iter().map(mounts::source).collect::<Result<Vec<_>, _>>()?;
    if in_users {
        identity::become_root()?;
    }
    root.mounts.iter().zip(sources).try_for_each(|(mount, source)| mounts::mount(&inside, mount, source))?;
    root.devices.iter().try_for_each(|device| nodes::device(&inside, device))?;
    root.links.iter().try_for_each(|(target, path)| nodes::link(&inside, target, path))?;
    hidden::mask(&inside, &root.masked)?;
    hidden::make_readonly(&inside, &root.readonly_paths)?;
    pivot(inside.root()).doing(|| format!("making {} the root", root.path.display()))
}

/// What may only be done in the new root: its working directory is made, then it becomes read-only.
pub(super) fn finish(root: &Root, inside: &Inside, cwd: &CStr) -> Result<(), Failure> {
    let path = Path::new(std::ffi::OsStr::from_bytes(cwd.to_bytes()));
    inside.ensure(path, Missing::Directory).doing(|| format!("making the working directory {}", path.display()))?;
    if root.readonly {
        change(inside.root(), libc::MOUNT_ATTR_RDONLY, 0, 0, false).doing(|| "making the root read-only".into())?;
    }
    Ok(())
}

/// An empty read-only root.
pub(super) fn empty() -> Result<(), Failure> {
    let made = || -> io::Result<()> {
        process::unshare(libc::CLONE_NEWNS as u64)?;
        propagate(c"/", libc::MS_SLAVE | libc::MS_REC)?;
        let tree = hidden::empty_directory()?;
        // Any directory that is certain to be there; it is gone with the old root.
        attach(tree.as_fd(), sys::open(Path::new("/proc"), libc::O_PATH)?.as_fd())?;
        pivot(tree.as_fd())
    };
    made().doing(|| "making an empty root".into())
}

/// The root's mount, a private copy, attached over its own directory: a root to pivot into must be a mount.
fn prepare(root: &Root) -> Result<OwnedFd, Failure> {
    let doing = || format!("preparing the root {}", root.path.display());
    if !root.path.is_absolute() {
        return Err(Failure::plain(format!("{}: it is not an absolute path", doing()), libc::EINVAL));
    }
    let propagation = if root.propagation == 0 { libc::MS_SLAVE | libc::MS_REC } else { root.propagation };
    propagate(c"/", propagation).doing(|| "changing the propagation of /".into())?;
    if propagation & libc::MS_SHARED != 0 {
        make_parent_private(&root.path).doing(doing)?;
    }
    // SAFETY: AT_FDCWD is always valid to borrow.
    let here = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };
    let tree = clone_tree(here, &sys::c_path(&root.path).doing(doing)?, true).doing(doing)?;
    change(tree.as_fd(), 0, 0, libc::MS_PRIVATE, true).doing(doing)?;
    let spot = sys::open(&root.path, libc::O_PATH | libc::O_DIRECTORY).doing(doing)?;
    attach(tree.as_fd(), spot.as_fd()).doing(doing)?;
    Ok(tree)
}

/// pivot_root refuses a root whose parent mount is shared, and our mount would show up on the host. A snapshot is a
/// mount of its own, so that only this one stops being shared; for a plain directory it is what that is on.
fn make_parent_private(path: &Path) -> io::Result<()> {
    for directory in path.ancestors() {
        match propagate(&sys::c_path(directory)?, libc::MS_PRIVATE) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {} // not a mount point
            done => return done,
        }
    }
    Ok(())
}

fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    let old = sys::open(Path::new("/"), libc::O_PATH | libc::O_DIRECTORY)?;
    process::fchdir(root)?;
    pivot_here()?;
    process::fchdir(old.as_fd())?;
    // Detaching a shared mount would detach it on the host as well.
    propagate(c".", libc::MS_SLAVE | libc::MS_REC)?;
    detach_here()?;
    process::chdir(c"/")
}

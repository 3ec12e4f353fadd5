//! Device nodes and links of a container's `/dev`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use shim::plan::Device;

use super::inside::{Inside, Missing};
use super::{Doing, Failure};
use crate::sys;
use crate::sys::mounts;

/// Makes a node, or binds the host's where making one is not allowed.
pub(super) fn device(inside: &Inside, device: &Device) -> Result<(), Failure> {
    let doing = || format!("making device {}", device.path.display());
    let (parent, name) = inside.parent(&device.path).doing(doing)?;
    let number = libc::makedev(device.major, device.minor);
    match sys::mknodat(parent.as_fd(), &name, device.mode, number) {
        Ok(()) => sys::chownat(parent.as_fd(), &name, device.uid, device.gid).doing(doing),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => same(parent.as_fd(), &name, device)
            .doing(|| format!("device {} is there as something else", device.path.display())),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => bind(inside, device).doing(doing),
        failed => failed.doing(doing),
    }
}

fn same(parent: BorrowedFd<'_>, name: &CStr, device: &Device) -> io::Result<()> {
    let found = sys::openat(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    is_that(found.as_fd(), device)
}

fn is_that(found: BorrowedFd<'_>, device: &Device) -> io::Result<()> {
    let found = sys::fstat(found)?;
    let number = libc::makedev(device.major, device.minor);
    if found.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && found.st_rdev == number {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EEXIST))
    }
}

fn bind(inside: &Inside, device: &Device) -> io::Result<()> {
    let host = sys::open(&device.path, libc::O_PATH | libc::O_NOFOLLOW)?;
    is_that(host.as_fd(), device)?;
    let target = inside.ensure(&device.path, Missing::File)?;
    let tree = mounts::clone_tree(host.as_fd(), c"", false)?;
    mounts::attach(tree.as_fd(), target.as_fd())
}

/// A symbolic link; what an image already has in its place stays.
pub(super) fn link(inside: &Inside, target: &CString, path: &Path) -> Result<(), Failure> {
    let doing = || format!("linking {} to {}", path.display(), target.to_string_lossy());
    let (parent, name) = inside.parent(path).doing(doing)?;
    match sys::symlinkat(target, parent.as_fd(), &name) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        done => done.doing(doing),
    }
}

//! Paths a container must not see or not write, most of them in `/proc`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::inside::Inside;
use super::{Doing, Failure};
use crate::sys;
use crate::sys::mounts::{self, Configuring};

/// What is put over hidden things; each made when first needed, then cloned.
#[derive(Default)]
struct Covers {
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
}

/// Puts `/dev/null` over files and an empty read-only directory over directories.
pub(super) fn mask(inside: &Inside, paths: &[impl AsRef<Path>]) -> Result<(), Failure> {
    let mut covers = Covers::default();
    for (index, path) in paths.iter().map(AsRef::as_ref).enumerate() {
        let doing = || format!("masking {}", path.display());
        if paths[..index].iter().any(|earlier| earlier.as_ref() == path) {
            continue; // what covers it is no longer on procfs
        }
        if let Some(target) = find(inside, path).doing(doing)? {
            cover(&mut covers, target.as_fd()).doing(doing)?;
        }
    }
    Ok(())
}

/// Binds paths over themselves read-only, with all that is mounted below.
pub(super) fn make_readonly(inside: &Inside, paths: &[impl AsRef<Path>]) -> Result<(), Failure> {
    for path in paths.iter().map(AsRef::as_ref) {
        let doing = || format!("making {} read-only", path.display());
        if let Some(target) = find(inside, path).doing(doing)? {
            let tree = mounts::clone_tree(target.as_fd(), c"", true).doing(doing)?;
            mounts::change(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, 0, 0, true).doing(doing)?;
            mounts::attach(tree.as_fd(), target.as_fd()).doing(doing)?;
        }
    }
    Ok(())
}

/// `None` when it is not there. What is named below `/proc` must be procfs: a mask on anything else hides nothing.
fn find(inside: &Inside, path: &Path) -> io::Result<Option<OwnedFd>> {
    let found = match inside.open(path, libc::O_PATH) {
        Ok(found) => found,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(None),
        Err(error) => return Err(error),
    };
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    if path.starts_with("/proc") && sys::filesystem(found.as_fd())? != libc::PROC_SUPER_MAGIC as i64 {
        return Err(io::Error::other("it is not on procfs"));
    }
    Ok(Some(found))
}

fn cover(covers: &mut Covers, target: BorrowedFd<'_>) -> io::Result<()> {
    let original = if sys::kind(target)? == libc::S_IFDIR {
        let Some(original) = &covers.empty else {
            // The first is used as it is: before Linux 6.15 only what is attached somewhere can be cloned.
            let made = covers.empty.insert(empty_directory()?);
            return mounts::attach(made.as_fd(), target);
        };
        original
    } else {
        match &mut covers.null {
            Some(original) => original,
            slot => slot.insert(null_device()?),
        }
    };
    let tree = mounts::clone_tree(original.as_fd(), c"", false)?;
    mounts::attach(tree.as_fd(), target)
}

/// A read-only tmpfs with nothing in it.
pub(super) fn empty_directory() -> io::Result<OwnedFd> {
    let made = Configuring::open(c"tmpfs")?;
    made.text(c"nr_inodes", c"1")?;
    made.text(c"nr_blocks", c"1")?;
    made.text(c"mode", c"755")?;
    made.mount(libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC)
}

/// The host's `/dev/null`, which really is device 1:3.
fn null_device() -> io::Result<OwnedFd> {
    let null = sys::open(Path::new("/dev/null"), libc::O_PATH | libc::O_NOFOLLOW)?;
    let found = sys::fstat(null.as_fd())?;
    if found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == libc::makedev(1, 3) {
        Ok(null)
    } else {
        Err(io::Error::other("/dev/null of the host is not the null device"))
    }
}

//! Sub paths: resolved once, by descriptor, inside of the volume whatever links a container has put there, and the
//! descriptor is what gets mounted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::SetUpError;
use super::error::io;
use super::mounts::Mounts;

/// Somebody may rename directories while the kernel resolves `..`: it then asks to be tried again.
const TRIES: usize = 16;

/// Makes `target` show what `path` is inside of the volume at `root`. A target that already does is left alone.
pub(super) fn bind(root: &Path, path: &str, target: &Path, mounts: &dyn Mounts) -> Result<(), SetUpError> {
    check(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let volume = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(io("opening", root))?;
    let source = open_or_make(&volume, path).map_err(io("resolving a sub path in", root))?;
    let stat = rustix::fs::fstat(&source).map_err(io("looking at a sub path in", root))?;
    if mounts.is_mounted(target).map_err(io("looking at", target))? {
        let bound = fs::symlink_metadata(target).map_err(io("looking at", target))?;
        if (bound.dev(), bound.ino()) == (stat.st_dev, stat.st_ino) {
            return Ok(());
        }
        unmount_all(target, mounts)?;
    }
    make_target(target, FileType::from_raw_mode(stat.st_mode).is_dir())?;
    mounts.bind(source.as_fd(), target).map_err(io("binding a sub path to", target))
}

/// Takes away whatever is mounted at `target`, layer by layer.
fn unmount_all(target: &Path, mounts: &dyn Mounts) -> Result<(), SetUpError> {
    while mounts.is_mounted(target).map_err(io("looking at", target))? {
        mounts.unmount(target).map_err(io("unmounting", target))?;
    }
    Ok(())
}

fn check(path: &str) -> Result<(), SetUpError> {
    let reason = if path.starts_with('/') {
        "must not be an absolute path"
    } else if path.split('/').any(|part| part == "..") {
        "must not contain .."
    } else if path.is_empty() || path.contains('\0') || path.len() > 4096 {
        "must be 1 to 4096 bytes"
    } else {
        return Ok(());
    };
    Err(SetUpError::Path { path: path.to_owned(), reason })
}

/// What `path` is below `volume`, links included as long as they stay below. What is missing becomes a directory.
fn open_or_make(volume: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    // What a container has open elsewhere may change under us; each round makes one missing part.
    for _ in 0..TRIES + path.split('/').count() {
        match beneath(volume, path) {
            Err(Errno::NOENT) => make_first_missing(volume, path)?,
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

fn beneath(volume: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(volume, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Makes the first part of `path` that is not there, with the mode of the volume.
fn make_first_missing(volume: &OwnedFd, path: &str) -> Result<(), Errno> {
    let mode = rustix::fs::fstat(volume)?.st_mode & 0o7777;
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut parent = beneath(volume, ".")?;
    for end in 1..=parts.len() {
        match beneath(volume, &parts[..end].join("/")) {
            Ok(found) => parent = found,
            Err(Errno::NOENT) => {
                let part = parts[end - 1];
                match rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(mode & 0o777)) {
                    // A link to nowhere stands there: not ours to follow or to replace.
                    Err(Errno::EXIST) if beneath(volume, &parts[..end].join("/")).is_err() => return Err(Errno::LOOP),
                    Err(Errno::EXIST) => return Ok(()),
                    made => made?,
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&parent, part, flags, Mode::empty())?;
                // Against the umask; set-gid comes from the parent, as for every directory there.
                let inherited = rustix::fs::fstat(&made)?.st_mode & 0o2000;
                return rustix::fs::fchmod(&made, Mode::from_raw_mode(mode & 0o777 | inherited));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The place to bind on: a directory or a file, as the source is.
fn make_target(target: &Path, is_dir: bool) -> Result<(), SetUpError> {
    let failed = || io("creating", target);
    let parent = target.parent().unwrap_or(target);
    DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(io("creating", parent))?;
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() == is_dir => return Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir(target).map_err(failed())?,
        Ok(_) => fs::remove_file(target).map_err(failed())?,
        Err(_) => {}
    }
    if is_dir {
        DirBuilder::new().mode(0o750).create(target).map_err(failed())
    } else {
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(target).map(drop).map_err(failed())
    }
}

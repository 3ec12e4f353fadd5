//! Removing what containers have written: by descriptor, never through a link, never across a mount, however deep.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::mounts::is_mount_root;

/// Deeper directories are moved up instead of being walked into, so that neither the stack nor the number of open
/// files is up to a container.
const DEEPEST: usize = 32;

/// Removes the entry `name` of `dir` with everything in it. What does not exist is fine.
///
/// A mount in it is `EBUSY`; what stands beside it is gone by then.
pub(super) fn entry(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR, POSIX EPERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if is_mount_root(dir, name)? {
        return Err(Errno::BUSY.into());
    }
    if let Some(root) = open(dir, name)? {
        contents(&root)?;
    }
    rmdir(dir, name)
}

/// Removes everything in `dir`, but not `dir`.
pub(super) fn contents(dir: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u32;
    while level(dir, dir, 0, &mut moved)? {}
    Ok(())
}

/// Empties one directory; whether something was moved up to `top` and is to be removed from there.
fn level(top: &OwnedFd, dir: &OwnedFd, depth: usize, moved: &mut u32) -> io::Result<bool> {
    let mut again = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let path = Path::new(OsStr::from_bytes(name.to_bytes()));
        if is_mount_root(dir.as_fd(), path)? {
            return Err(Errno::BUSY.into());
        }
        if depth == DEEPEST {
            move_up(top, dir.as_fd(), path, moved)?;
            again = true;
            continue;
        }
        if let Some(below) = open(dir.as_fd(), path)? {
            again |= level(top, &below, depth + 1, moved)?;
        }
        rmdir(dir.as_fd(), path)?;
    }
    Ok(again)
}

fn move_up(top: &OwnedFd, dir: BorrowedFd<'_>, name: &Path, moved: &mut u32) -> io::Result<()> {
    loop {
        *moved = moved.wrapping_add(1);
        let fresh = format!("..removing-{moved}");
        match rustix::fs::renameat_with(dir, name, top, &*fresh, rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn rmdir(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn links_are_removed_and_what_they_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("kept"), "x").unwrap();
        fs::create_dir_all(dir.path().join("gone/a/b")).unwrap();
        symlink(dir.path(), dir.path().join("gone/a/up")).unwrap();
        symlink("../kept", dir.path().join("gone/link")).unwrap();
        entry(CWD, &dir.path().join("gone")).unwrap();
        assert!(!dir.path().join("gone").exists());
        assert!(dir.path().join("kept").exists());
        entry(CWD, &dir.path().join("gone")).unwrap();
    }

    #[test]
    fn depth_is_no_bound() {
        // More levels than a process may have files open.
        let dir = tempfile::tempdir().unwrap();
        let mut at = open(CWD, dir.path()).unwrap().unwrap();
        rustix::fs::mkdirat(&at, "top", Mode::RWXU).unwrap();
        for _ in 0..1_100 {
            let below = open(at.as_fd(), Path::new("top")).unwrap().unwrap();
            rustix::fs::mkdirat(&below, "top", Mode::RWXU).unwrap();
            at = below;
        }
        entry(CWD, &dir.path().join("top")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

//! `fsGroup`: a group gets access to what is in a volume (see `volumes`, section 9).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;

use super::SetUpError;
use super::error::io;

/// Gives all of `dir` to `group`, contents before their directory. Only called where no container has written yet, so
/// the depth is that of our own paths.
pub(super) fn give(dir: &Path, group: u32, read_only: bool) -> Result<(), SetUpError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(io("opening", dir))?;
    give_all(&root, Gid::from_raw(group), read_only).map_err(io("giving the fsGroup", dir))
}

fn give_all(dir: &OwnedFd, group: Gid, read_only: bool) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                give_all(&rustix::fs::openat(dir, name, flags, Mode::empty())?, group, read_only)?;
            }
            FileType::Symlink => rustix::fs::chownat(dir, name, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?,
            _ => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                one(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd(), group, read_only, false)?;
            }
        }
    }
    one(dir.as_fd(), group, read_only, true)
}

fn one(file: BorrowedFd<'_>, group: Gid, read_only: bool, is_dir: bool) -> Result<(), Errno> {
    rustix::fs::chownat(file, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    let mask = if read_only { 0o440 } else { 0o660 } | if is_dir { 0o2110 } else { 0 };
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777 | mask;
    // A path descriptor cannot be changed itself; its link in /proc can, and names nothing but this file.
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::chmodat(CWD, link, Mode::from_raw_mode(mode), AtFlags::empty())
}

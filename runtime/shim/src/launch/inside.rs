//! Paths below a container's root, which its image (or a neighbour that shares a volume) may have filled with links:
//! every one is resolved by the kernel below the root's descriptor, and used as the descriptor it led to.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sys;

/// As many links as the kernel follows in one path.
const MOST_LINKS: usize = 40;

/// What to make where nothing is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

/// A root, by descriptor.
#[derive(Debug)]
pub(super) struct Inside(OwnedFd);

impl Inside {
    pub(super) fn of(root: OwnedFd) -> Self {
        Self(root)
    }

    /// The root the calling process has now.
    pub(super) fn current() -> io::Result<Self> {
        sys::open(Path::new("/"), libc::O_PATH | libc::O_DIRECTORY).map(Self)
    }

    pub(super) fn root(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens what is there; links are followed inside the root.
    pub(super) fn open(&self, path: &Path, flags: i32) -> io::Result<OwnedFd> {
        sys::openat2(self.root(), &sys::c_path(path)?, flags, 0, sys::IN_ROOT)
    }

    /// Opens what is there if no link is on the way.
    pub(super) fn open_plain(&self, path: &Path, flags: i32) -> io::Result<OwnedFd> {
        sys::openat2(self.root(), &sys::c_path(path)?, flags, 0, sys::IN_ROOT | libc::RESOLVE_NO_SYMLINKS)
    }

    /// A handle (`O_PATH`) to `path`, which is made with all its parents when missing, also at the end of links.
    pub(super) fn ensure(&self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        match self.open(path, libc::O_PATH) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.make(path, missing),
            found => found,
        }
    }

    /// The directory (made when missing) that `path` is in, and its last name.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(OwnedFd, CString)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.ensure(parent, Missing::Directory)?, sys::c_path(Path::new(name))?))
    }

    /// Walks name by name: `real` never has a link in it, `left` is what follows, last name first.
    fn make(&self, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
        let mut real = PathBuf::from("/");
        let mut left = names(path.as_os_str().as_bytes());
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                real.pop();
                continue;
            }
            let next = real.join(OsStr::from_bytes(&name));
            match self.open(&next, libc::O_PATH | libc::O_NOFOLLOW) {
                Ok(found) if sys::kind(found.as_fd())? == libc::S_IFLNK => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(io::Error::from_raw_os_error(libc::ELOOP));
                    }
                    let target = sys::readlinkat(found.as_fd(), c"")?;
                    if target.starts_with(b"/") {
                        real = PathBuf::from("/");
                    }
                    left.extend(names(&target));
                }
                Ok(_) => real = next,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    let wanted = if left.is_empty() { missing } else { Missing::Directory };
                    self.make_one(&real, &name, wanted)?;
                    real = next;
                }
                Err(error) => return Err(error),
            }
        }
        self.open(&real, libc::O_PATH)
    }

    fn make_one(&self, parent: &Path, name: &[u8], missing: Missing) -> io::Result<()> {
        let parent = self.open_plain(parent, libc::O_PATH | libc::O_DIRECTORY)?;
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        match missing {
            Missing::Directory => sys::mkdirat(parent.as_fd(), &name, 0o755),
            Missing::File => {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
                sys::openat(parent.as_fd(), &name, flags, 0o644).map(drop)
            }
        }
    }
}

/// The names of a path, last first, without empty ones and `.`.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests;

//! A folder held by descriptor: everything is looked up below it, links cannot lead out, mounts are not crossed.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Opens `path` below `root` as if `root` were `/`: links and `..` are followed, but never out of it.
pub(crate) fn open_in_root(root: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    open_beneath(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `name` in `folder` without following any link or entering a mount.
pub(crate) fn open_plain(folder: impl AsFd, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    open_beneath(folder, name, flags | OFlags::NOFOLLOW, resolve)
}

fn open_beneath(root: impl AsFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    // The kernel answers EAGAIN when anything on the machine was renamed while it walked a `..`.
    for _ in 0..64 {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a folder by an absolute path of ours.
pub(crate) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// What is at `name`, itself and not what it links to; `None` if nothing is.
pub(crate) fn stat(folder: impl AsFd, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes `name` with all it holds; nothing there is fine. Stops at a mount instead of emptying it.
pub(crate) fn remove(folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if unlinked(folder, name)? {
        return Ok(());
    }
    empty(open_plain(folder, name, OFlags::DIRECTORY | OFlags::RDONLY)?)?;
    gone(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR))
}

/// [`remove`] of a path of ours.
pub(crate) fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    match open_folder(parent) {
        Ok(folder) => remove(&folder, name.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// An open folder on the way down, and the name it has in the one above.
struct Level {
    listing: Dir,
    folder: OwnedFd,
    name: Vec<u8>,
}

impl Level {
    fn open(folder: OwnedFd, name: &[u8]) -> io::Result<Self> {
        Ok(Self { listing: Dir::read_from(&folder)?, folder, name: name.to_vec() })
    }
}

/// A stack of descriptors and no recursion: a container may nest folders deeper than any thread's stack.
fn empty(top: OwnedFd) -> io::Result<()> {
    // Each level holds two descriptors; what lies deeper is moved up and removed in another round.
    const MAX_OPEN: usize = 100;
    let mut moved = 0u32;
    loop {
        let before = moved;
        let mut open = vec![Level::open(open_plain(&top, b".", OFlags::DIRECTORY | OFlags::RDONLY)?, b".")?];
        loop {
            let deeper = open.len() < MAX_OPEN;
            let Some(level) = open.last_mut() else { break };
            let Some(entry) = level.listing.next() else {
                let done = open.pop();
                if let (Some(parent), Some(done)) = (open.last(), done) {
                    gone(rustix::fs::unlinkat(&parent.folder, done.name.as_slice(), AtFlags::REMOVEDIR))?;
                }
                continue;
            };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." || unlinked(&level.folder, name)? {
                continue;
            }
            if deeper {
                let child = open_plain(&level.folder, name, OFlags::DIRECTORY | OFlags::RDONLY)?;
                let level = Level::open(child, name)?;
                open.push(level);
            } else {
                moved += 1;
                rustix::fs::renameat(&level.folder, name, &top, format!(".longshore-moved-{moved}"))?;
            }
        }
        if moved == before {
            return Ok(());
        }
    }
}

/// Tries to remove what is no folder; false if it is one.
fn unlinked(folder: &OwnedFd, name: &[u8]) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        // A folder: EISDIR on Linux, EPERM in POSIX and on some network file systems.
        Err(Errno::ISDIR | Errno::PERM) => Ok(false),
        result => gone(result).map(|()| true),
    }
}

/// Success, or someone else was faster.
fn gone(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes on disk and inodes of a tree without its top; a file with several names counts once. Links are not followed,
/// mounts not entered, and folders deeper than 4096 bytes of path not counted: nobody can reach them by a path either.
pub(crate) fn usage(path: &Path) -> io::Result<(u64, u64)> {
    let top = open_folder(path)?;
    let mut seen = HashSet::new();
    let (mut bytes, mut inodes) = (0u64, 0u64);
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        // Whatever cannot be opened is gone, or was replaced: the container is at work.
        let Ok(folder) = open_plain(&top, &path, OFlags::DIRECTORY | OFlags::RDONLY) else { continue };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let Some(stat) = stat(&folder, name)? else { continue };
            if stat.st_nlink > 1 && !is_folder(&stat) && !seen.insert(stat.st_ino) {
                continue;
            }
            bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            inodes += 1;
            if is_folder(&stat) {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                todo.push([&path, slash, name].concat());
            }
        }
    }
    Ok((bytes, inodes))
}

/// Whether this is a folder.
pub(crate) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether this is overlayfs' mark for "nothing here, whatever is below".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

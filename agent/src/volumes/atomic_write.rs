//! Files of a volume that change all at once.
//!
//! ```text
//! ..data -> ..2026_11_20_22_10_00.0123456789     the one link that is swapped
//! ..2026_11_20_22_10_00.0123456789/dir/file      the files
//! dir -> ..data/dir                              what containers open; only the first part of a path is a link
//! ```
//!
//! Whoever opens a file through `..data` sees the old set or the new one, never a mix. Killed in between, the next
//! write removes what is left over.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::error::io;
use super::payload::{Payload, check_path};
use super::{SetUpError, ownership, remove};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`, and directories for the mounts that go on top of it at `points`: once it is
/// mounted read-only, it is too late for those. Nothing is rewritten when no content differs; modes alone do not count.
pub(super) fn write(
    dir: &Path,
    payload: &Payload,
    points: &BTreeSet<String>,
    fs_group: Option<u32>,
) -> Result<(), SetUpError> {
    payload.keys().try_for_each(|path| check_path(path))?;
    let root = open_dir(dir).map_err(io("opening", dir))?;
    let (inside, beside): (Vec<&String>, Vec<&String>) = points.iter().partition(|point| is_inside(point, payload));
    for point in beside {
        make_dirs(&root, point).map_err(io("making mount points in", dir))?;
    }
    let current = current(&root).map_err(io("reading", dir))?;
    let same = match &current {
        Some(name) => holds(&root, name, payload).map_err(io("comparing", dir))?,
        None => false,
    };
    if !same {
        let fresh = fill(&root, payload, &inside).map_err(io("writing", dir))?;
        if let Some(group) = fs_group {
            ownership::give(dir, group, true)?;
        }
        swap(&root, &fresh).map_err(io("swapping the content of", dir))?;
    }
    links(&root, payload).map_err(io("linking in", dir))?;
    tidy(&root).map_err(io("tidying", dir))
}

/// The point lies in a directory of the payload, which is reached through a link.
fn is_inside(point: &str, payload: &Payload) -> bool {
    let first = |path: &str| path.split('/').next().map(str::to_owned);
    payload.keys().any(|path| first(path) == first(point))
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir, flags, Mode::empty())
}

/// Opens below `dir` without following any link.
fn beneath(dir: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Whether a former call has written the volume.
pub(super) fn is_written(dir: &Path) -> bool {
    dir.join(DATA).exists()
}

/// The directory that `..data` names, if it is one of ours.
fn current(root: &OwnedFd) -> Result<Option<String>, Errno> {
    let target = match rustix::fs::readlinkat(root, DATA, Vec::new()) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = target.to_str().ok().filter(|name| is_ours(name));
    Ok(name.map(str::to_owned))
}

fn is_ours(name: &str) -> bool {
    name.starts_with("..2") && !name.contains('/')
}

/// Whether the directory `name` holds just these files with just this content.
fn holds(root: &OwnedFd, name: &str, payload: &Payload) -> Result<bool, Errno> {
    let dir = match beneath(root, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut files = BTreeSet::new();
    list(&dir, "", &mut files)?;
    if !files.iter().map(String::as_str).eq(payload.keys().map(String::as_str)) {
        return Ok(false);
    }
    for (path, file) in payload {
        if read(&dir, path, file.bytes.len())?.as_deref() != Some(&file.bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(dir: &OwnedFd, prefix: &str, files: &mut BTreeSet<String>) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let path = format!("{prefix}{name}");
        let stat = rustix::fs::statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = beneath(dir, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                list(&below, &format!("{path}/"), files)?;
            }
            _ => drop(files.insert(path)),
        }
    }
    Ok(())
}

/// The content of a file, as long as it is `length` bytes long.
fn read(dir: &OwnedFd, path: &str, length: usize) -> Result<Option<Vec<u8>>, Errno> {
    let file = match beneath(dir, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error),
    };
    if usize::try_from(rustix::fs::fstat(&file)?.st_size) != Ok(length) {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(length);
    match std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Writes everything into a new directory and returns its name.
fn fill(root: &OwnedFd, payload: &Payload, points: &[&String]) -> Result<String, Errno> {
    let (name, dir) = fresh(root)?;
    for (path, file) in payload {
        let (parents, base) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = make_dirs(&dir, parents)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&parent, base, flags, Mode::from_raw_mode(0o600))?;
        write_all(&created, &file.bytes)?;
        if let Some(owner) = file.owner {
            rustix::fs::fchown(&created, Some(Uid::from_raw(owner)), None)?;
        }
        rustix::fs::fchmod(&created, Mode::from_raw_mode(file.mode))?;
    }
    for point in points {
        match make_dirs(&dir, point) {
            // A file of the volume stands there: the runtime mounts on that.
            Ok(_) | Err(Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(name)
}

fn fresh(root: &OwnedFd) -> Result<(String, OwnedFd), Errno> {
    loop {
        let mut random = [0; 4];
        // Small reads never wait once the machine is up; the name only has to be new.
        let _ = rustix::io::read(open_random()?, &mut random)?;
        let name = format!("..{}.{:010}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"), u32::from_ne_bytes(random));
        match rustix::fs::mkdirat(root, &*name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                let dir = beneath(root, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))?;
                return Ok((name, dir));
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_random() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/urandom", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

fn make_dirs(dir: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let mut at = beneath(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = beneath(&at, part, OFlags::RDONLY | OFlags::DIRECTORY)?;
    }
    Ok(at)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn swap(root: &OwnedFd, name: &str) -> Result<(), Errno> {
    unlink(root, DATA_NEXT)?;
    rustix::fs::symlinkat(name, root, DATA_NEXT)?;
    rustix::fs::renameat(root, DATA_NEXT, root, DATA)
}

fn unlink(root: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(root, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Makes the links that containers see: first those that are missing, then away with those of vanished names.
fn links(root: &OwnedFd, payload: &Payload) -> Result<(), Errno> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let target = format!("{DATA}/{name}");
        match rustix::fs::readlinkat(root, *name, Vec::new()) {
            Ok(found) if found.to_bytes() == target.as_bytes() => {}
            Err(Errno::NOENT) => rustix::fs::symlinkat(&*target, root, *name)?,
            Ok(_) => {
                unlink(root, name)?;
                rustix::fs::symlinkat(&*target, root, *name)?;
            }
            // A mount point of the same name: what is mounted there hides the file anyway.
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    for name in entries(root)? {
        let ours = !wanted.contains(name.as_str()) && !name.starts_with("..");
        if ours && rustix::fs::readlinkat(root, &*name, Vec::new()).is_ok() {
            unlink(root, &name)?;
        }
    }
    Ok(())
}

/// Removes the directories that `..data` does not name: the former one, and those of writes that were cut off.
fn tidy(root: &OwnedFd) -> Result<(), Errno> {
    let current = current(root)?;
    for name in entries(root)? {
        if is_ours(&name) && Some(&name) != current.as_ref() {
            remove::entry(root.as_fd(), Path::new(&name))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
    }
    unlink(root, DATA_NEXT)
}

fn entries(root: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(root)? {
        match entry?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;

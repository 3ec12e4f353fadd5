//! A tar stream becomes a folder that overlayfs takes as a lower layer.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::name::{EntryName, Meaning};
use super::tar::{Entry, Kind, TarReader};
use super::{LayerLimits, UnpackError, shown, tree};

/// What a layer brought.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Bytes on disk, each file rounded up to 4 KiB.
    pub(crate) bytes: u64,
    /// Files, folders and links.
    pub(crate) inodes: u64,
    /// Folders that only follow from the names of other entries, `""` for the root: the layer says nothing about
    /// their owner and mode, so those of lower layers hold. Names that are not UTF-8 are left out.
    pub(crate) implied: BTreeSet<String>,
}

/// Unpacks a whole tar stream into the empty folder `root`, and reads the stream to its end.
pub(crate) fn unpack<R: Read>(input: R, root: OwnedFd, limits: LayerLimits) -> Result<(Unpacked, R), UnpackError> {
    let mut tar = TarReader::new(input, limits);
    let mut unpacker = Unpacker::new(root);
    while let Some(entry) = tar.next()? {
        unpacker.put(&entry, &mut tar.data())?;
    }
    let unpacked = unpacker.finish()?;
    Ok((unpacked, tar.finish()?))
}

// One system call per 128 KiB of a file.
const BUFFER: usize = 128 * 1024;
// Implied folders are kept with the layer; builders name all folders, so more than this is not worth remembering.
const MAX_IMPLIED: usize = 10_000;

struct Unpacker {
    root: OwnedFd,
    /// The folder that the last entry lay in: archives list a folder's files one after the other.
    current: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Times of folders, set last because every file put into one changes them.
    folder_times: HashMap<Vec<u8>, (i64, u32)>,
    result: Unpacked,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn new(root: OwnedFd) -> Self {
        let result = Unpacked { implied: BTreeSet::from([String::new()]), ..Unpacked::default() };
        Self { root, current: None, folder_times: HashMap::new(), result, buffer: vec![0; BUFFER] }
    }

    fn put(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        let name = EntryName::parse(&entry.name)?;
        let meaning = name.meaning()?;
        let Some(last) = name.last else { return self.put_root(entry) };
        let parents = name.parents.join(&b'/');
        let folder = self.folder(&name.parents, &parents, entry)?;
        let wrote = |source: io::Error| UnpackError::Write { name: shown(&entry.name), source };
        match meaning {
            Meaning::Entry => self.put_entry(entry, &folder, last, data)?,
            Meaning::Whiteout(hidden) => self.whiteout(&folder, hidden).map_err(wrote)?,
            Meaning::Opaque => set_opaque(&folder).map_err(wrote)?,
            Meaning::Bookkeeping => {}
        }
        if entry.kind == Kind::Folder && meaning == Meaning::Entry {
            let path = if parents.is_empty() { last.to_vec() } else { [&parents, &b"/"[..], last].concat() };
            self.result.implied.remove(&*String::from_utf8_lossy(&path));
            self.folder_times.insert(path, entry.mtime);
        }
        Ok(())
    }

    fn put_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Folder {
            return Err(UnpackError::Refused { name: shown(&entry.name), why: "the layer's root is not a folder" });
        }
        self.result.implied.remove("");
        self.folder_times.insert(Vec::new(), entry.mtime);
        set_attributes(&self.root, entry).map_err(|source| UnpackError::Write { name: "/".to_owned(), source })
    }

    fn put_entry(
        &mut self,
        entry: &Entry,
        folder: &Rc<OwnedFd>,
        last: &[u8],
        data: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let wrote = |source: io::Error| UnpackError::Write { name: shown(&entry.name), source };
        match entry.kind {
            Kind::File => self.put_file(entry, folder, last, data),
            Kind::Folder => self.put_folder(entry, folder, last).map_err(wrote),
            Kind::HardLink => self.put_hard_link(entry, folder, last),
            Kind::Char(0, 0) => {
                let why = "device 0:0 is overlayfs' own mark for a removed file";
                Err(UnpackError::Refused { name: shown(&entry.name), why })
            }
            Kind::Symlink | Kind::Char(..) | Kind::Block(..) | Kind::Fifo => {
                self.put_node(entry, folder, last).map_err(wrote)
            }
        }
    }

    fn put_file(
        &mut self,
        entry: &Entry,
        folder: &OwnedFd,
        last: &[u8],
        data: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let wrote = |source: io::Error| UnpackError::Write { name: shown(&entry.name), source };
        let mut file = self.create(folder, last).map_err(wrote)?;
        match &entry.segments {
            None => {
                let copied = self.copy(data, entry, |bytes, _| file.write_all(bytes))?;
                if copied != entry.size {
                    return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Some(segments) => {
                file.set_len(entry.size).map_err(wrote)?;
                for segment in segments {
                    let mut part = data.take(segment.length);
                    let copied =
                        self.copy(&mut part, entry, |bytes, at| file.write_all_at(bytes, segment.offset + at))?;
                    if copied != segment.length {
                        return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
            }
        }
        set_attributes(&file, entry).map_err(wrote)?;
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(|e| wrote(e.into()))?;
        let stored = entry.segments.as_ref().map_or(entry.size, |parts| parts.iter().map(|part| part.length).sum());
        self.count(stored);
        Ok(())
    }

    /// Copies until `data` ends; `write` gets the bytes and how many came before them.
    fn copy(
        &mut self,
        data: &mut impl Read,
        entry: &Entry,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<u64, UnpackError> {
        let mut copied = 0;
        loop {
            let count = match data.read(&mut self.buffer) {
                Ok(0) => return Ok(copied),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Read(error)),
            };
            write(&self.buffer[..count], copied)
                .map_err(|source| UnpackError::Write { name: shown(&entry.name), source })?;
            copied += count as u64;
        }
    }

    fn create(&mut self, folder: &OwnedFd, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600));
        match create() {
            Err(Errno::EXIST) => {
                self.clear(folder, name)?;
                Ok(create()?.into())
            }
            result => Ok(result?.into()),
        }
    }

    fn put_folder(&mut self, entry: &Entry, parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let folder = match tree::stat(parent, name)? {
            Some(stat) if tree::is_folder(&stat) => open_folder(parent, name)?,
            found => {
                let hides = found.as_ref().is_some_and(tree::is_whiteout);
                self.clear(parent, name)?;
                self.count(4096);
                make_folder(parent, name, hides)?
            }
        };
        set_attributes(&folder, entry)
    }

    fn put_hard_link(&mut self, entry: &Entry, folder: &OwnedFd, last: &[u8]) -> Result<(), UnpackError> {
        let wrote = |source: io::Error| UnpackError::Write { name: shown(&entry.name), source };
        let target = EntryName::parse(&entry.link)?;
        let refused = |why| Err(UnpackError::Refused { name: shown(&entry.name), why });
        let (Some(target_name), Meaning::Entry) = (target.last, target.meaning()?) else {
            return refused("it is a hard link to something that is no file");
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(target_folder) = tree::open_in_root(&self.root, &target.parents.join(&b'/'), flags) else {
            return refused("it is a hard link to a file that the layer does not have");
        };
        match tree::stat(&target_folder, target_name).map_err(wrote)? {
            None => return refused("it is a hard link to a file that the layer does not have"),
            Some(stat) if tree::is_folder(&stat) || tree::is_whiteout(&stat) => {
                return refused("it is a hard link to something that is no file");
            }
            Some(stat) => {
                let existing = tree::stat(folder, last).map_err(wrote)?;
                if existing.is_some_and(|e| (e.st_dev, e.st_ino) == (stat.st_dev, stat.st_ino)) {
                    return Ok(());
                }
            }
        }
        self.clear(folder, last).map_err(wrote)?;
        // Without AT_SYMLINK_FOLLOW: a link to a symlink links the symlink.
        rustix::fs::linkat(&target_folder, target_name, folder, last, AtFlags::empty()).map_err(|e| wrote(e.into()))
    }

    fn put_node(&mut self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
        self.clear(folder, name)?;
        let node = |kind, dev: Dev| rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), dev);
        match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.link.as_slice(), folder, name)?,
            Kind::Char(major, minor) => node(FileType::CharacterDevice, rustix::fs::makedev(major, minor))?,
            Kind::Block(major, minor) => node(FileType::BlockDevice, rustix::fs::makedev(major, minor))?,
            _ => node(FileType::Fifo, 0)?,
        }
        self.count(0);
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if entry.kind != Kind::Symlink {
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A file of this layer stays: a whiteout hides lower layers only. A folder of this layer stays and hides theirs.
    fn whiteout(&mut self, folder: &OwnedFd, hidden: &[u8]) -> io::Result<()> {
        match tree::stat(folder, hidden)? {
            Some(stat) if tree::is_folder(&stat) => set_opaque(&open_folder(folder, hidden)?),
            Some(_) => Ok(()),
            None => {
                let mode = Mode::from_raw_mode(0);
                Ok(rustix::fs::mknodat(folder, hidden, FileType::CharacterDevice, mode, 0)?)
            }
        }
    }

    /// Later entries replace earlier ones of the same name.
    fn clear(&mut self, folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
        if tree::stat(folder, name)?.is_some_and(|stat| tree::is_folder(&stat)) {
            self.current = None;
        }
        tree::remove(folder, name)
    }

    /// The folder that an entry lies in; made when the layer did not name it.
    fn folder(&mut self, parents: &[&[u8]], path: &[u8], entry: &Entry) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((current, folder)) = &self.current
            && current == path
        {
            return Ok(folder.clone());
        }
        let folder = match tree::open_in_root(&self.root, path, OFlags::DIRECTORY | OFlags::RDONLY) {
            Ok(folder) => folder,
            Err(_) => self.make_parents(parents, entry)?,
        };
        let folder = Rc::new(folder);
        self.current = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    fn make_parents(&mut self, parents: &[&[u8]], entry: &Entry) -> Result<OwnedFd, UnpackError> {
        let wrote = |source: io::Error| UnpackError::Write { name: shown(&entry.name), source };
        let mut here = self.root.try_clone().map_err(wrote)?;
        let mut path = Vec::new();
        for part in parents {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(part);
            here = match tree::stat(&here, part).map_err(wrote)? {
                None => self.imply(&here, part, &path, false).map_err(wrote)?,
                Some(stat) if tree::is_whiteout(&stat) => {
                    tree::remove(&here, part).map_err(wrote)?;
                    self.imply(&here, part, &path, true).map_err(wrote)?
                }
                Some(_) => match tree::open_in_root(&self.root, &path, OFlags::DIRECTORY | OFlags::RDONLY) {
                    Ok(folder) => folder,
                    Err(_) => {
                        let why = "it lies below something that is no folder, or a link that leads nowhere";
                        return Err(UnpackError::Refused { name: shown(&entry.name), why });
                    }
                },
            };
        }
        Ok(here)
    }

    fn imply(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], opaque: bool) -> io::Result<OwnedFd> {
        let folder = make_folder(parent, name, opaque)?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))?;
        self.count(4096);
        if !opaque && self.result.implied.len() < MAX_IMPLIED {
            self.result.implied.extend(std::str::from_utf8(path).map(str::to_owned));
        }
        Ok(folder)
    }

    fn count(&mut self, bytes: u64) {
        self.result.inodes += 1;
        self.result.bytes = self.result.bytes.saturating_add(bytes.next_multiple_of(4096));
    }

    fn finish(self) -> Result<Unpacked, UnpackError> {
        for (path, mtime) in &self.folder_times {
            // A folder that a later entry replaced has no times to set.
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
            let Ok(folder) = tree::open_in_root(&self.root, path, flags) else { continue };
            rustix::fs::futimens(&folder, &times(*mtime))
                .map_err(|error| UnpackError::Write { name: shown(path), source: error.into() })?;
        }
        Ok(self.result)
    }
}

fn make_folder(parent: &OwnedFd, name: &[u8], opaque: bool) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    let folder = open_folder(parent, name)?;
    if opaque {
        set_opaque(&folder)?;
    }
    Ok(folder)
}

fn open_folder(parent: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    tree::open_plain(parent, name, OFlags::DIRECTORY | OFlags::RDONLY)
}

fn set_opaque(folder: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(folder, "trusted.overlay.opaque", b"y", XattrFlags::empty())?)
}

/// Owner first: a change of owner clears set-uid bits and file capabilities.
fn set_attributes(file: impl AsFd, entry: &Entry) -> io::Result<()> {
    let file = file.as_fd();
    rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_kept(name)) {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without such attributes: the image works without them, as it does elsewhere.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// File capabilities, ACLs and users' own attributes. Not `trusted.*`: `trusted.overlay.redirect` would make overlayfs
/// show another folder, and labels of security modules are this node's business.
fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let stamp = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: stamp, last_modification: stamp }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;

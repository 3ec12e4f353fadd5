//! Files by name, from a folder or from inside a tar archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::ImportError;
use crate::images::layers::decode::Decoder;
use crate::images::layers::tar::{Kind, TarReader};
use crate::images::layers::{LayerLimits, tree};

// Old docker archives link a layer that several images have.
const MAX_LINKS: usize = 8;
// Far above any real archive: one image has some hundred files.
const LIMITS: LayerLimits = LayerLimits { entries: 1_000_000, bytes: 1 << 40 };

/// Where images are imported from; clones share it.
#[derive(Clone)]
pub(super) enum Files {
    Folder(Arc<OwnedFd>),
    Archive { file: Arc<File>, members: Arc<HashMap<String, Member>> },
}

pub(super) enum Member {
    Data { offset: u64, size: u64 },
    Link(String),
}

impl Files {
    /// Opens a folder or an archive. A compressed one is first unpacked to `new_tmp()`, which is gone when it is closed.
    pub(super) fn open_source(path: &Path, new_tmp: impl FnOnce() -> PathBuf) -> Result<Self, ImportError> {
        let unreadable = |source| ImportError::Read { name: path.display().to_string(), source };
        if path.is_dir() {
            return Ok(Self::Folder(Arc::new(tree::open_folder(path).map_err(unreadable)?)));
        }
        let file = File::open(path).map_err(unreadable)?;
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        let plain = decompressed(file, new_tmp).map_err(unreadable)?;
        let members = index(&plain)?;
        Ok(Self::Archive { file: Arc::new(plain), members: Arc::new(members) })
    }

    pub(super) fn is_archive(&self) -> bool {
        matches!(self, Self::Archive { .. })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    /// The content of one file.
    pub(super) fn open(&self, name: &str) -> Result<Box<dyn Read + Send>, ImportError> {
        match self {
            Self::Folder(folder) => open_in_folder(folder, name),
            Self::Archive { file, members } => {
                let (offset, left) = find(members, name).ok_or_else(|| ImportError::Missing(name.to_owned()))?;
                Ok(Box::new(Section { file: file.clone(), offset, left }))
            }
        }
    }
}

fn open_in_folder(folder: &OwnedFd, name: &str) -> Result<Box<dyn Read + Send>, ImportError> {
    // Links may lead around within the layout, never out of it.
    match tree::open_in_root(folder, name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => Ok(Box::new(File::from(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImportError::Missing(name.to_owned())),
        Err(source) => Err(ImportError::Read { name: name.to_owned(), source }),
    }
}

fn find(members: &HashMap<String, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = name.to_owned();
    for _ in 0..MAX_LINKS {
        match members.get(&name)? {
            Member::Data { offset, size } => return Some((*offset, *size)),
            Member::Link(target) => name = target.clone(),
        }
    }
    None
}

fn decompressed(mut file: File, new_tmp: impl FnOnce() -> PathBuf) -> io::Result<File> {
    let mut decoder = Decoder::new(&file)?;
    if !decoder.is_compressed() {
        file.seek(SeekFrom::Start(0))?;
        return Ok(file);
    }
    let tmp = new_tmp();
    let mut plain = File::options().create_new(true).read(true).write(true).open(&tmp)?;
    std::fs::remove_file(&tmp)?;
    let copied = io::copy(&mut decoder.by_ref().take(LIMITS.bytes), &mut plain)?;
    if copied == LIMITS.bytes {
        return Err(io::Error::other("it unpacks to more than a tebibyte"));
    }
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

fn index(file: &File) -> Result<HashMap<String, Member>, ImportError> {
    let mut tar = TarReader::new(io::BufReader::new(file), LIMITS);
    let mut members = HashMap::new();
    while let Some(entry) = tar.next().map_err(ImportError::Archive)? {
        let name = normal("", &String::from_utf8_lossy(&entry.name));
        let (offset, size) = (tar.data_offset(), entry.size);
        tar.skip_by_seeking().map_err(ImportError::Archive)?;
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        let member = match entry.kind {
            Kind::File if entry.segments.is_none() => Member::Data { offset, size },
            Kind::HardLink => Member::Link(normal("", &link)),
            Kind::Symlink => Member::Link(normal(name.rsplit_once('/').map_or("", |(folder, _)| folder), &link)),
            _ => continue,
        };
        members.insert(name, member);
    }
    Ok(members)
}

/// `name` as seen from `folder`, without `.`, `..` and leading slashes. Only ever a key: nothing is opened by it.
fn normal(folder: &str, name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let base = if name.starts_with('/') { "" } else { folder };
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A part of a file, read by position: several may be read at once.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_seen_from_its_folder() {
        assert_eq!(normal("a/b", "../c/./d"), "a/c/d");
        assert_eq!(normal("a", "/x"), "x");
        assert_eq!(normal("", "./../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn links_that_go_round_find_nothing() {
        let members = HashMap::from([("a".to_owned(), Member::Link("a".to_owned()))]);
        assert_eq!(find(&members, "a"), None);
    }
}

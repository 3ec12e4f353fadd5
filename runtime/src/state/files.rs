//! How a file of ours is written, read and removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Something went wrong with a file of ours.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    /// `what` was being done to `path`.
    pub fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self { what, path: path.into(), source }
    }
}

/// Makes `path` (0700) and what is missing above it.
///
/// # Errors
/// As `mkdir(2)`; that it is there already is fine.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| FileError::new("making directory", path, source))
}

/// Replaces `path` (0600) as a whole: a reader sees the old content or the new one, whenever we are killed.
///
/// Nothing is synced: below the run directory a file only has to outlive the process, never the machine.
///
/// # Errors
/// When the file cannot be written or renamed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| FileError::new("writing", path, source))
}

/// Writes a file that others read through a bind mount (0644), in place: the inode must stay the same.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_shared(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(|source| FileError::new("writing", path, source))
}

/// Reads a file of at most `limit` bytes; `None` when it is not there.
///
/// # Errors
/// When it cannot be read or is larger.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::new("reading", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(failed(io::Error::other(format!("larger than {limit} bytes"))));
    }
    Ok(Some(content))
}

/// Removes a directory and all below it; that it is gone already is fine.
///
/// Never crosses a mount: a mount point below makes it fail (EBUSY) instead of emptying what is mounted, because
/// everything of ours that is mounted there has been unmounted before.
///
/// # Errors
/// When something below cannot be removed.
pub(crate) fn remove_dir(path: &Path) -> Result<(), FileError> {
    let device = match fs::symlink_metadata(path) {
        Ok(metadata) => std::os::unix::fs::MetadataExt::dev(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::new("looking at", path, error)),
    };
    remove_tree(path, device)
}

fn remove_tree(path: &Path, device: u64) -> Result<(), FileError> {
    let failed = |source| FileError::new("removing", path, source);
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let inside = entry.path();
        let metadata = fs::symlink_metadata(&inside).map_err(|source| FileError::new("looking at", &inside, source))?;
        if std::os::unix::fs::MetadataExt::dev(&metadata) != device {
            return Err(FileError::new("removing", &inside, io::Error::from(io::ErrorKind::ResourceBusy)));
        }
        if metadata.is_dir() {
            remove_tree(&inside, device)?;
        } else {
            fs::remove_file(&inside).map_err(|source| FileError::new("removing", &inside, source))?;
        }
    }
    fs::remove_dir(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_its_limit_is_refused_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read(&path, 3).unwrap().is_none());
        replace(&path, b"four").unwrap();
        assert!(read(&path, 3).is_err());
        assert_eq!(read(&path, 4).unwrap().as_deref(), Some(&b"four"[..]));
    }

    #[test]
    fn a_tree_is_removed_once_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("a");
        make_dir(&tree.join("b/c")).unwrap();
        std::os::unix::fs::symlink("/etc", tree.join("b/link")).unwrap();
        remove_dir(&tree).unwrap();
        remove_dir(&tree).unwrap();
        assert!(!tree.exists() && Path::new("/etc").exists());
    }
}

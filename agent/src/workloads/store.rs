//! What is remembered, on disk: one file for each workload, replaced by rename.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::memory::{Memory, Remembered};

/// A template is at most 1.5 MiB in an API server; a Job of a hundred thousand indexes needs one more.
const LARGEST: u64 = 16 << 20;

/// What is remembered could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct StoreError {
    /// `writing`, `removing` or `listing`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// The folder, and what is in it.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    written: Memory,
}

impl Store {
    /// Reads what a former agent left. Files that cannot be read are told in the log and skipped: their workloads
    /// begin anew, under the names they began with.
    pub(super) fn open(folder: PathBuf) -> Result<Self, StoreError> {
        let failed = |source| StoreError { what: "listing", path: folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let mut written = Memory::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(uid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"))
            else {
                continue;
            };
            match read(&path) {
                Ok(remembered) => drop(written.insert(uid.to_owned(), remembered)),
                Err(error) => warn!(path = %path.display(), %error, "a workload of a former run cannot be read"),
            }
        }
        Ok(Self { folder, written })
    }

    /// What is on disk.
    pub(super) fn memory(&self) -> &Memory {
        &self.written
    }

    /// Makes the disk hold `memory`. On an error what was written so far counts, and the next call writes the rest.
    pub(super) fn save(&mut self, memory: &Memory) -> Result<(), StoreError> {
        for (uid, remembered) in memory {
            if self.written.get(uid) != Some(remembered) {
                let path = self.path(uid);
                write(&path, remembered).map_err(|source| StoreError { what: "writing", path, source })?;
                self.written.insert(uid.clone(), remembered.clone());
            }
        }
        let gone: Vec<_> = self.written.keys().filter(|uid| !memory.contains_key(*uid)).cloned().collect();
        for uid in gone {
            let path = self.path(&uid);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError { what: "removing", path, source });
                }
                _ => drop(self.written.remove(&uid)),
            }
        }
        Ok(())
    }

    /// Uids are hexadecimal digits.
    fn path(&self, uid: &str) -> PathBuf {
        self.folder.join(format!("{uid}.json"))
    }
}

fn read(path: &Path) -> io::Result<Remembered> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let text = serde_json::to_vec(remembered)?;
    let next = path.with_extension("json.next");
    // Templates may hold passwords in plain variables: nobody else reads this.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&text)?;
    fs::rename(&next, path)
}

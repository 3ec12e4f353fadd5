//! Small files that are there whole or not at all, and what the store remembers in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::images::digest::{DiffId, ImageId};

// Our own files; a record holds a configuration, names.json a few hundred bytes per image.
const MAX_FILE: u64 = 64 << 20;

/// `records/<id>`: what an image is, apart from its names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The configuration's exact bytes: their digest is the image's id.
    pub(crate) config: String,
    /// Lowest first.
    pub(crate) layers: Vec<DiffId>,
}

/// `names.json`: all names in one file, so that a tag that moves is never lost nor doubled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Names {
    pub(crate) tags: BTreeMap<String, ImageId>,
    pub(crate) digests: BTreeMap<String, ImageId>,
    pub(crate) pinned: BTreeSet<ImageId>,
}

impl Names {
    pub(crate) fn forget(&mut self, id: &ImageId) {
        self.tags.retain(|_, named| named != id);
        self.digests.retain(|_, named| named != id);
        self.pinned.remove(id);
    }

    pub(crate) fn keep_only(&mut self, known: impl Fn(&ImageId) -> bool) {
        self.tags.retain(|_, named| known(named));
        self.digests.retain(|_, named| known(named));
        self.pinned.retain(|named| known(named));
    }
}

/// `layer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// See [`crate::images::layers::unpack::Unpacked::implied`].
    #[serde(default)]
    pub(crate) implied: BTreeSet<String>,
}

/// `snapshot.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) image: ImageId,
    /// Lowest first; they stay in the store as long as this snapshot does.
    pub(crate) layers: Vec<DiffId>,
    /// The boot that the writable layer belongs to.
    pub(crate) boot: String,
}

/// Writes `value` under a temporary name beside `path`, flushes it, and renames it.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value).map_err(io::Error::other)?;
    let tmp = path.with_extension("tmp");
    let mut file = File::create(&tmp)?;
    file.write_all(&json)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    sync_folder_of(path)
}

/// As [`write()`] but without waiting for the disk: for what a reboot makes worthless anyway.
pub(crate) fn write_unsynced<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value).map_err(io::Error::other)?;
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, json)?;
    fs::rename(&tmp, path)
}

/// Reads what [`write()`] wrote; `InvalidData` when it is something else.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut json = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut json)?;
    serde_json::from_slice(&json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Whether a file is absent or spoilt, as opposed to: cannot be read just now.
pub(crate) fn is_unusable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidData)
}

pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

//! The image store: what is on disk, by which names, and who needs it.
//!
//! Layers are unpacked once and shared by all images and snapshots that have them. Their compressed blobs are not
//! kept: they are unpacked while they arrive, and nothing on a node pushes images. A lost layer is pulled again.

pub(crate) mod disk;
mod keyed_lock;
mod layers;
mod open;
pub(crate) mod paths;
mod state;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::disk::{LayerRecord, Names, Record};
use self::keyed_lock::KeyedLock;
pub(crate) use self::layers::{Hold, LayerSource};
use self::paths::Paths;
pub(crate) use self::state::{Known, State};
use super::config::{ConfigBlob, Image, image_id};
use super::digest::{DiffId, Digest, ImageId};
use super::error::ImageError;
use super::layers::tree;
use super::reference::{ImageQuery, ImageRef};
use super::registry::{Registries, RegistryConfig};

/// A handle on the store; clones share it.
#[derive(Clone, Debug)]
pub struct ImageStore(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) paths: Paths,
    pub(crate) registries: Registries,
    pub(crate) boot: String,
    /// One writer of names, records and layers at a time; readers use `state` and never wait for the disk.
    writing: Mutex<()>,
    state: Mutex<State>,
    pub(crate) layer_locks: KeyedLock<DiffId>,
    pub(crate) snapshot_locks: KeyedLock<String>,
    /// Held as long as the store is open.
    _lock: crate::lock::Lock,
}

/// The disk that the store is on, and what the store uses of it. CRI's `FilesystemUsage`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsInfo {
    /// The store's own folder; whoever wants the mount point asks the kernel with it.
    pub mountpoint: PathBuf,
    /// Bytes of all unpacked layers.
    pub used_bytes: u64,
    /// Files, folders and links of all layers.
    pub inodes_used: u64,
    /// Size of the disk in bytes.
    pub capacity_bytes: u64,
    /// Bytes free for users other than root.
    pub available_bytes: u64,
    /// Inodes of the disk; 0 where there is no such number.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

impl ImageStore {
    /// Opens the store below `root` (`/var/lib/longshore`), makes what is missing, and removes what an earlier process
    /// left unfinished. Blocks on the disk.
    ///
    /// Fails when another process has it open, or its files cannot be read.
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self, ImageError> {
        open::open(root, config).map(|inner| Self(Arc::new(inner)))
    }

    /// The image that a name with tag or digest, or an id, means. Text that is no reference finds nothing.
    pub fn find(&self, reference: &str) -> Option<Image> {
        let query: ImageQuery = reference.parse().ok()?;
        let state = self.0.state();
        state.lookup(&query).and_then(|id| state.image(id))
    }

    /// All images, in the order of their ids.
    pub fn list(&self) -> Vec<Image> {
        let state = self.0.state();
        state.images.keys().filter_map(|id| state.image(id)).collect()
    }

    /// Removes the image that `reference` means, with all its names; none is fine. Layers that a snapshot still uses
    /// stay until the snapshot goes.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let query: ImageQuery = reference.parse()?;
        self.blocking("removing an image", move |inner| {
            let writer = inner.writer();
            let Some(id) = inner.state().lookup(&query).cloned() else { return Ok(()) };
            inner.change_names(&writer, |names| names.forget(&id))?;
            inner.state().images.remove(&id);
            let path = inner.paths.record(&id);
            tree::remove_path(&path).map_err(ImageError::store("removing", path))?;
            drop(writer);
            inner.collect()
        })
        .await
    }

    /// Takes one name away from its image, which stays; no such name is fine.
    pub async fn untag(&self, name: &ImageRef) -> Result<(), ImageError> {
        let key = name.to_string();
        self.blocking("removing a name", move |inner| {
            inner.change_names(&inner.writer(), |names| {
                names.tags.remove(&key);
                names.digests.remove(&key);
            })
        })
        .await
    }

    /// Gives an image that is here one more name with a tag; the tag moves when another image has it.
    pub async fn tag(&self, id: &ImageId, name: &ImageRef) -> Result<(), ImageError> {
        let (id, key) = (id.clone(), format!("{}:{}", name.repository(), name.tag().unwrap_or("latest")));
        self.blocking("naming an image", move |inner| {
            let writer = inner.writer();
            if !inner.state().images.contains_key(&id) {
                return Err(ImageError::NotFound(id.to_string()));
            }
            inner.change_names(&writer, |names| drop(names.tags.insert(key, id)))
        })
        .await
    }

    /// Marks an image as one that must not be collected, or takes the mark away.
    pub async fn set_pinned(&self, id: &ImageId, pinned: bool) -> Result<(), ImageError> {
        let id = id.clone();
        self.blocking("pinning an image", move |inner| {
            let writer = inner.writer();
            if !inner.state().images.contains_key(&id) {
                return Err(ImageError::NotFound(id.to_string()));
            }
            inner.change_names(&writer, |names| {
                if pinned {
                    names.pinned.insert(id)
                } else {
                    names.pinned.remove(&id)
                };
            })
        })
        .await
    }

    /// What the store uses, and what the disk has left.
    pub fn fs_info(&self) -> Result<FsInfo, ImageError> {
        let mountpoint = self.0.paths.root().to_owned();
        let disk = rustix::fs::statvfs(&mountpoint)
            .map_err(|error| ImageError::store("asking the size of", &mountpoint)(error.into()))?;
        let state = self.0.state();
        Ok(FsInfo {
            mountpoint,
            used_bytes: state.layers.values().map(|layer| layer.bytes).sum(),
            inodes_used: state.layers.values().map(|layer| layer.inodes).sum(),
            capacity_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            available_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            inodes: disk.f_files,
            inodes_free: disk.f_ffree,
        })
    }

    /// Runs `work` where it may block. It runs to its end even if the caller goes away.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<Inner>) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || work(&inner)).await.unwrap_or(Err(ImageError::Interrupted(what)))
    }
}

/// Names that an image gets when it is stored.
#[derive(Debug, Default)]
pub(crate) struct NewNames {
    pub(crate) tags: BTreeSet<String>,
    pub(crate) digests: BTreeSet<String>,
}

impl Inner {
    /// Short looks and changes in memory: never held over a disk access or an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores an image whose layers are all here, under these names. `raw_config` must have been parsed before.
    pub(crate) fn put_image(
        &self,
        raw_config: &str,
        layers: Vec<DiffId>,
        new: NewNames,
        _hold: &Hold,
    ) -> Result<Image, ImageError> {
        let id = image_id(raw_config.as_bytes());
        let config = parse_config(raw_config.as_bytes())?.image_config();
        if !self.state().images.contains_key(&id) {
            // Without this a power cut could leave files of the right name and no content under a good record.
            let folder = self.paths.layers();
            let synced = tree::open_folder(&folder).and_then(|opened| Ok(rustix::fs::syncfs(opened)?));
            synced.map_err(ImageError::store("flushing", folder))?;
        }
        let writer = self.writer();
        if !self.state().images.contains_key(&id) {
            let path = self.paths.record(&id);
            let record = Record { config: raw_config.to_owned(), layers: layers.clone() };
            disk::write(&path, &record).map_err(ImageError::store("writing", path))?;
            let known = Known { config, raw_config: raw_config.to_owned(), layers };
            self.state().images.insert(id.clone(), known);
        }
        self.change_names(&writer, |names| {
            names.tags.extend(new.tags.into_iter().map(|name| (name, id.clone())));
            names.digests.extend(new.digests.into_iter().map(|name| (name, id.clone())));
        })?;
        self.state().image(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// On disk first, then in memory.
    fn change_names(&self, _writer: &MutexGuard<'_, ()>, change: impl FnOnce(&mut Names)) -> Result<(), ImageError> {
        let mut names = self.state().names.clone();
        change(&mut names);
        if names != self.state().names {
            let path = self.paths.names();
            disk::write(&path, &names).map_err(ImageError::store("writing", path))?;
            self.state().names = names;
        }
        Ok(())
    }

    /// Gives a layer that is whole its name. Once it has it, others may count on it.
    fn name_layer(&self, tmp: &Path, layer: &DiffId, record: LayerRecord) -> Result<(), ImageError> {
        let _writer = self.writer();
        let path = self.paths.layer(layer);
        std::fs::rename(tmp, &path).map_err(ImageError::store("naming", path))?;
        self.state().layers.insert(layer.clone(), record);
        Ok(())
    }

    /// Removes layers that nobody needs.
    pub(crate) fn collect(&self) -> Result<(), ImageError> {
        let moved = self.move_garbage()?;
        moved.into_iter().try_for_each(|path| tree::remove_path(&path).map_err(ImageError::store("removing", path)))
    }

    /// Forgotten first, then moved away: whoever needs such a layer now unpacks it again, and waits for its name until
    /// the old one is gone. Deleted later, because that may take long.
    fn move_garbage(&self) -> Result<Vec<PathBuf>, ImageError> {
        let _writer = self.writer();
        let garbage = {
            let mut state = self.state();
            let garbage = state.garbage();
            garbage.iter().for_each(|layer| drop(state.layers.remove(layer)));
            garbage
        };
        let mut moved = Vec::new();
        for layer in garbage {
            let (from, to) = (self.paths.layer(&layer), self.paths.new_tmp("removed"));
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                result => result.map_err(ImageError::store("moving away", from))?,
            }
            moved.push(to);
        }
        Ok(moved)
    }
}

pub(crate) fn parse_config(json: &[u8]) -> Result<ConfigBlob, ImageError> {
    ConfigBlob::parse(json).map_err(|source| ImageError::Config { digest: Digest::sha256_of(json), source })
}

#[cfg(test)]
mod tests;

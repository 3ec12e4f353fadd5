//! Opening the store: what is on disk is the truth, what is unfinished goes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;

use tracing::warn;

use super::disk::{self, LayerRecord, Names, Record, SnapshotRecord};
use super::keyed_lock::KeyedLock;
use super::paths::Paths;
use super::state::{Known, State};
use super::{Inner, parse_config};
use crate::images::config::image_id;
use crate::images::digest::{DiffId, Digest, ImageId};
use crate::images::error::ImageError;
use crate::images::layers::tree;
use crate::images::registry::{Registries, RegistryConfig};
use crate::images::snapshot;
use crate::lock::{self, Lock, LockError};

pub(super) fn open(root: &Path, config: RegistryConfig) -> Result<Inner, ImageError> {
    let paths = Paths::new(root);
    // 0700: layers hold set-uid programs and devices that nobody on this machine may reach by path (CVE-2024-25621).
    for folder in [paths.images(), paths.records(), paths.layers(), paths.empty(), paths.tmp(), paths.snapshots()] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(ImageError::store("making", folder))?;
    }
    let lock = lock(&paths)?;
    empty_tmp(&paths)?;
    let mut state = State { layers: read_layers(&paths)?, ..State::default() };
    state.images = read_images(&paths, &state.layers)?;
    state.names = read_names(&paths)?;
    state.names.keep_only(|id| state.images.contains_key(id));
    state.snapshots = read_snapshots(&paths)?;
    let inner = Inner {
        registries: Registries::new(config),
        boot: boot_id()?,
        writing: Mutex::default(),
        state: Mutex::new(state),
        layer_locks: KeyedLock::default(),
        snapshot_locks: KeyedLock::default(),
        _lock: lock,
        paths,
    };
    inner.collect()?;
    Ok(inner)
}

fn lock(paths: &Paths) -> Result<Lock, ImageError> {
    let path = paths.lock();
    lock::take(&path).map_err(|error| match error {
        LockError::Taken { .. } => ImageError::Locked(paths.root().to_owned()),
        LockError::Io(error) => ImageError::store("locking", path)(error),
    })
}

/// File names in a folder, those that are not UTF-8 left out: ours always are.
fn names_in(folder: &Path) -> Result<Vec<String>, ImageError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    };
    list().map_err(ImageError::store("listing", folder))
}

fn empty_tmp(paths: &Paths) -> Result<(), ImageError> {
    for name in names_in(&paths.tmp())? {
        let path = paths.tmp().join(name);
        tree::remove_path(&path).map_err(ImageError::store("removing", path))?;
    }
    Ok(())
}

/// Puts something broken where it will be removed, and says so.
fn discard(paths: &Paths, path: &Path, why: &dyn std::fmt::Display) -> Result<(), ImageError> {
    warn!(path = %path.display(), reason = %why, "removing what cannot be used from the image store");
    let away = paths.new_tmp("broken");
    fs::rename(path, &away).map_err(ImageError::store("moving away", path))?;
    tree::remove_path(&away).map_err(ImageError::store("removing", away))
}

fn read_layers(paths: &Paths) -> Result<BTreeMap<DiffId, LayerRecord>, ImageError> {
    let mut layers = BTreeMap::new();
    for name in names_in(&paths.layers())? {
        let path = paths.layers().join(&name);
        match (Digest::from_file_name(&name), disk::read(&path.join("layer.json"))) {
            (Some(digest), Ok(layer)) => drop(layers.insert(DiffId(digest), layer)),
            (None, _) => discard(paths, &path, &"its name is not a layer's")?,
            (_, Err(error)) if disk::is_unusable(&error) => discard(paths, &path, &error)?,
            (_, Err(error)) => return Err(ImageError::store("reading", path)(error)),
        }
    }
    Ok(layers)
}

fn read_images(paths: &Paths, layers: &BTreeMap<DiffId, LayerRecord>) -> Result<BTreeMap<ImageId, Known>, ImageError> {
    let mut images = BTreeMap::new();
    for name in names_in(&paths.records())? {
        let path = paths.records().join(&name);
        let Some(id) = Digest::from_file_name(&name).map(ImageId) else {
            discard(paths, &path, &"its name is not an image's")?;
            continue;
        };
        let record = match disk::read(&path) {
            Err(error) if !disk::is_unusable(&error) => return Err(ImageError::store("reading", path)(error)),
            record => record.map_err(|error| error.to_string()),
        };
        match record.and_then(|record| check_image(record, &id, layers)) {
            Ok(known) => drop(images.insert(id, known)),
            Err(why) => discard(paths, &path, &why)?,
        }
    }
    Ok(images)
}

fn check_image(record: Record, id: &ImageId, layers: &BTreeMap<DiffId, LayerRecord>) -> Result<Known, String> {
    if image_id(record.config.as_bytes()) != *id {
        return Err("its configuration does not have its digest".to_owned());
    }
    if let Some(missing) = record.layers.iter().find(|layer| !layers.contains_key(layer)) {
        return Err(format!("its layer {missing} is gone"));
    }
    let config = parse_config(record.config.as_bytes()).map_err(|error| error.to_string())?.image_config();
    Ok(Known { config, raw_config: record.config, layers: record.layers })
}

/// Names are worth less than images: when they cannot be read, images are still found by id, and pulled again by name.
fn read_names(paths: &Paths) -> Result<Names, ImageError> {
    let path = paths.names();
    match disk::read(&path) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::default()),
        Err(error) => discard(paths, &path, &error).map(|()| Names::default()),
    }
}

fn read_snapshots(paths: &Paths) -> Result<BTreeMap<String, SnapshotRecord>, ImageError> {
    let mut snapshots = BTreeMap::new();
    for id in names_in(&paths.snapshots())? {
        match disk::read(&paths.snapshot(&id).join("snapshot.json")) {
            Ok(record) => drop(snapshots.insert(id, record)),
            Err(error) if !disk::is_unusable(&error) => {
                return Err(ImageError::store("reading", paths.snapshot(&id))(error));
            }
            Err(error) => {
                warn!(snapshot = id, reason = %error, "removing an unfinished snapshot");
                snapshot::discard(paths, &id)?;
            }
        }
    }
    Ok(snapshots)
}

fn boot_id() -> Result<String, ImageError> {
    let path = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string(path).map_err(ImageError::store("reading", path))?;
    Ok(id.trim().to_owned())
}

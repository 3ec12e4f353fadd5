//! One overlayfs snapshot per container: the image's layers below, a writable layer above.
//!
//! A snapshot is recorded before anything of it exists, so that its layers stay and a later process can finish or
//! remove it. The writable layer lives as long as the boot: Kubernetes never starts a container again after a reboot.

mod implied;
mod mapped;
mod mount;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::implied::LayerView;
use super::config::Image;
use super::digest::DiffId;
use super::error::ImageError;
use super::layers::tree;
use super::store::disk::{self, SnapshotRecord};
use super::store::paths::Paths;
use super::store::{ImageStore, Inner};
use crate::containers::UserIds;

/// A container's root file system, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The merged folder: the container's `/`.
    pub root: PathBuf,
    /// The writable layer, where the container's own changes are.
    pub upper: PathBuf,
}

/// What a container wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// Bytes on disk of the writable layer.
    pub bytes: u64,
    /// Files, folders and links in it.
    pub inodes: u64,
}

impl ImageStore {
    /// Makes the container's root file system from the image and mounts it. Can be repeated, also after a crash or a
    /// reboot; after a reboot it starts empty.
    ///
    /// Fails when the image was removed meanwhile, when `container_id` has a snapshot of another image, or when the
    /// kernel refuses the mount.
    pub async fn prepare_snapshot(&self, container_id: &str, image: &Image) -> Result<Snapshot, ImageError> {
        self.prepare_snapshot_for(container_id, image, None).await
    }

    /// Like [`Self::prepare_snapshot`], for a container whose user namespace has these ids.
    pub async fn prepare_snapshot_for(
        &self,
        container_id: &str,
        image: &Image,
        users: Option<UserIds>,
    ) -> Result<Snapshot, ImageError> {
        let id = checked(container_id)?;
        let record = SnapshotRecord {
            image: image.id.clone(),
            layers: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
            boot: self.0.boot.clone(),
        };
        let lock = self.0.snapshot_locks.lock(&id).await;
        self.blocking("preparing a snapshot", move |inner| {
            let _lock = lock;
            prepare(inner, &id, record, users.as_ref())
        })
        .await
    }

    /// Unmounts and deletes a container's root file system, if there is one. Can be repeated.
    pub async fn remove_snapshot(&self, container_id: &str) -> Result<(), ImageError> {
        let id = checked(container_id)?;
        let lock = self.0.snapshot_locks.lock(&id).await;
        let removed = self.blocking("removing a snapshot", move |inner| {
            let _lock = lock;
            let away = set_aside(&inner.paths, &id)?;
            let known = inner.state().snapshots.remove(&id);
            // Only the last user of an image that is gone leaves layers behind.
            let is_last = known.is_some_and(|record| !inner.state().images.contains_key(&record.image));
            Ok((away, is_last))
        });
        let (away, is_last) = removed.await?;
        if let Some(away) = away {
            // A container can have written any amount: the end of its pod does not wait for the disk. What a crash
            // leaves of it goes when the store is opened.
            tokio::task::spawn_blocking(move || {
                if let Err(error) = tree::remove_path(&away) {
                    tracing::warn!(path = %away.display(), %error, "deleting what a container wrote");
                }
            });
        }
        match is_last {
            true => self.blocking("removing layers", |inner| inner.collect()).await,
            false => Ok(()),
        }
    }

    /// What the container wrote. Walks the whole writable layer: not for hot paths.
    pub async fn snapshot_usage(&self, container_id: &str) -> Result<SnapshotUsage, ImageError> {
        let id = checked(container_id)?;
        self.blocking("measuring a snapshot", move |inner| {
            if !inner.state().snapshots.contains_key(&id) {
                return Err(ImageError::NoSnapshot(id));
            }
            let upper = inner.paths.snapshot(&id).join("upper");
            let (bytes, inodes) = tree::usage(&upper).map_err(ImageError::store("measuring", upper))?;
            Ok(SnapshotUsage { bytes, inodes })
        })
        .await
    }

    /// The containers that have a snapshot, mounted or not: what a recovery compares with its own list.
    pub fn snapshots(&self) -> Vec<String> {
        self.0.state().snapshots.keys().cloned().collect()
    }
}

/// Ids become folder names.
fn checked(id: &str) -> Result<String, ImageError> {
    let good = (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !id.starts_with('.');
    if good { Ok(id.to_owned()) } else { Err(ImageError::BadSnapshotId(id.chars().take(140).collect())) }
}

fn prepare(
    inner: &Arc<Inner>,
    id: &str,
    record: SnapshotRecord,
    users: Option<&UserIds>,
) -> Result<Snapshot, ImageError> {
    let folder = inner.paths.snapshot(id);
    let snapshot = Snapshot { root: folder.join("root"), upper: folder.join("upper") };
    let before = claim(inner, id, &record)?;
    if before.as_ref().is_some_and(|before| before.boot != record.boot) {
        discard(&inner.paths, id)?;
    }
    let made = make(inner, &folder, &record, users)
        .and_then(|()| mount_if_needed(inner, id, &record, &snapshot, users))
        .and_then(|()| restore_implied(inner, &record, &snapshot, users));
    if made.is_err() && before.is_none() && discard(&inner.paths, id).is_ok() {
        inner.state().snapshots.remove(id);
    }
    made.map(|()| snapshot)
}

/// Notes that this snapshot needs its layers; gives what was noted before.
fn claim(inner: &Inner, id: &str, record: &SnapshotRecord) -> Result<Option<SnapshotRecord>, ImageError> {
    let mut state = inner.state();
    if let Some(before) = state.snapshots.get(id) {
        if before.layers != record.layers {
            return Err(ImageError::SnapshotTaken { id: id.to_owned(), image: record.image.to_string() });
        }
        let before = before.clone();
        state.snapshots.insert(id.to_owned(), record.clone());
        return Ok(Some(before));
    }
    if record.layers.iter().any(|layer| !state.layers.contains_key(layer)) {
        return Err(ImageError::NotFound(record.image.to_string()));
    }
    state.snapshots.insert(id.to_owned(), record.clone());
    Ok(None)
}

/// Makes the folders; `root` last, so that its presence means that all are there.
fn make(inner: &Inner, folder: &Path, record: &SnapshotRecord, users: Option<&UserIds>) -> Result<(), ImageError> {
    if folder.join("root").is_dir() {
        return Ok(());
    }
    make_folder(folder, 0o700)?;
    let path = folder.join("snapshot.json");
    disk::write_unsynced(&path, record).map_err(ImageError::store("writing", path))?;
    make_folder(&folder.join("upper"), 0o755)?;
    copy_root_attributes(inner, &record.layers, &folder.join("upper"), base(users))?;
    make_folder(&folder.join("work"), 0o700)?;
    make_folder(&folder.join("root"), 0o700)
}

/// One that is there is fine. The mode is set apart: the process' umask may be anything.
fn make_folder(path: &Path, mode: u32) -> Result<(), ImageError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(ImageError::store("making", path)(error)),
        _ => fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(ImageError::store("making", path)),
    }
}

/// The writable layer's own top is what the container sees as `/`: it takes owner and mode from the highest layer that
/// says something about them.
fn copy_root_attributes(
    inner: &Inner,
    layers: &[DiffId],
    upper: &Path,
    (uid, gid): (u32, u32),
) -> Result<(), ImageError> {
    let own = || std::os::unix::fs::chown(upper, Some(uid), Some(gid));
    own().map_err(ImageError::store("setting the owner of", upper))?;
    let says = |layer: &&DiffId| inner.state().layers.get(*layer).is_some_and(|layer| !layer.implied.contains(""));
    let Some(layer) = layers.iter().rev().find(says) else { return Ok(()) };
    let content = inner.paths.layer_content(layer);
    let attributes = fs::metadata(&content).map_err(ImageError::store("reading", content))?;
    let copy = || {
        let (uid, gid) = (attributes.uid().saturating_add(uid), attributes.gid().saturating_add(gid));
        std::os::unix::fs::chown(upper, Some(uid), Some(gid))?;
        fs::set_permissions(upper, attributes.permissions())
    };
    copy().map_err(ImageError::store("setting the owner of", upper))
}

/// What 0 of a container is on disk: the writable layer holds the host's ids.
fn base(users: Option<&UserIds>) -> (u32, u32) {
    users.map_or((0, 0), |users| (users.uid, users.gid))
}

fn mount_if_needed(
    inner: &Inner,
    id: &str,
    record: &SnapshotRecord,
    snapshot: &Snapshot,
    users: Option<&UserIds>,
) -> Result<(), ImageError> {
    let failed = |source| ImageError::Mount { id: id.to_owned(), source };
    if mount::is_mounted(&snapshot.root).map_err(failed)? {
        return Ok(());
    }
    let work = inner.paths.snapshot(id).join("work");
    // An earlier volatile mount that was not taken down forbids another one on the same work folder.
    tree::remove_path(&work.join("work")).map_err(ImageError::store("emptying", &work))?;
    let lower = match record.layers.as_slice() {
        [] => vec![inner.paths.empty()],
        layers => unique(layers).iter().map(|layer| inner.paths.layer_content(layer)).collect(),
    };
    match users {
        None => mount::overlay(&lower, &snapshot.upper, &work, &snapshot.root),
        Some(users) => mapped::overlay(&lower, &snapshot.upper, &work, &snapshot.root, &users.path),
    }
    .map_err(failed)
}

/// See [`implied`]. A crash before the end is made good by the next [`prepare`].
fn restore_implied(
    inner: &Inner,
    record: &SnapshotRecord,
    snapshot: &Snapshot,
    users: Option<&UserIds>,
) -> Result<(), ImageError> {
    let views: Vec<LayerView> = {
        let state = inner.state();
        let implied = |layer| state.layers.get(layer).map(|layer| layer.implied.clone()).unwrap_or_default();
        let view = |layer| LayerView { content: inner.paths.layer_content(layer), implied: implied(layer) };
        unique(&record.layers).into_iter().map(view).collect()
    };
    implied::restore(&views, &snapshot.upper, &snapshot.root, base(users))
        .map_err(ImageError::store("setting owners of folders in", &snapshot.root))
}

/// Highest first. Overlayfs refuses a layer twice, and images may have one twice (an empty one, say): only its highest
/// place shows.
fn unique(layers: &[DiffId]) -> Vec<&DiffId> {
    let mut seen = std::collections::BTreeSet::new();
    layers.iter().rev().filter(|layer| seen.insert(*layer)).collect()
}

/// Takes down whatever is left of a snapshot. Nothing there is fine.
pub(crate) fn discard(paths: &Paths, id: &str) -> Result<(), ImageError> {
    match set_aside(paths, id)? {
        Some(away) => tree::remove_path(&away).map_err(ImageError::store("removing", away)),
        None => Ok(()),
    }
}

/// Unmounts a snapshot and moves it to where it is only waiting to be deleted; `None` when there is none.
fn set_aside(paths: &Paths, id: &str) -> Result<Option<PathBuf>, ImageError> {
    let folder = paths.snapshot(id);
    unmount(id, &folder.join("root"))?;
    let away = paths.new_tmp("snapshot");
    match fs::rename(&folder, &away) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(|()| Some(away)).map_err(ImageError::store("moving away", folder)),
    }
}

// A process that is being killed holds the mount for a moment; half a second, then it is cut off.
const UNMOUNT_TRIES: [u64; 6] = [5, 15, 40, 80, 160, 200];

fn unmount(id: &str, root: &Path) -> Result<(), ImageError> {
    let failed = |source| ImageError::Unmount { id: id.to_owned(), source };
    let mut waits = UNMOUNT_TRIES.iter();
    // More than once: an agent before us may have mounted over it.
    while mount::is_mounted(root).map_err(failed)? {
        match (mount::unmount(root), waits.next()) {
            (Err(error), Some(wait)) if error.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(*wait));
            }
            (Err(error), None) if error.kind() == io::ErrorKind::ResourceBusy => {
                tracing::warn!(container = id, "its root file system is still in use: detaching it");
                mount::detach(root).map_err(failed)?;
            }
            (result, _) => result.map_err(failed)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::digest::Digest;

    #[test]
    fn an_id_that_could_leave_the_folder_is_refused() {
        for bad in ["", ".", "..", "a/b", "../a", ".hidden", "a b", "a\0", &"x".repeat(129)] {
            assert!(matches!(checked(bad), Err(ImageError::BadSnapshotId(_))), "{bad:?}");
        }
        assert_eq!(checked("0a_B.c-9").unwrap(), "0a_B.c-9");
    }

    #[test]
    fn a_layer_that_stands_twice_in_an_image_shows_in_its_highest_place() {
        let [a, b] = ["a", "b"].map(|name| DiffId(Digest::sha256_of(name.as_bytes())));
        assert_eq!(unique(&[a.clone(), b.clone(), a.clone()]), [&a, &b]);
    }
}

//! Takes a pod's volumes and its directory away. Every step can be repeated after it was cut off.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::CWD;

use super::claims::ClaimStore;
use super::layout::{DEVICES, PLUGINS, SUBPATHS, VOLUMES};
use super::mounts::Mounts;
use super::{VolumeError, attach, empty_dir, nfs, remove};
use crate::names::PodUid;

/// The plugins whose directories hold only what we or the pod's containers wrote.
const OURS: &[&str] = &[
    empty_dir::PLUGIN,
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~downward-api",
    "kubernetes.io~projected",
];

fn failed(path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::TearDown { path, source }
}

/// Sub paths first: they hold their volumes. Then each volume: its mount, its content, its directory.
pub(super) fn volumes(pod: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    let subpaths = pod.join(SUBPATHS);
    for volume in entries(&subpaths)? {
        for container in entries(&volume)? {
            for target in entries(&container)? {
                unmount(&target, mounts)?;
            }
        }
    }
    remove_tree(&subpaths)?;
    for plugin in entries(&pod.join(VOLUMES))? {
        let ours = is_one_of(&plugin, OURS);
        for volume in entries(&plugin)? {
            if ours {
                self::volume(pod, &plugin, &volume, mounts)?;
            } else if is_one_of(&plugin, &attach::PLUGINS) {
                attached(pod, &plugin, &volume, mounts)?;
            } else {
                remove_empty(&volume)?;
            }
        }
        remove_empty(&plugin)?;
    }
    // Links alone: nothing of a device is ours.
    remove_tree(&pod.join(DEVICES))?;
    ClaimStore::unmounted(pod).map_err(failed(pod))
}

fn is_one_of(plugin: &Path, known: &[&str]) -> bool {
    plugin.file_name().and_then(|name| name.to_str()).is_some_and(|name| known.contains(&name))
}

fn volume(pod: &Path, plugin: &Path, volume: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    unmark(pod, plugin, volume)?;
    unmount(volume, mounts)?;
    remove_tree(volume)
}

/// Somebody else's files, mounted: nothing below is ever removed, only the empty directory they were mounted on.
fn attached(pod: &Path, plugin: &Path, volume: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    unmark(pod, plugin, volume)?;
    if is_one_of(plugin, &[nfs::PLUGIN]) {
        unmount_share(volume, mounts)?;
    }
    unmount(volume, mounts)?;
    remove_empty(volume)
}

/// How long an ordinary unmount of a share may write what is left to its server.
const PATIENCE: Duration = Duration::from_secs(30);

/// By force only where the server has not answered for long: that throws away what was not written yet.
fn unmount_share(volume: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    if !mounts.is_mounted(volume).map_err(failed(volume))? {
        return Ok(());
    }
    let (done, is_done) = mpsc::channel();
    thread::scope(|threads| {
        threads.spawn(move || {
            if is_done.recv_timeout(PATIENCE).is_err() {
                // What the ordinary one says is what counts.
                let _ = mounts.unmount_by_force(volume);
            }
        });
        let unmounted = mounts.unmount(volume);
        // The other thread may have given up already.
        let _ = done.send(());
        unmounted.map_err(failed(volume))
    })
}

/// The marker goes first: what is half removed must not be taken for a volume that is ready.
fn unmark(pod: &Path, plugin: &Path, volume: &Path) -> Result<(), VolumeError> {
    match (plugin.file_name(), volume.file_name()) {
        (Some(plugin), Some(name)) => remove_tree(&pod.join(PLUGINS).join(plugin).join(name)),
        _ => Ok(()),
    }
}

/// Everything else of a pod. Volumes that are still there are an error: they may be mounted.
pub(super) fn pod_dir(pod: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    for plugin in entries(&pod.join(VOLUMES))? {
        for volume in entries(&plugin)? {
            let mounted = mounts.is_mounted(&volume).map_err(failed(&volume))?;
            let kind = if mounted { ErrorKind::ResourceBusy } else { ErrorKind::DirectoryNotEmpty };
            remove_empty(&volume).map_err(|_| failed(&volume)(kind.into()))?;
        }
    }
    for entry in entries(pod)? {
        remove_tree(&entry)?;
    }
    remove_empty(pod)
}

fn unmount(target: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    while mounts.is_mounted(target).map_err(failed(target))? {
        mounts.unmount(target).map_err(failed(target))?;
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), VolumeError> {
    remove::entry(CWD, path).map_err(failed(path))
}

fn remove_empty(dir: &Path) -> Result<(), VolumeError> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(dir)(error)),
        _ => Ok(()),
    }
}

/// The pods that have a directory.
pub(super) fn on_disk(pods: &Path) -> Result<Vec<PodUid>, VolumeError> {
    let names = entries(pods)?.into_iter().filter_map(|path| path.file_name()?.to_str().map(str::to_owned));
    Ok(names.filter_map(|name| PodUid::try_from(name).ok()).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let failed = |source| VolumeError::List { path: dir.to_owned(), source };
    let found = match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        found => found.map_err(failed)?,
    };
    let mut entries = found.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort();
    Ok(entries)
}

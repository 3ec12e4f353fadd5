//! Takes a pod's volumes and its directory away. Every step can be repeated after it was cut off.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use super::layout::{PLUGINS, SUBPATHS, VOLUMES};
use super::mounts::Mounts;
use super::{VolumeError, empty_dir, remove};
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
        let ours = plugin.file_name().and_then(|name| name.to_str()).is_some_and(|name| OURS.contains(&name));
        for volume in entries(&plugin)? {
            if ours {
                self::volume(pod, &plugin, &volume, mounts)?;
            } else {
                remove_empty(&volume)?;
            }
        }
        remove_empty(&plugin)?;
    }
    Ok(())
}

fn volume(pod: &Path, plugin: &Path, volume: &Path, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    // The marker goes first: what is half removed must not be taken for a volume that is ready.
    if let (Some(plugin), Some(name)) = (plugin.file_name(), volume.file_name()) {
        remove_tree(&pod.join(PLUGINS).join(plugin).join(name))?;
    }
    unmount(volume, mounts)?;
    remove_tree(volume)
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

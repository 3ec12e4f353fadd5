//! Images that a container mounts as volumes: each a snapshot of its own, which nobody can write to through the mount.
//!
//! As snapshots they keep their layers alive when the image is removed, are found again by a restart, and go with the
//! container. Their names begin with its id.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri_proto::Kind;
use cri_proto::v1;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Container;
use crate::blocking::blocking;
use crate::core::Core;
use crate::error::{Doing, LifeError};

/// Between a container's id and the number of its mount. Ids are hexadecimal.
const MARK: &str = ".volume";
/// What the kubelet looks for to tell this failure from others.
const FAILED: &str = "ImageVolumeMountFailed";

/// The container that a snapshot belongs to.
pub(crate) fn owner(snapshot: &str) -> &str {
    snapshot.split_once(MARK).map_or(snapshot, |(owner, _)| owner)
}

fn wanted(config: &v1::ContainerConfig) -> impl Iterator<Item = (usize, &v1::Mount, &v1::ImageSpec)> {
    let mounts = config.mounts.iter().enumerate();
    mounts.filter_map(|(at, mount)| Some((at, mount, mount.image.as_ref().filter(|image| !image.image.is_empty())?)))
}

fn snapshot(container: &Container, at: usize) -> String {
    format!("{}{MARK}{at}", container.id)
}

/// Mounts the images; where each mount of the configuration is on the host then.
pub(super) async fn prepare(core: &Arc<Core>, container: &Container) -> Result<Vec<(usize, PathBuf)>, LifeError> {
    let config = container.config();
    let mut places = Vec::new();
    for (at, mount, image) in wanted(&config) {
        let doing = || format!("{FAILED}: mounting the image {:?} at {}", image.image, mount.container_path);
        if !mount.host_path.is_empty() {
            return Err(LifeError::new(Kind::InvalidArgument, "it has a path on the host as well")).doing(doing);
        }
        let missing = || LifeError::new(Kind::NotFound, "the image is not here: pull or import it first");
        let found = core.images.find(&image.image).ok_or_else(missing).doing(doing)?;
        let made = core.images.prepare_snapshot(&snapshot(container, at), &found).await.doing(doing)?;
        let sub_path = mount.image_sub_path.clone();
        let place = blocking(move || below(&made.root, &sub_path)).await.doing(doing)?;
        places.push((at, place));
    }
    Ok(places)
}

/// What `path` is in the image, its links taken as the image means them. Nobody writes there: it stays what it is.
fn below(root: &Path, path: &str) -> Result<PathBuf, LifeError> {
    if path.is_empty() {
        return Ok(root.to_owned());
    }
    let why =
        |error: Errno| LifeError::because(format!("looking for its sub path {path:?}"), std::io::Error::from(error));
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, folder, Mode::empty()).map_err(why)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found =
        rustix::fs::openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(why)?;
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    std::fs::read_link(link).doing(|| format!("looking for its sub path {path:?}"))
}

/// Takes them down again. Fine to call twice.
pub(super) async fn give_back(core: &Arc<Core>, container: &Container) -> Result<(), LifeError> {
    for (at, mount, _) in wanted(&container.config()) {
        let removed = core.images.remove_snapshot(&snapshot(container, at)).await;
        removed.doing(|| format!("taking down the image mounted at {}", mount.container_path))?;
    }
    Ok(())
}

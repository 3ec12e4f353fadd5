//! Mounts of a container in a user namespace: each is made with the namespace's ids in the container's directory, where
//! the shim takes it from, and goes with the container.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cri_proto::Kind;
use cri_proto::v1;

use super::{Container, plan};
use crate::error::{Doing, LifeError};
use crate::idmap;
use crate::sandbox::{Sandbox, files};
use crate::state::files::make_dir;

/// Puts what `config` mounts with ids of its own where [`unmap`] finds it, and lets `config` name that instead.
///
/// # Errors
/// A file system that cannot be shown with other ids, or a mount that is to reach back to the host.
pub(super) fn map(sandbox: &Sandbox, container: &Container, config: &mut v1::ContainerConfig) -> Result<(), LifeError> {
    let users = sandbox.dir.users();
    let users = File::open(&users).doing(|| format!("opening the user namespace {}", users.display()))?;
    let folder = container.dir.mapped();
    make_dir(&folder).doing(|| "making a directory for its mounts".into())?;
    let wanted = config.mounts.iter_mut().enumerate();
    for (index, mount) in wanted.filter(|(_, mount)| !mount.uid_mappings.is_empty()) {
        let doing = format!("showing {} with the pod's ids for {}", mount.host_path, mount.container_path);
        one(mount, &folder.join(index.to_string()), &users).doing(|| doing)?;
    }
    Ok(())
}

fn one(mount: &mut v1::Mount, target: &Path, users: &File) -> Result<(), LifeError> {
    if mount.propagation() == v1::MountPropagation::PropagationBidirectional {
        let why = "a pod with a user namespace cannot mount anything into the host";
        return Err(LifeError::new(Kind::InvalidArgument, why));
    }
    let source = PathBuf::from(&mount.host_path);
    plan::make_mount_sources(std::slice::from_ref(&source))?;
    // A container that is made again after a crash finds what was there.
    files::unmount_all(target).doing(|| "taking an older mount away".into())?;
    let place = if source.is_dir() { std::fs::create_dir(target) } else { File::create(target).map(drop) };
    place
        .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
        .doing(|| format!("making {}", target.display()))?;
    let tree = idmap::clone(&source, users).doing(|| "mounting it".into())?;
    idmap::attach(&tree, target).doing(|| "mounting it".into())?;
    mount.host_path = target.to_string_lossy().into_owned();
    mount.uid_mappings.clear();
    mount.gid_mappings.clear();
    Ok(())
}

/// Takes all of them away; nothing there is fine.
///
/// # Errors
/// When one stays.
pub(super) fn unmap(container: &Container) -> Result<(), LifeError> {
    let entries = match std::fs::read_dir(container.dir.mapped()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.doing(|| "looking for its mounts".into())?,
    };
    for entry in entries.flatten() {
        files::unmount_all(&entry.path()).doing(|| "taking its mounts away".into())?;
    }
    Ok(())
}

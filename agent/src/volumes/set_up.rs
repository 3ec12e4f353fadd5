//! Makes planned volumes so. Everything can be repeated; what is right already is left alone.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::error::io;
use super::mounts::Mounts;
use super::plan::{Planned, What};
use super::turns::Doing;
use super::{MountedVolume, MountedVolumes, SetUpError, VolumeError, atomic_write, empty_dir, host_path, layout};

/// Makes all planned volumes in the pod's directory.
pub(super) fn all(
    pod: &Path,
    plan: &[Planned],
    mounts: &dyn Mounts,
    doing: &Doing,
) -> Result<MountedVolumes, VolumeError> {
    let one = |planned: &Planned| {
        doing.volume(&planned.name);
        match one(pod, planned, mounts) {
            Ok(mounted) => Ok((planned.name.clone(), mounted)),
            Err(source) => Err(VolumeError::SetUp { volume: planned.name.clone(), source }),
        }
    };
    plan.iter().map(one).collect()
}

fn one(pod: &Path, planned: &Planned, mounts: &dyn Mounts) -> Result<MountedVolume, SetUpError> {
    let mounted = make(pod, planned, mounts)?;
    if planned.shared && mounted.managed {
        // What is mounted in it later reaches containers, or the node, only through a mount that is shared.
        mounts.share(&mounted.host_path).map_err(io("sharing the mounts of", &mounted.host_path))?;
    }
    Ok(MountedVolume { gid: planned.gid, ..mounted })
}

fn make(pod: &Path, planned: &Planned, mounts: &dyn Mounts) -> Result<MountedVolume, SetUpError> {
    let name = &planned.name;
    let group = planned.fs_group.map(|group| group.id);
    match &planned.what {
        What::EmptyDir(kind) => {
            empty_dir::set_up(pod, name, kind, group, mounts)?;
            let host_path = layout::volume(pod, empty_dir::PLUGIN, name);
            Ok(MountedVolume { host_path, read_only: false, managed: true, image: None, device: false, gid: None })
        }
        What::Image(image) => {
            let image = Some(image.clone());
            Ok(MountedVolume {
                host_path: Default::default(),
                read_only: true,
                managed: false,
                image,
                device: false,
                gid: None,
            })
        }
        What::Claim(claim) => {
            Err(SetUpError::Claim { claim: claim.name.clone(), reason: "PVC is not bound".to_owned() })
        }
        What::Left { plugin, on_tmpfs } => {
            let dir = layout::volume(pod, plugin, name);
            let there = !on_tmpfs || mounts.is_mounted(&dir).map_err(io("looking at", &dir))?;
            if !there || !atomic_write::is_written(&dir) {
                return Err(SetUpError::NotToldYet);
            }
            Ok(MountedVolume { host_path: dir, read_only: true, managed: true, image: None, device: false, gid: None })
        }
        What::Attach(attach) => {
            let host_path = attach.set_up(pod, planned.fs_group, mounts)?;
            Ok(MountedVolume {
                host_path,
                read_only: attach.read_only,
                managed: true,
                image: None,
                device: false,
                gid: None,
            })
        }
        What::Device(device) => {
            let (host_path, read_only) = (device.set_up(pod)?, device.read_only);
            Ok(MountedVolume { host_path, read_only, managed: false, image: None, device: true, gid: None })
        }
        What::HostPath { path, expected, read_only } => {
            host_path::check(path, *expected)?;
            Ok(MountedVolume {
                host_path: path.clone(),
                read_only: *read_only,
                managed: false,
                image: None,
                device: false,
                gid: None,
            })
        }
        What::Files { plugin, tmpfs, payload, mount_points } => {
            let dir = layout::volume(pod, plugin, name);
            ensure_place(&dir, *tmpfs, mounts)?;
            atomic_write::write(&dir, payload, mount_points, group)?;
            Ok(MountedVolume { host_path: dir, read_only: true, managed: true, image: None, device: false, gid: None })
        }
    }
}

/// The directory of a volume with files, on tmpfs where its content may be secret.
fn ensure_place(dir: &Path, tmpfs: Option<u64>, mounts: &dyn Mounts) -> Result<(), SetUpError> {
    let there = match tmpfs {
        None => dir.is_dir(),
        Some(_) => mounts.is_mounted(dir).map_err(io("looking at", dir))?,
    };
    if there {
        return Ok(());
    }
    make_dir(dir)?;
    if let Some(size) = tmpfs {
        mounts.tmpfs(dir, size, true).map_err(io("mounting a tmpfs on", dir))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(io("changing the mode of", dir))
}

/// A volume's directory and those around it: nobody but root looks into them from outside.
pub(super) fn make_dir(dir: &Path) -> Result<(), SetUpError> {
    DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(io("creating", dir))
}

//! Block volumes: a device of this node, for containers that name it in `volumeDevices`.
//!
//! Facts: `volumes`, sections 1 and 6. Nothing is mounted and nothing on the device is touched; the pod's directory holds a
//! link to it, where the kubelet has one.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::io;
use super::{SetUpError, attach, layout, set_up};

/// A device, as it is remembered while the pod has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    /// The PersistentVolume's name.
    pub name: String,
    /// Where it is on this node.
    pub path: PathBuf,
    /// Containers may only read it.
    pub read_only: bool,
}

impl Device {
    /// Links to it from the pod's directory.
    pub(super) fn set_up(&self, pod: &Path) -> Result<PathBuf, SetUpError> {
        let wrong = |what: &str| SetUpError::Unsupported(format!("path {:?} {what}", self.path.display()));
        match fs::metadata(&self.path) {
            Ok(found) if found.file_type().is_block_device() => {}
            Ok(_) => return Err(wrong("is not a block device, which a local volume with volumeMode Block is")),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(wrong("does not exist")),
            Err(error) => return Err(io("looking at", &self.path)(error)),
        }
        let dir = pod.join(layout::DEVICES).join(attach::LOCAL);
        set_up::make_dir(&dir)?;
        let link = dir.join(&self.name);
        if fs::read_link(&link).is_ok_and(|to| to == self.path) {
            return Ok(link);
        }
        match fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io("removing", &link)(error)),
            _ => symlink(&self.path, &link).map_err(io("linking to a device at", &link))?,
        }
        Ok(link)
    }
}

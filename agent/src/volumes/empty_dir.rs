use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};

use super::error::io;
use super::mounts::Mounts;
use super::{SetUpError, huge_pages, layout, ownership, set_up};
use crate::fields::Allocatable;
use crate::quantity::Amount;

/// Its directory in a pod's `volumes`.
pub(super) const PLUGIN: &str = "kubernetes.io~empty-dir";

/// An emptyDir.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EmptyDir {
    /// On the disk. A size limit is watched over, not enforced by the file system.
    Disk,
    /// In memory, of at most this many bytes.
    Memory(u64),
    /// In huge pages.
    HugePages {
        /// Bytes of one page.
        page: u64,
        /// At most this many bytes; 0 is as many as there are.
        size: u64,
    },
}

impl EmptyDir {
    pub(super) fn of(source: &EmptyDirVolumeSource, spec: &PodSpec, node: &Allocatable) -> Result<Self, SetUpError> {
        let limit = source.size_limit.as_ref().and_then(|limit| Amount::try_from(limit).ok());
        match source.medium.as_deref().unwrap_or_default() {
            "" => Ok(Self::Disk),
            "Memory" => Ok(Self::Memory(memory_size(limit, spec, node))),
            medium if huge_pages::is_medium(medium) => {
                let size = limit.map_or(0, Amount::ceil_units);
                Ok(Self::HugePages { page: huge_pages::page_size(medium, spec)?, size })
            }
            medium => Err(SetUpError::Unsupported(format!("emptyDir medium {medium:?} is not supported"))),
        }
    }
}

/// The smallest of what the node has, what the pod may use and what was asked for.
pub(super) fn memory_size(limit: Option<Amount>, spec: &PodSpec, node: &Allocatable) -> u64 {
    let wanted = limit.map(Amount::ceil_units).filter(|bytes| *bytes > 0);
    let sizes = [Some(node.memory_bytes).filter(|bytes| *bytes > 0), pod_limit(spec), wanted];
    // With nothing to go by the kernel's own default applies: half of the memory.
    sizes.into_iter().flatten().min().unwrap_or(0)
}

/// All containers' memory limits together, if every one has one.
fn pod_limit(spec: &PodSpec) -> Option<u64> {
    let memory = |limits: Option<&std::collections::BTreeMap<String, _>>| {
        let amount = limits.and_then(|limits| limits.get("memory")).and_then(|limit| Amount::try_from(limit).ok());
        amount.map(Amount::ceil_units).filter(|bytes| *bytes > 0)
    };
    if let Some(limit) = memory(spec.resources.as_ref().and_then(|resources| resources.limits.as_ref())) {
        return Some(limit);
    }
    let limits = spec.containers.iter().map(|c| memory(c.resources.as_ref().and_then(|r| r.limits.as_ref())));
    limits.sum::<Option<u64>>().filter(|bytes| *bytes > 0)
}

/// Makes it once: what a pod has put into it is never touched again.
pub(super) fn set_up(
    pod: &Path,
    name: &str,
    kind: &EmptyDir,
    fs_group: Option<u32>,
    mounts: &dyn Mounts,
) -> Result<(), SetUpError> {
    let (dir, ready) = (layout::volume(pod, PLUGIN, name), layout::ready(pod, PLUGIN, name));
    let mounted = mounts.is_mounted(&dir).map_err(io("looking at", &dir))?;
    let there = match kind {
        EmptyDir::Disk => dir.is_dir(),
        // After a reboot the directory is left, without what was mounted on it.
        EmptyDir::Memory(_) | EmptyDir::HugePages { .. } => mounted,
    };
    if there && ready.exists() {
        return Ok(());
    }
    set_up::make_dir(&dir)?;
    match kind {
        EmptyDir::Memory(size) if !mounted => {
            mounts.tmpfs(&dir, *size, false).map_err(io("mounting a tmpfs on", &dir))?;
        }
        EmptyDir::HugePages { page, size } if !mounted => {
            mounts.huge_pages(&dir, *page, *size).map_err(io("mounting huge pages on", &dir))?;
        }
        _ => {}
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(io("changing the mode of", &dir))?;
    if let Some(group) = fs_group {
        ownership::give(&dir, group, false)?;
    }
    let marker = ready.parent().unwrap_or(pod);
    fs::DirBuilder::new().recursive(true).mode(0o750).create(marker).map_err(io("creating", marker))?;
    fs::write(&ready, []).map_err(io("creating", &ready))
}

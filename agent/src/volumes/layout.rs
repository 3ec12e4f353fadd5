use std::path::{Path, PathBuf};

use crate::names::PodUid;

/// The kubelet's directory layout, which CSI drivers and people know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Below `root`, `/var/lib/kubelet` unless moved.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// All pods.
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// One pod.
    pub fn pod(&self, uid: &PodUid) -> PathBuf {
        self.pods().join(uid.as_str())
    }

    /// Where a sub path is bound to.
    pub(super) fn subpath(&self, uid: &PodUid, volume: &str, container: &str, index: usize) -> PathBuf {
        let below = self.pod(uid).join(SUBPATHS).join(volume);
        below.join(container).join(index.to_string())
    }
}

/// In a pod's directory: bound sub paths.
pub(super) const SUBPATHS: &str = "volume-subpaths";
/// In a pod's directory: volumes by plugin.
pub(super) const VOLUMES: &str = "volumes";
/// In a pod's directory: links to devices by plugin.
pub(super) const DEVICES: &str = "volumeDevices";
/// In a pod's directory: what plugins remember.
pub(super) const PLUGINS: &str = "plugins";

/// Where a volume is in its pod's directory.
pub(super) fn volume(pod: &Path, plugin: &str, name: &str) -> PathBuf {
    pod.join(VOLUMES).join(plugin).join(name)
}

/// The file that says that an emptyDir was made: what is in it then is the pod's.
pub(super) fn ready(pod: &Path, plugin: &str, name: &str) -> PathBuf {
    pod.join(PLUGINS).join(plugin).join(name).join("ready")
}

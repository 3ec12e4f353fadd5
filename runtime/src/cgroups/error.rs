//! What can go wrong with a cgroup.

use std::io;
use std::path::PathBuf;

/// A cgroup could not be made, read, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup file system is mounted where it should be.
    #[error("no usable cgroup hierarchy: {0}")]
    NoHierarchy(String),
    /// A path in the form of the systemd driver.
    #[error("cgroup {0:?} belongs to the systemd driver, which this runtime does not have yet: use cgroupfs")]
    SystemdDriver(String),
    /// A path that is relative, empty or leaves the hierarchy.
    #[error("{0:?} is not a cgroup path")]
    BadPath(String),
    /// A limit for which this machine has no controller.
    #[error("{what} needs the cgroup controller {controller}, which is not available")]
    NoController {
        /// The limit.
        what: String,
        /// The controller's name.
        controller: &'static str,
    },
    /// A value the kernel could not take.
    #[error("{what} {value:?} is not valid")]
    BadValue {
        /// The field.
        what: &'static str,
        /// What it holds.
        value: String,
    },
    /// A file operation failed.
    #[error("{action} {path}")]
    Io {
        /// What was tried, such as `writing "1024" to`.
        action: String,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The device program of cgroup v2 could not be loaded or attached.
    #[error("{action} the device program of cgroup {path}")]
    DeviceProgram {
        /// `loading` or `attaching`.
        action: &'static str,
        /// The group.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Processes remained after the time that was given.
    #[error("cgroup {path} still holds {left} processes after {waited_ms} ms")]
    Busy {
        /// The group.
        path: String,
        /// How many.
        left: usize,
        /// How long was waited.
        waited_ms: u128,
    },
}

impl CgroupError {
    /// For `map_err`: the action and the file of a failed operation.
    pub(super) fn io(action: impl Into<String>, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let (action, path) = (action.into(), path.into());
        move |source| Self::Io { action, path, source }
    }
}

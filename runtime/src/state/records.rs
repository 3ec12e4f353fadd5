//! What is written about sandboxes and containers.

use std::net::IpAddr;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use crate::ids::{ContainerId, SandboxId};

/// Far above any record: labels and annotations are not in it.
const LARGEST_RECORD: u64 = 256 << 10;

/// Above the largest message a gRPC peer may send us.
const LARGEST_CONFIG: u64 = 20 << 20;

/// What has to survive us about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// Its id.
    pub id: SandboxId,
    /// How far it is.
    pub phase: SandboxPhase,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Absolute path in the cgroup hierarchy of the pod.
    pub cgroup_parent: String,
    /// Nobody named that group: it is made and removed by us.
    pub owns_cgroup_parent: bool,
    /// The handler it was asked to run with.
    pub runtime_handler: String,
    /// It has a network namespace of its own, attached or about to be.
    pub own_network: bool,
    /// Its addresses once it is attached, the primary one first.
    pub addresses: Vec<IpAddr>,
}

impl SandboxRecord {
    /// The group of its shim and its pause.
    pub(crate) fn cgroup(&self) -> String {
        format!("{}/{}", self.cgroup_parent.trim_end_matches('/'), self.id)
    }

    /// The group of one of its containers.
    pub(crate) fn cgroup_of(&self, container: &ContainerId) -> String {
        format!("{}/{container}", self.cgroup_parent.trim_end_matches('/'))
    }
}

/// How far a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SandboxPhase {
    /// Being made: found after a restart, it is undone.
    Creating,
    /// Containers may be made in it.
    Ready,
    /// Its namespaces are gone or being given up; some of what it held may still be there.
    Stopping,
    /// Only its record is left.
    Stopped,
}

/// What has to survive us about a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// Its id.
    pub id: ContainerId,
    /// How far it is. That it runs is not written: the shim's `pid` file says so.
    pub phase: ContainerPhase,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Absolute path in the cgroup hierarchy.
    pub cgroup: String,
    /// Digest reference or id of the image it was made from.
    pub image_ref: String,
    /// Id (config digest) of the image it was made from.
    pub image_id: String,
    /// User, group and supplementary groups of its first process.
    pub user: UserRecord,
    /// Signal number that asks it to stop.
    pub stop_signal: i32,
    /// It has a pid namespace of its own, so that its first process takes all others along.
    pub own_pid_namespace: bool,
}

/// Who the first process of a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// How far a container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContainerPhase {
    /// Being made: found after a restart, it is undone.
    Creating,
    /// Not started yet.
    Created,
    /// Its first process runs.
    Running(Running),
    /// It ended, or could not be started.
    Exited(Exited),
}

/// A container that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// Its first process, in the pid namespace of the node.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exited {
    /// Nanoseconds since the epoch; 0 when it never ran.
    pub started_at: i64,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// 0–255, or 128 + signal.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`.
    pub reason: Reason,
    /// More for a person; mostly empty.
    pub message: String,
}

/// Why a container ended, in the words that `kubectl get pods` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// With code 0.
    Completed,
    /// With any other code.
    Error,
    /// The kernel killed a process of it because its memory was used up.
    OOMKilled,
    /// Its first process could not be started.
    StartError,
    /// Nobody knows: neither the process nor a note of its end is left.
    Unknown,
}

impl Reason {
    /// As CRI spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::Unknown => "Unknown",
        }
    }
}

/// Writes a record so that it is there as a whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save<T: Serialize>(path: &Path, record: &T) -> Result<(), FileError> {
    let text = serde_json::to_vec_pretty(record).map_err(|error| FileError::new("encoding", path, error.into()))?;
    files::replace(path, &text)
}

/// Reads a record; `None` when there is none.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(text) = files::read(path, LARGEST_RECORD)? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| FileError::new("understanding", path, error.into()))
}

/// Writes a CRI message.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn save_message(path: &Path, message: &impl prost::Message) -> Result<(), FileError> {
    files::replace(path, &message.encode_to_vec())
}

/// Reads a CRI message; `None` when there is none.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn load_message<T: prost::Message + Default>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(bytes) = files::read(path, LARGEST_CONFIG)? else { return Ok(None) };
    let decoded = T::decode(bytes.as_slice());
    decoded.map(Some).map_err(|error| FileError::new("understanding", path, std::io::Error::other(error)))
}

//! What the agent must remember across its own restarts and the runtime does not: one file in each pod's directory.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::life::Life;
use super::plan::Kept;
use crate::names::PodUid;
use crate::probes::SavedProbes;
use crate::timeline::Past;

const FILE: &str = "longshore.json";
/// A pod is at most 1.5 MiB in an API server, a status not much more.
const LARGEST: u64 = 8 << 20;

/// One pod as it was left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)] // another version's file may lack a field: the rest still counts
pub struct Remembered {
    /// The pod as it was last wanted.
    pub pod: Pod,
    /// Where in its life it was.
    pub life: Life,
    /// Back-offs and the like.
    pub kept: Kept,
    /// Its last status.
    pub status: Option<PodStatus>,
    /// From first wanted to all containers running, in milliseconds.
    pub started_in_ms: Option<u64>,
    /// Counters of its probes.
    pub probes: Option<SavedProbes>,
    /// What was tried for it.
    pub steps: Past,
}

/// The same on its way to the disk: pods are large, and copied only when they change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Note {
    #[serde(serialize_with = "inner")]
    pub(super) pod: Arc<Pod>,
    pub(super) life: Life,
    pub(super) kept: Kept,
    pub(super) status: Option<PodStatus>,
    pub(super) started_in_ms: Option<u64>,
    pub(super) probes: Option<SavedProbes>,
}

/// What a file holds. Steps alone are no reason to write one: they come along with what they change.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    note: &'a Note,
    steps: &'a Past,
}

fn inner<S: serde::Serializer>(pod: &Arc<Pod>, serializer: S) -> Result<S::Ok, S::Error> {
    pod.as_ref().serialize(serializer)
}

/// What is remembered could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct MemoryError {
    /// `writing` or `listing`.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// The directories of all pods.
#[derive(Clone, Debug)]
pub struct Memory {
    pods: PathBuf,
}

impl Memory {
    /// Pods are remembered in `<pods>/<uid>`.
    pub fn new(pods: PathBuf) -> Self {
        Self { pods }
    }

    /// The pod's directory.
    pub fn dir(&self, uid: &PodUid) -> PathBuf {
        self.pods.join(uid.as_str())
    }

    /// Writes under another name, then renames: whoever reads sees the old or the new.
    ///
    /// # Errors
    /// The disk's.
    pub(super) fn save(&self, uid: &PodUid, note: &Note, steps: &Past) -> Result<(), MemoryError> {
        let path = self.dir(uid).join(FILE);
        self.write(&path, &File { note, steps }).map_err(|source| MemoryError { what: "writing", path, source })
    }

    fn write(&self, path: &Path, pod: &File<'_>) -> io::Result<()> {
        let text = serde_json::to_vec(pod)?;
        let next = path.with_extension("json.next");
        // Manifests may hold passwords in plain variables: nobody else reads this.
        let open = || fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next);
        let mut file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let dir = path.parent().unwrap_or(path);
                fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
                open()?
            }
            other => other?,
        };
        file.write_all(&text)?;
        fs::rename(&next, path)
    }

    /// Every pod that was left behind; files that cannot be read are told in the log and skipped, their pods are then
    /// known from the runtime alone.
    ///
    /// # Errors
    /// When the directory itself cannot be listed.
    pub fn load_all(&self) -> Result<Vec<(PodUid, Remembered)>, MemoryError> {
        let entries = match fs::read_dir(&self.pods) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| MemoryError { what: "listing", path: self.pods.clone(), source })?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let uids = names.filter_map(|name| PodUid::try_from(name).ok());
        Ok(uids.filter_map(|uid| self.load(&uid).map(|pod| (uid, pod))).collect())
    }

    fn load(&self, uid: &PodUid) -> Option<Remembered> {
        let path = self.dir(uid).join(FILE);
        match read(&path) {
            Ok(pod) => Some(pod),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                warn!(path = %path.display(), %error, "what was remembered of a pod cannot be read");
                None
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Remembered> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::container::testing::pod;
    use crate::pods::life::End;
    use crate::timeline::Timeline;

    #[test]
    fn a_pod_is_remembered_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(dir.path().join("pods"));
        let uid = PodUid::try_from("u-1".to_owned()).unwrap();
        assert!(memory.load_all().unwrap().is_empty());
        let left = Remembered {
            pod: pod(serde_json::json!({})),
            life: Life::Stopping {
                end: End { deleted: true, verdict: None },
                deadline: Timestamp::new(1_700_000_000, 123_456_789).unwrap(),
            },
            started_in_ms: Some(17),
            steps: Timeline::new(Timestamp::UNIX_EPOCH, false).past(),
            ..Remembered::default()
        };
        let note = Note {
            pod: Arc::new(left.pod.clone()),
            life: left.life.clone(),
            kept: left.kept.clone(),
            status: left.status.clone(),
            started_in_ms: left.started_in_ms,
            probes: left.probes.clone(),
        };
        memory.save(&uid, &note, &Past::default()).unwrap();
        memory.save(&uid, &note, &left.steps).unwrap();
        assert_eq!(memory.load_all().unwrap(), [(uid, left)]);
    }

    #[test]
    fn a_torn_or_foreign_file_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("u-1", "{\"pod\":"), ("not.a.uid", "{}")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join(FILE), text).unwrap();
        }
        assert!(Memory::new(dir.path().to_owned()).load_all().unwrap().is_empty());
    }
}

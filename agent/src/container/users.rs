//! `hostUsers: false`: which of the node's ids a pod's own stand for.
//!
//! Each pod has a range, written in its directory before anything is made with it, as the kubelet does; it is free
//! again when the directory is gone. There is no other list of what is taken.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cri_proto::v1::{IdMapping, NamespaceMode, UserNamespace};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

/// Ids of one pod: as many as a process may need, `nobody` (65534) included.
const LENGTH: u32 = 65_536;
/// Ranges on a node. The first is the node's own; above 2^31 some programs take ids for negative numbers.
const RANGES: u32 = (1 << 31) / LENGTH;
/// The kubelet's name for it.
const FILE: &str = "userns";
/// A pod's file holds two mappings of three numbers.
const LARGEST: u64 = 4 << 10;

/// One choice at a time: it looks at the files of all others.
static CHOOSING: Mutex<()> = Mutex::new(());

/// The first id of a pod's range on the node, for users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range(u32);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    uid_mappings: Vec<SavedMapping>,
    gid_mappings: Vec<SavedMapping>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SavedMapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Range {
    /// The namespace as the runtime is told to make it.
    pub fn to_cri(self) -> UserNamespace {
        UserNamespace { mode: NamespaceMode::Pod.into(), uids: vec![self.mapping()], gids: vec![self.mapping()] }
    }

    /// How its ids stand for the node's.
    pub fn mapping(self) -> IdMapping {
        IdMapping { host_id: self.0, container_id: 0, length: LENGTH }
    }

    fn saved(self) -> Saved {
        let one = || vec![SavedMapping { host_id: self.0, container_id: 0, length: LENGTH }];
        Saved { uid_mappings: one(), gid_mappings: one() }
    }

    fn of(saved: &Saved) -> Option<Self> {
        let [only] = saved.uid_mappings.as_slice() else { return None };
        let whole = only.container_id == 0 && only.length == LENGTH && only.host_id.is_multiple_of(LENGTH);
        (whole && only.host_id > 0).then_some(Self(only.host_id))
    }
}

/// The pod wants ids of its own.
pub fn wanted(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
}

/// The range of the pod whose directory is `dir`, below the directory of all pods: the one it has, or a free one, which
/// is on disk then. `None` for a pod with the node's ids.
///
/// # Errors
/// When the files cannot be read or written, or no range is left.
pub fn range(pod: &Pod, dir: &Path) -> io::Result<Option<Range>> {
    if !wanted(pod) {
        return Ok(None);
    }
    let _one = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(range) = read(dir)? {
        return Ok(Some(range));
    }
    let mut taken = BTreeSet::new();
    for other in fs::read_dir(dir.parent().unwrap_or(dir))? {
        // A file that cannot be read may name any range: it must not be guessed away.
        taken.extend(read(&other?.path())?.map(|range| range.0 / LENGTH));
    }
    let range =
        choose(&taken, seed(dir)).ok_or_else(|| io::Error::other("no range of user ids is left on this node"))?;
    write(dir, range)?;
    Ok(Some(range))
}

/// Agents that do not know of each other should not choose the same: the search begins somewhere.
fn seed(dir: &Path) -> u32 {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    u32::try_from(hasher.finish() % u64::from(RANGES)).unwrap_or(0)
}

/// The first free range from `seed` on, round and round.
fn choose(taken: &BTreeSet<u32>, seed: u32) -> Option<Range> {
    let places = (0..RANGES).map(|step| (seed + step) % RANGES);
    let free = places.filter(|place| *place != 0).find(|place| !taken.contains(place))?;
    Some(Range(free * LENGTH))
}

fn read(dir: &Path) -> io::Result<Option<Range>> {
    let path = dir.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let saved: Saved = serde_json::from_reader(io::Read::take(file, LARGEST))?;
    let nonsense = || io::Error::other(format!("{} holds no range of ids", path.display()));
    Range::of(&saved).ok_or_else(nonsense).map(Some)
}

/// By rename, and the directory told, so that it is there after a power cut as well.
fn write(dir: &Path, range: Range) -> io::Result<()> {
    let part = dir.join(format!(".{FILE}"));
    let mut file = File::create(&part)?;
    file.write_all(&serde_json::to_vec(&range.saved())?)?;
    file.sync_all()?;
    fs::rename(part, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    #[test]
    fn every_pod_has_a_range_of_its_own_and_keeps_it() {
        let tmp = tempfile::tempdir().unwrap();
        let own = pod(json!({"hostUsers": false}));
        let mut seen = BTreeSet::new();
        for n in 0..50 {
            let dir = tmp.path().join(format!("pod-{n}"));
            fs::create_dir(&dir).unwrap();
            let range = range(&own, &dir).unwrap().unwrap();
            assert_eq!(super::range(&own, &dir).unwrap(), Some(range), "also after a restart");
            assert_eq!((range.0 % LENGTH, range.0 >= LENGTH), (0, true));
            assert!(seen.insert(range.0), "{range:?} twice");
        }
        assert_eq!(range(&pod(json!({})), tmp.path()).unwrap(), None);
    }

    #[test]
    fn the_file_is_the_kubelets() {
        let tmp = tempfile::tempdir().unwrap();
        write(tmp.path(), Range(131_072)).unwrap();
        let text = fs::read_to_string(tmp.path().join(FILE)).unwrap();
        let map = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        assert_eq!(text, format!(r#"{{"uidMappings":{map},"gidMappings":{map}}}"#));
        fs::write(tmp.path().join(FILE), "{}").unwrap();
        assert!(read(tmp.path()).is_err(), "nonsense is not taken for free");
    }

    #[test]
    fn the_search_goes_round_and_ends() {
        assert_eq!(choose(&BTreeSet::from([RANGES - 1]), RANGES - 1), Some(Range(LENGTH)), "never the node's own");
        assert_eq!(choose(&(1..RANGES).collect(), 7), None);
    }
}

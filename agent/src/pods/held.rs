//! Pods that were stopped by hand: they stay away until they are started by hand, or their manifest changes.
//!
//! On disk before the stop begins, so that neither a kill nor a reboot brings one back.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::tools::object_name;
use crate::names::{ObjectName, PodUid};

/// Thousands of stopped pods.
const LARGEST: u64 = 4 << 20;

/// A pod that was stopped by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPod {
    /// Namespace and name.
    pub name: ObjectName,
    /// When it was stopped.
    pub since: Timestamp,
    /// Which manifest it was made from: another one is started.
    mark: String,
}

/// What others see of them.
pub type HeldPods = watch::Receiver<Arc<BTreeMap<PodUid, HeldPod>>>;

/// All of them; the file holds the same.
pub(super) struct Held {
    path: PathBuf,
    pods: watch::Sender<Arc<BTreeMap<PodUid, HeldPod>>>,
}

impl Held {
    /// What a former run left in `path`. A file that cannot be read holds nobody: its pods start.
    pub(super) fn load(path: PathBuf) -> Self {
        let pods = match read(&path) {
            Ok(pods) => pods,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "reading which pods were stopped by hand; all start");
                }
                BTreeMap::new()
            }
        };
        Self { path, pods: watch::Sender::new(Arc::new(pods)) }
    }

    pub(super) fn listen(&self) -> HeldPods {
        self.pods.subscribe()
    }

    /// The pod stays away.
    pub(super) fn holds(&self, uid: &PodUid) -> bool {
        self.pods.borrow().contains_key(uid)
    }

    pub(super) fn hold(&self, pods: impl IntoIterator<Item = (PodUid, Arc<Pod>)>, now: Timestamp) {
        let pods =
            pods.into_iter().map(|(uid, pod)| (uid, HeldPod { name: object_name(&pod), since: now, mark: mark(&pod) }));
        let mut all = BTreeMap::clone(&self.pods.borrow());
        all.extend(pods);
        self.become_(all);
    }

    /// Lets those go whose manifest changed or went.
    pub(super) fn retain(&self, desired: &BTreeMap<PodUid, Arc<Pod>>) {
        let stays = |uid: &PodUid, held: &HeldPod| desired.get(uid).is_some_and(|pod| mark(pod) == held.mark);
        let mut all = BTreeMap::clone(&self.pods.borrow());
        all.retain(|uid, held| stays(uid, held));
        self.become_(all);
    }

    /// Lets the named ones go and says which of them were held.
    pub(super) fn release(&self, names: &[ObjectName]) -> Vec<ObjectName> {
        let mut all = BTreeMap::clone(&self.pods.borrow());
        let freed: Vec<_> = all.values().map(|held| held.name.clone()).filter(|name| names.contains(name)).collect();
        all.retain(|_, held| !names.contains(&held.name));
        self.become_(all);
        freed
    }

    fn become_(&self, all: BTreeMap<PodUid, HeldPod>) {
        if **self.pods.borrow() == all {
            return;
        }
        // What cannot be written holds until the agent ends, and the log says so.
        if let Err(error) = write(&self.path, &all) {
            tracing::error!(path = %self.path.display(), %error, "writing which pods were stopped by hand");
        }
        self.pods.send_replace(Arc::new(all));
    }
}

/// A manifest's mark: everything but when it was first seen.
fn mark(pod: &Pod) -> String {
    let mut pod = pod.clone();
    pod.status = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubernetes.io/config.seen");
    }
    // Strings, numbers and lists only: encoding cannot fail.
    let text = serde_json::to_vec(&pod).unwrap_or_default();
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &Path) -> io::Result<BTreeMap<PodUid, HeldPod>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(LARGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn write(path: &Path, all: &BTreeMap<PodUid, HeldPod>) -> io::Result<()> {
    let next = path.with_extension("json.next");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(all)?)?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::testing::pod;

    #[test]
    fn a_stop_outlives_the_agent_and_ends_with_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held.json");
        let uid = PodUid::try_from("u-1".to_owned()).unwrap();
        let mut web = pod(json!({"containers": [{"name": "a"}]}));
        let seen = |pod: &mut Pod, when: &str| {
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.insert("kubernetes.io/config.seen".to_owned(), when.to_owned());
        };
        seen(&mut web, "then");
        Held::load(path.clone()).hold([(uid.clone(), Arc::new(web.clone()))], Timestamp::UNIX_EPOCH);

        let held = Held::load(path.clone());
        seen(&mut web, "later");
        held.retain(&BTreeMap::from([(uid.clone(), Arc::new(web.clone()))]));
        assert!(held.holds(&uid));
        assert_eq!(held.release(&[ObjectName::new("other", "web")]), []);
        web.spec.as_mut().unwrap().containers[0].name = "b".to_owned();
        held.retain(&BTreeMap::from([(uid.clone(), Arc::new(web))]));
        assert!(!held.holds(&uid) && !Held::load(path).holds(&uid));
    }

    #[test]
    fn a_torn_file_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("held.json"), "{\"u-1\":").unwrap();
        assert!(Held::load(dir.path().join("held.json")).listen().borrow().is_empty());
    }
}

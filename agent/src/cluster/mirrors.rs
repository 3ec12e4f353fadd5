//! Mirror pods: what the API server shows of pods that come from this node's own manifests (`pod-lifecycle.md`, section 3).
//!
//! Nobody starts or stops a static pod through its mirror. What has to be made and deleted is decided by [`steps`], pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Own;
use crate::api::{ApiError, Client, Set, Sets, path_of, path_of_all};
use crate::errors::chain;
use crate::names::PodUid;
use crate::pods::tools::object_name;
use crate::sources::Desired;
use crate::view::PodViews;

/// Whose mirror a pod is: the value is that pod's uid here.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";
const SOURCE: &str = "kubernetes.io/config.source";
const SEEN: &str = "kubernetes.io/config.seen";
/// What the manifest said when the mirror was made: an edit that changes a pod in place keeps its uid.
const CONTENT: &str = "longshore.io/content";
/// After a refusal: the namespace may not be there yet.
const RETRY: Duration = Duration::from_secs(5);

/// Whether the pod comes from this node's own manifests.
pub(crate) fn is_static(pod: &Pod) -> bool {
    let source = pod.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE));
    source.is_some_and(|source| source != "api")
}

/// The uid here of the static pod that this one mirrors.
pub(crate) fn mirrored(pod: &Pod) -> Option<PodUid> {
    let hash = pod.metadata.annotations.as_ref()?.get(MIRROR)?;
    PodUid::try_from(hash.clone()).ok()
}

/// One call to the API server.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Box<Pod>),
    /// At once: nothing has to be waited for.
    Delete {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// Keeps a mirror of each static pod in `desired` until `stop`, and deletes those of pods that are gone: `views` shows what
/// still runs.
pub async fn run(
    client: Client,
    mut desired: watch::Receiver<Arc<Desired>>,
    mut own: Own,
    mut nodes: Sets<Node>,
    mut views: PodViews,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        let statics: Vec<_> = desired.borrow_and_update().pods.values().filter(|pod| is_static(pod)).cloned().collect();
        let running: Vec<_> = views.borrow_and_update().values().map(|view| Arc::clone(&view.pod)).collect();
        let node = nodes.borrow_and_update().as_ref().and_then(|nodes| nodes.values().next().cloned());
        // Where there are no static pods, what happens to the others is no news.
        let concerns = !statics.is_empty() || running.iter().any(|pod| is_static(pod));
        let there = own.borrow_and_update().clone();
        let steps = match (there, node) {
            (Some(there), Some(node)) => steps(&statics, &running, &there, &node),
            _ => Vec::new(),
        };
        let refused = stop.run_until_cancelled(perform(&client, steps)).await.unwrap_or(None);
        let again = refused.is_some();
        if refused != told {
            refused
                .iter()
                .for_each(|text| tracing::warn!("telling the API server of static pods: {text}; trying again"));
            told = refused;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(RETRY), if again => {}
            Ok(()) = desired.changed() => {}
            Ok(()) = own.changed() => {}
            Ok(()) = nodes.changed() => {}
            Ok(()) = views.changed(), if concerns => {}
        }
    }
}

/// The last refusal, if there was one.
async fn perform(client: &Client, steps: Vec<Step>) -> Option<String> {
    let mut refused = None;
    for step in steps {
        refused = do_one(client, step).await.err().map(|error| chain(&error)).or(refused);
    }
    refused
}

async fn do_one(client: &Client, step: Step) -> Result<(), ApiError> {
    match step {
        Step::Create(pod) => {
            let path = path_of_all::<Pod>(pod.metadata.namespace.as_deref());
            match client.create::<_, Pod>(&path, &pod).await {
                // The watch shows it in a moment.
                Err(error) if error.is_already_there() => Ok(()),
                done => done.map(drop),
            }
        }
        Step::Delete { namespace, name, uid } => {
            match client.delete_now(&path_of::<Pod>(Some(&namespace), &name), &uid).await {
                Err(error) if error.is_conflict() => Ok(()),
                done => done,
            }
        }
    }
}

/// Mirrors that are missing are made, others than the manifest's are deleted and made again. One of a pod that is gone stays
/// while that pod still ends.
fn steps(statics: &[Arc<Pod>], running: &[Arc<Pod>], there: &Set<Pod>, node: &Node) -> Vec<Step> {
    if node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let wanted: BTreeMap<_, _> = statics.iter().map(|pod| (object_name(pod), pod)).collect();
    let ending = |pod: &Pod| running.iter().any(|one| is_static(one) && object_name(one) == object_name(pod));
    let mut steps = Vec::new();
    for (name, mirror) in there.iter().filter(|(_, pod)| mirrored(pod).is_some()) {
        let right = wanted.get(name).is_some_and(|pod| mirrors(mirror, pod));
        let stays = right || (!wanted.contains_key(name) && ending(mirror));
        if !stays || mirror.metadata.deletion_timestamp.is_some() {
            let uid = mirror.metadata.uid.clone().unwrap_or_default();
            steps.push(Step::Delete { namespace: name.namespace.clone(), name: name.name.clone(), uid });
        }
    }
    let missing = wanted.iter().filter(|(name, _)| !there.contains_key(*name));
    steps.extend(missing.filter_map(|(_, pod)| mirror_of(pod, node)).map(|pod| Step::Create(Box::new(pod))));
    steps
}

fn mirrors(mirror: &Pod, pod: &Pod) -> bool {
    let content = mirror.metadata.annotations.as_ref().and_then(|all| all.get(CONTENT));
    mirrored(mirror).map(|uid| uid.to_string()) == pod.metadata.uid && content == Some(&content_of(pod))
}

/// Everything of the manifest, but when it was first seen.
fn content_of(pod: &Pod) -> String {
    let mut pod = pod.clone();
    pod.status = None;
    pod.metadata.annotations.iter_mut().for_each(|all| drop(all.remove(SEEN)));
    // Strings, numbers and lists only: encoding cannot fail.
    let text = serde_json::to_vec(&pod).unwrap_or_default();
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn mirror_of(pod: &Pod, node: &Node) -> Option<Pod> {
    let content = content_of(pod);
    let uid = pod.metadata.uid.clone()?;
    let mut mirror = pod.clone();
    mirror.status = None;
    let meta = &mut mirror.metadata;
    (meta.uid, meta.resource_version, meta.creation_timestamp) = (None, None, None);
    let annotations = meta.annotations.get_or_insert_default();
    annotations.extend([(MIRROR.to_owned(), uid), (CONTENT.to_owned(), content)]);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    Some(mirror)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n1", "uid": "node-uid"}})).unwrap()
    }

    fn manifest(image: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "web-n1", "namespace": "n", "uid": "abc", "annotations": {
            "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "abc", "kubernetes.io/config.seen": "then"}},
            "spec": {"containers": [{"name": "a", "image": image}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// What the API server would show of it.
    fn shown(pod: &Pod, more: &Value) -> Set<Pod> {
        let mut mirror = serde_json::to_value(mirror_of(pod, &node()).unwrap()).unwrap();
        mirror["metadata"]["uid"] = json!("mirror-uid");
        for (key, value) in more.as_object().into_iter().flatten() {
            mirror["metadata"][key] = value.clone();
        }
        let mirror: Pod = serde_json::from_value(mirror).unwrap();
        Set::from([(object_name(&mirror), Arc::new(mirror))])
    }

    fn delete() -> Step {
        Step::Delete { namespace: "n".into(), name: "web-n1".into(), uid: "mirror-uid".into() }
    }

    #[test]
    fn a_mirror_belongs_to_the_node_and_names_whom_it_mirrors() {
        let steps = steps(&[manifest("one")], &[], &Set::new(), &node());
        let [Step::Create(mirror)] = steps.as_slice() else { panic!("{steps:?}") };
        let meta = serde_json::to_value(&mirror.metadata).unwrap();
        assert_eq!(meta["annotations"]["kubernetes.io/config.mirror"], "abc");
        assert_eq!(
            meta["ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": true}])
        );
        assert_eq!((meta.get("uid"), mirrored(mirror).unwrap().as_str()), (None, "abc"));
    }

    #[test]
    fn a_right_mirror_is_left_alone_also_when_the_manifest_was_read_again() {
        let mut again = (*manifest("one")).clone();
        again.metadata.annotations.as_mut().unwrap().insert(SEEN.into(), "now".into());
        assert_eq!(steps(&[Arc::new(again)], &[], &shown(&manifest("one"), &json!({})), &node()), []);
    }

    #[test]
    fn a_deleted_mirror_and_one_of_another_manifest_are_deleted_first() {
        let deleted = shown(&manifest("one"), &json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}));
        assert_eq!(steps(&[manifest("one")], &[], &deleted, &node()), [delete()]);
        assert_eq!(steps(&[manifest("two")], &[], &shown(&manifest("one"), &json!({})), &node()), [delete()]);
    }

    #[test]
    fn a_mirror_goes_when_its_pod_has_ended_and_nobody_elses_pod_is_touched() {
        let there = shown(&manifest("one"), &json!({}));
        assert_eq!(steps(&[], &[manifest("one")], &there, &node()), []);
        assert_eq!(steps(&[], &[], &there, &node()), [delete()]);
        let foreign = shown(&manifest("one"), &json!({"annotations": {}}));
        assert_eq!(steps(&[], &[], &foreign, &node()), []);
        assert_eq!(steps(&[manifest("one")], &[], &foreign, &node()), [], "its name is taken");
    }
}

//! `/pods`: what should run, with what is known of it. `/runningpods/`: what the runtime has.

use std::collections::BTreeMap;

use cri_proto::{Deadline, Runtime, RuntimeError, v1};
use hyper::StatusCode;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::answers::{Answer, text};
use super::route::PodRef;
use crate::container::all_containers;
use crate::names::PodUid;
use crate::view::PodView;

/// All pods.
pub(super) fn wanted(views: &BTreeMap<PodUid, PodView>) -> List<Pod> {
    let with_status = |view: &PodView| {
        let mut pod = Pod::clone(&view.pod);
        pod.status = Some(view.status.clone());
        pod
    };
    List { items: views.values().map(with_status).collect(), ..List::default() }
}

/// The pod that is meant; of two with one name the one that is not on its way out.
pub fn find<'a>(views: &'a BTreeMap<PodUid, PodView>, pod: &PodRef) -> Option<&'a PodView> {
    let is_meant = |view: &&PodView| {
        let metadata = &view.pod.metadata;
        metadata.name.as_deref() == Some(&pod.name)
            && metadata.namespace.as_deref().unwrap_or("default") == pod.namespace
            && pod.uid.as_ref().is_none_or(|uid| metadata.uid.as_ref() == Some(uid))
    };
    views.values().filter(is_meant).min_by_key(|view| view.stopping)
}

/// What the runtime has.
pub(super) async fn running(runtime: &dyn Runtime, by: Deadline) -> Result<List<Pod>, RuntimeError> {
    let sandboxes = runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default(), by);
    let containers = runtime.list_containers(v1::ListContainersRequest::default(), by);
    let (sandboxes, containers) = (sandboxes.await?.items, containers.await?.containers);
    Ok(List { items: running_pods(sandboxes, containers), ..List::default() })
}

fn running_pods(sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Vec<Pod> {
    let mut pods: BTreeMap<String, (ObjectMeta, Vec<Container>)> = BTreeMap::new();
    let mut uids: BTreeMap<String, String> = BTreeMap::new();
    for sandbox in sandboxes {
        let Some(metadata) = sandbox.metadata else { continue };
        uids.insert(sandbox.id, metadata.uid.clone());
        let meta = ObjectMeta {
            name: Some(metadata.name),
            namespace: Some(metadata.namespace),
            uid: Some(metadata.uid.clone()),
            ..ObjectMeta::default()
        };
        pods.entry(metadata.uid).or_insert((meta, Vec::new()));
    }
    for container in containers.into_iter().filter(|one| one.state() == v1::ContainerState::ContainerRunning) {
        let image = container.image.map(|image| image.image);
        let name = container.metadata.map(|metadata| metadata.name).unwrap_or_default();
        let pod = uids.get(&container.pod_sandbox_id).and_then(|uid| pods.get_mut(uid));
        if let Some((_, containers)) = pod {
            containers.push(Container { name, image, ..Container::default() });
        }
    }
    let pod = |(metadata, containers)| Pod {
        metadata,
        spec: Some(PodSpec { containers, ..PodSpec::default() }),
        status: Some(PodStatus::default()),
    };
    pods.into_values().filter(|(_, containers)| !containers.is_empty()).map(pod).collect()
}

/// `/checkpoint/…`: the embedded runtime has no CRIU, and the kubelet's answer for such a runtime is 500.
pub(super) fn checkpoint(views: &BTreeMap<PodUid, PodView>, pod: &PodRef, container: &str) -> Answer {
    let Some(view) = find(views, pod) else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
    if !names(&view.pod).any(|name| name == container) {
        return text(StatusCode::NOT_FOUND, format!("container {container} does not exist"));
    }
    let PodRef { namespace, name, .. } = pod;
    let why = "the embedded runtime cannot checkpoint containers";
    text(StatusCode::INTERNAL_SERVER_ERROR, format!("checkpointing of {namespace}/{name}/{container} failed ({why})"))
}

/// The names of all containers of a pod.
pub fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let ephemeral = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    let ephemeral = ephemeral.map(|container| container.name.as_str());
    all_containers(pod).map(|container| container.name.as_str()).chain(ephemeral)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_the_runtime_has_becomes_pods() {
        let sandbox = |id: &str, uid: &str| v1::PodSandbox {
            id: id.into(),
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                uid: uid.into(),
                namespace: "shop".into(),
                attempt: 0,
            }),
            ..v1::PodSandbox::default()
        };
        let container = |sandbox: &str, name: &str, state: v1::ContainerState| v1::Container {
            pod_sandbox_id: sandbox.into(),
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "busybox".into(), ..v1::ImageSpec::default() }),
            state: state.into(),
            ..v1::Container::default()
        };
        let (up, down) = (v1::ContainerState::ContainerRunning, v1::ContainerState::ContainerExited);
        let pods = running_pods(
            vec![sandbox("s1", "u1"), sandbox("s2", "u1"), sandbox("s3", "u2")],
            vec![container("s1", "old", down), container("s2", "main", up), container("s3", "gone", down)],
        );
        expect![[r#"[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"shop","uid":"u1"},"spec":{"containers":[{"image":"busybox","name":"main"}]},"status":{}}]"#]]
        .assert_eq(&serde_json::to_value(pods).unwrap().to_string());
    }
}

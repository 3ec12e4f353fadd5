//! What goes on without the API server on a node of a real cluster, and what it is told of afterwards: static pods and their
//! mirrors, pods of a former run, a Node that was deleted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

fn pod(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 3' TERM; while true; do sleep 0.1; done"]}]}})
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == name).unwrap_or(&Value::Null)
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn manifest(folder: &Path, name: &str, label: &str) -> Result<()> {
    Ok(std::fs::write(folder.join(format!("{name}.json")), pod(name, label).to_string())?)
}

/// Waits until `longshore ps` shows the pod so.
fn until_ps(node: &mut ClusterNode, pod: &str, right: impl Fn(&[&str]) -> bool) -> Result<()> {
    node.wait(&format!("right state of {pod} in ps"), |node| {
        let all = node.print(&["ps"])?;
        let words = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(words.filter(|words| words.first() == Some(&pod)).any(|words| right(&words)).then_some(()))
    })
}

#[test]
fn static_pods_have_mirrors_and_all_pods_go_on_while_the_api_server_is_away() -> Result<()> {
    let Some(mut plane) = ControlPlane::start()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let flag = format!("--pod-manifest-path={}", folder.path().display());
    let mut node = ClusterNode::start(&plane, 61, &[&flag])?;
    manifest(folder.path(), "one", "first")?;
    plane.apply(&pod("web", "web"))?;
    let web = node.wait_for_pod(&plane, "web", is_ready)?;
    let mirror = node.wait_for_pod(&plane, "one-n61", is_ready)?;
    let object = plane.get("/api/v1/nodes/n61")?.context("the Node")?;
    let owner = &mirror["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Node" && owner["uid"] == object["metadata"]["uid"], "{mirror}");
    let annotations = &mirror["metadata"]["annotations"];
    ensure!(annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"], "{annotations}");
    ensure!(mirror["metadata"]["uid"] != annotations["kubernetes.io/config.mirror"], "{mirror}");

    // Whoever deletes a mirror deletes nothing else.
    plane.print(&["delete", "pod", "one-n61", "--wait=false"])?;
    let other = |pod: &Value| is_ready(pod) && pod["metadata"]["uid"] != mirror["metadata"]["uid"];
    let again = node.wait_for_pod(&plane, "one-n61", other)?;
    ensure!(container(&again)["containerID"] == container(&mirror)["containerID"], "{again}");
    // An edit that leaves the pod running is shown too.
    manifest(folder.path(), "one", "second")?;
    let edited = |pod: &Value| is_ready(pod) && pod["metadata"]["labels"]["app"] == "second";
    let edited = node.wait_for_pod(&plane, "one-n61", edited)?;
    ensure!(container(&edited)["containerID"] == container(&mirror)["containerID"], "{edited}");

    // A start without the API server looks after all of them, and takes new manifests.
    plane.stop("kube-apiserver")?;
    node.kill()?;
    node.come_back()?;
    for pod in ["default/web", "default/one-n61"] {
        until_ps(&mut node, pod, |words| words[1] == "1/1" && words[3] == "0")?;
    }
    manifest(folder.path(), "two", "first")?;
    until_ps(&mut node, "default/two-n61", |words| words[1] == "1/1")?;
    let _ = node.cli(&["exec", "web", "--", "kill", "-TERM", "1"])?;
    until_ps(&mut node, "default/web", |words| words[1] == "1/1" && words[3] == "1")?;

    plane.start_api_server()?;
    node.wait_for_pod(&plane, "two-n61", is_ready)?;
    let now = node.wait_for_pod(&plane, "web", |pod| container(pod)["restartCount"] == 1 && is_ready(pod))?;
    ensure!(now["status"]["podIP"] == web["status"]["podIP"], "{now}");
    let kept = node.wait_for_pod(&plane, "one-n61", is_ready)?;
    ensure!(kept["metadata"]["uid"] == edited["metadata"]["uid"], "{kept}");
    ensure!(container(&kept)["containerID"] == container(&mirror)["containerID"], "{kept}");

    // A manifest that goes takes its mirror with it.
    for name in ["one", "two"] {
        std::fs::remove_file(folder.path().join(format!("{name}.json")))?;
        let path = format!("/api/v1/namespaces/default/pods/{name}-n61");
        node.wait("end of the mirror", |_| Ok(plane.get(&path)?.is_none().then_some(())))?;
    }
    plane.print(&["delete", "pod", "web", "--wait=false"])?;
    node.wait("end of the pod", |_| Ok(plane.get("/api/v1/namespaces/default/pods/web")?.is_none().then_some(())))?;
    node.terminate()
}

#[test]
fn a_node_that_was_deleted_takes_up_its_new_range_when_the_former_is_free() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 62, &[])?;
    let former = node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n62")?.filter(is_ready)))?;
    plane.apply(&pod("web", "web"))?;
    let web = node.wait_for_pod(&plane, "web", is_ready)?;
    plane.print(&["delete", "node", "n62"])?;
    let other = |node: &Value| node["metadata"]["uid"] != former["metadata"]["uid"];
    let waiting = node.wait("Node that says what it waits for", |_| {
        let now = plane.get("/api/v1/nodes/n62")?.filter(other);
        let says =
            |node: &Value| condition(node, "Ready")["message"].as_str().unwrap_or_default().contains("addresses of");
        Ok(now.filter(says))
    })?;
    let range = waiting["spec"]["podCIDR"].as_str().context("a range")?;
    ensure!(range != former["spec"]["podCIDR"].as_str().context("a range")?, "the cluster gave the same range again");
    let pid = node.pid();
    plane.print(&["delete", "pod", "web", "--wait=false"])?;
    node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n62")?.filter(is_ready)))?;
    plane.apply(&pod("next", "next"))?;
    let next = node.wait_for_pod(&plane, "next", is_ready)?;
    let prefix = range.split_once(".0/").context("a range of 256 addresses")?.0;
    let address = next["status"]["podIP"].as_str().context("an address")?;
    ensure!(address.starts_with(prefix) && next["status"]["podIP"] != web["status"]["podIP"], "{address} of {range}");
    ensure!(node.pid() == pid);
    plane.print(&["delete", "pod", "next", "--wait=false"])?;
    node.wait("end of the pod", |_| Ok(plane.get("/api/v1/namespaces/default/pods/next")?.is_none().then_some(())))?;
    node.terminate()
}

#[test]
fn a_static_pod_that_does_not_fit_preempts_another() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let flag = format!("--pod-manifest-path={}", folder.path().display());
    let mut node = ClusterNode::start(&plane, 63, &[&flag, "--max-pods=1"])?;
    plane.apply(&pod("web", "web"))?;
    node.wait_for_pod(&plane, "web", is_ready)?;
    manifest(folder.path(), "vital", "vital")?;
    let web = node.wait_for_pod(&plane, "web", |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(web["status"]["reason"] == "Preempting", "{web}");
    ensure!(web["status"]["message"] == "Preempted in order to admit critical pod", "{web}");
    ensure!(condition(&web, "DisruptionTarget")["reason"] == "TerminationByKubelet", "{web}");
    ensure!(container(&web)["state"]["terminated"]["exitCode"] == 3, "{web}");
    node.wait_for_pod(&plane, "vital-n63", is_ready)?;
    std::fs::remove_file(folder.path().join("vital.json"))?;
    for pod in ["vital-n63", "web"] {
        let _ = plane.kubectl(&["delete", "pod", pod, "--wait=false"])?;
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        node.wait("end of the pod", |_| Ok(plane.get(&path)?.is_none().then_some(())))?;
    }
    node.terminate()
}

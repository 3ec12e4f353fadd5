//! A node of a real cluster: registration, pods from the API server, their statuses and their end.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::{ControlPlane, TOKEN};

fn condition(object: &Value, name: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let one = all.iter().find(|condition| condition["type"] == name);
    one.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn pod(name: &str, command: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "terminationGracePeriodSeconds": 20,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
            "env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "words", "key": "word"}}},
                {"name": "TONE", "valueFrom": {"configMapKeyRef": {"name": "tones", "key": "tone"}}}]}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// What it prints, it prints when it can be stopped.
const SERVING: &str = "trap 'exit 3' TERM; echo $WORD $TONE; while true; do sleep 0.1; done";

fn cluster() -> Result<Option<(ControlPlane, ClusterNode)>> {
    let Some(plane) = ControlPlane::start()? else { return Ok(None) };
    let node = ClusterNode::start(&plane, 11, &["--node-labels=tier=edge"])?;
    plane.apply(
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "words"}, "stringData": {"word": "hello"}}),
    )?;
    plane.apply(
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tones"}, "data": {"tone": "softly"}}),
    )?;
    Ok(Some((plane, node)))
}

#[test]
fn a_node_registers_beats_and_is_ready() -> Result<()> {
    let Some((plane, mut node)) = cluster()? else { return Ok(()) };
    let object = node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n11")?.filter(is_ready)))?;
    let labels = &object["metadata"]["labels"];
    ensure!(labels["tier"] == "edge" && labels["kubernetes.io/hostname"] == "n11", "{labels}");
    ensure!(object["status"]["addresses"][0] == json!({"type": "InternalIP", "address": "192.0.2.11"}), "{object}");
    ensure!(object["status"]["capacity"]["pods"] == "110");
    let lease_path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n11";
    let lease = plane.get(lease_path)?.context("the lease")?;
    ensure!(lease["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"]);
    node.wait("renewed lease", |_| {
        Ok(plane.get(lease_path)?.filter(|now| now["spec"]["renewTime"] != lease["spec"]["renewTime"]))
    })?;
    // Somebody deletes it under the running agent.
    plane.print(&["delete", "node", "n11"])?;
    node.wait("Node that is registered anew", |_| {
        let now = plane.get("/api/v1/nodes/n11")?.filter(is_ready);
        Ok(now.filter(|now| now["metadata"]["uid"] != object["metadata"]["uid"]))
    })?;
    node.terminate()
}

#[test]
fn a_pod_runs_survives_the_agent_and_goes_when_it_is_deleted() -> Result<()> {
    let Some((plane, mut node)) = cluster()? else { return Ok(()) };
    plane.apply(&pod("web", SERVING, json!({})))?;
    let first = node.wait_for_pod(&plane, "web", is_ready)?;
    ensure!(first["spec"]["nodeName"] == "n11" && first["status"]["phase"] == "Running", "{first}");
    let address = first["status"]["podIP"].as_str().context("an address")?;
    ensure!(address.starts_with("10.244."), "{address} is not of the Node's podCIDR");
    ensure!(first["status"]["hostIP"] == "192.0.2.11");
    let uid = first["metadata"]["uid"].as_str().context("a uid")?.to_owned();
    let log = node.place().path(&format!("logs/default_web_{uid}/main/0.log"));
    node.wait("line in the log", |_| Ok(std::fs::read_to_string(&log)?.contains("hello softly").then_some(())))?;

    node.kill()?;
    node.come_back()?;
    let again = node.wait_for_pod(&plane, "web", is_ready)?;
    ensure!(container(&again)["containerID"] == container(&first)["containerID"], "{again}");

    let watch = plane.watch("/api/v1/namespaces/default/pods?fieldSelector=metadata.name=web")?;
    plane.print(&["delete", "pod", "web", "--wait=false"])?;
    node.wait("end of the pod", |_| Ok(plane.get("/api/v1/namespaces/default/pods/web")?.is_none().then_some(())))?;
    ensure!(!node.place().path(&format!("root/kubelet/pods/{uid}")).exists(), "its folder is left");
    // SIGTERM was answered with 3, and whoever watched saw it before the object went.
    let events = node.wait("last event", |_| {
        let events = watch.events()?;
        Ok(events.iter().any(|event| event["type"] == "DELETED").then_some(events))
    })?;
    let before = events.iter().rev().find(|event| event["type"] == "MODIFIED").context("a change before the end")?;
    let last = &before["object"];
    ensure!(last["status"]["phase"] == "Failed" && condition(last, "Ready") == "False", "{last}");
    ensure!(container(last)["state"]["terminated"]["exitCode"] == 3, "{last}");
    ensure!(!node.print(&["ps"])?.contains("web"));
    node.terminate()
}

#[test]
fn while_the_api_server_is_away_pods_go_on_and_then_it_hears_of_it() -> Result<()> {
    let Some((mut plane, mut node)) = cluster()? else { return Ok(()) };
    plane.apply(&pod("web", SERVING, json!({})))?;
    plane.apply(&pod("job", "exit 0", json!({"restartPolicy": "Never"})))?;
    let first = node.wait_for_pod(&plane, "web", is_ready)?;
    node.wait_for_pod(&plane, "job", |pod| pod["status"]["phase"] == "Succeeded")?;

    node.wait("line in the log", |node| Ok(node.print(&["logs", "web"])?.contains("hello softly").then_some(())))?;
    plane.stop("kube-apiserver")?;
    node.print(&["exec", "web", "--", "sh", "-c", "kill -TERM 1"])?;
    node.wait("restart without an API server", |node| {
        let list: Value = serde_json::from_str(&node.print(&["ps", "-o", "json"])?)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let web = pods.into_iter().find(|pod| pod["metadata"]["name"] == "web");
        Ok(web.filter(|pod| is_ready(pod) && container(pod)["restartCount"] == 1))
    })?;
    plane.start_api_server()?;
    let now = node.wait_for_pod(&plane, "web", |pod| container(pod)["restartCount"] == 1 && is_ready(pod))?;
    ensure!(container(&now)["lastState"]["terminated"]["exitCode"] == 3, "{now}");
    ensure!(now["status"]["podIP"] == first["status"]["podIP"]);

    plane.print(&["delete", "pod", "web", "job", "--wait=false"])?;
    for name in ["web", "job"] {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        node.wait("end of the pods", |_| Ok(plane.get(&path)?.is_none().then_some(())))?;
    }
    node.terminate()
}

#[test]
fn a_bootstrap_token_becomes_a_certificate_of_the_node() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut wrong = ClusterNode::with_token(&plane, 13, "abcdef.aaaaaaaaaaaaaaaa")?;
    wrong.spawn()?;
    ensure!(!wrong.ended()?.success(), "a wrong token was taken");
    let said = wrong.log();
    ensure!(said.contains("is the bootstrap token still valid?") && said.contains("401"), "{said}");
    ensure!(!said.contains("aaaaaaaaaaaaaaaa"), "the token is shown: {said}");
    ensure!(!wrong.place().path("kubelet.conf").exists());

    let mut node = ClusterNode::with_token(&plane, 14, TOKEN)?;
    node.begin()?;
    node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n14")?.filter(is_ready)))?;
    let list = plane.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")?.context("the requests")?;
    let request = &list["items"][0];
    ensure!(request["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet", "{request}");
    ensure!(request["spec"]["username"] == "system:bootstrap:abcdef", "{request}");
    let pem = std::fs::read_to_string(node.place().path("pki/kubelet-client-current.pem"))?;
    ensure!(pem.contains("BEGIN CERTIFICATE") && pem.contains("BEGIN PRIVATE KEY"));
    ensure!(!node.place().path("pki/kubelet-client.key.tmp").exists());
    // The certificate is kept: without the token the next one starts too.
    node.terminate()?;
    std::fs::remove_file(node.place().path("bootstrap.conf"))?;
    node.spawn()?;
    node.wait("agent's socket", |node| Ok(node.cli(&["ps"])?.status.success().then_some(())))?;
    node.terminate()
}

//! Services of a real cluster: what the API server says reaches the kernel of a node, and packets follow it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

fn pod(name: &str, word: &str) -> Value {
    let serve = format!("mkdir /www; echo {word} > /www/index.html; exec httpd -f -p 8080 -h /www");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", serve],
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}}]}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "type": "NodePort", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http", "nodePort": 30080}]}})
}

/// What the node hears there, in one request of its own; nothing where nobody answers.
fn ask(node: &ClusterNode, address: &str) -> Result<String> {
    let (host, port) = address.split_once(':').context("host:port")?;
    let ask = format!("exec 3<>/dev/tcp/{host}/{port}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let output = node.place().command("timeout").args(["5", "bash", "-c", &ask]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.lines().last().unwrap_or_default().to_owned())
}

fn until_it_says(node: &mut ClusterNode, address: &str, word: &str) -> Result<()> {
    node.wait(&format!("{word:?} from {address}"), |node| Ok((ask(node, address)? == word).then_some(())))
}

#[test]
fn services_of_the_cluster_are_programmed_and_followed() -> Result<()> {
    let Some(mut plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 21, &[])?;
    plane.apply(&pod("one", "first"))?;
    plane.apply(&service())?;
    let object = plane.get("/api/v1/namespaces/default/services/web")?.context("the Service")?;
    let address = format!("{}:80", object["spec"]["clusterIP"].as_str().context("its address")?);
    until_it_says(&mut node, &address, "first")?;
    until_it_says(&mut node, "192.0.2.21:30080", "first")?;
    let listed: Value = serde_json::from_str(&node.print(&["services", "-o", "json"])?)?;
    let rows = listed["services"].as_array().context("a list")?;
    ensure!(rows.iter().any(|row| row["name"]["name"] == "kubernetes"), "{listed}");

    // What tells other programs which iptables this node uses, also after somebody took it away.
    for _ in 0..2 {
        node.wait("the kubelet's hint", |node| {
            let output =
                node.place().command("iptables").args(["-t", "mangle", "-S", "KUBE-IPTABLES-HINT"]).output()?;
            Ok(output.status.success().then_some(()))
        })?;
        let flushed = node.place().command("iptables").args(["-t", "mangle", "-X", "KUBE-IPTABLES-HINT"]).status()?;
        ensure!(flushed.success());
    }

    // Another pod takes over.
    plane.apply(&pod("two", "second"))?;
    plane.print(&["delete", "pod", "one", "--wait=false"])?;
    until_it_says(&mut node, &address, "second")?;

    // Rules outlive the agent and the API server.
    plane.stop("kube-apiserver")?;
    ensure!(ask(&node, &address)? == "second");
    node.kill()?;
    ensure!(ask(&node, &address)? == "second", "the rules went with the agent");
    plane.start_api_server()?;
    node.come_back()?;
    ensure!(ask(&node, &address)? == "second", "the rules of the last agent were not taken over");
    plane.apply(&pod("three", "third"))?;
    plane.print(&["delete", "pod", "two", "--wait=false"])?;
    until_it_says(&mut node, &address, "third")?;

    // A Service that is gone answers nobody.
    plane.print(&["delete", "service", "web"])?;
    node.wait("silence", |node| Ok(ask(node, &address)?.is_empty().then_some(())))?;
    plane.print(&["delete", "pod", "three", "--wait=false"])?;
    let path = "/api/v1/namespaces/default/pods/three";
    node.wait("end of the pod", |_| Ok(plane.get(path)?.is_none().then_some(())))?;
    node.terminate()
}

#[test]
fn a_node_leaves_services_to_another_program_when_told() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 22, &["--proxy-mode=off"])?;
    plane.apply(&service())?;
    node.wait("ready Node", |_| {
        let node = plane.get("/api/v1/nodes/n22")?;
        let conditions = node.as_ref().and_then(|node| node["status"]["conditions"].as_array()).cloned();
        let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        Ok(conditions.unwrap_or_default().iter().any(ready).then_some(()))
    })?;
    let rules = node.place().command("iptables-save").output()?;
    ensure!(!String::from_utf8_lossy(&rules.stdout).contains("KUBE-SERVICES"));
    node.terminate()
}

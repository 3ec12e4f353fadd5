//! The pod network between the nodes of a real cluster, without any network plugin.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

/// A pod on one node that tells who asked it.
fn pod(name: &str, node: &str) -> Value {
    let serve = format!(
        "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo {name} heard $REMOTE_ADDR\\n' > /www/cgi-bin/who; \
            chmod +x /www/cgi-bin/who; exec httpd -f -p 0.0.0.0:8080 -h /www"
    );
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "nodeSelector": {"kubernetes.io/hostname": node},
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", serve],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}})
}

fn is_ready(pod: &Value) -> bool {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What a pod of this node hears there; nothing where nobody answers.
fn ask(node: &ClusterNode, pod: &str, address: &str) -> Result<String> {
    let url = format!("http://{address}/cgi-bin/who");
    let output = node.cli(&["exec", pod, "--", "timeout", "3", "wget", "-q", "-O", "-", &url])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn until_it_hears(node: &mut ClusterNode, pod: &str, address: &str, right: impl Fn(&str) -> bool) -> Result<()> {
    let what = format!("answer to {pod} from {address}");
    node.wait(&what, |node| Ok(right(&ask(node, pod, address)?).then_some(())))
}

/// The routes of ours, as `ip` shows them.
fn routes(node: &ClusterNode) -> Result<String> {
    let output = node.place().command("ip").args(["route", "show", "proto", "76"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(node: &ClusterNode, program: &str, arguments: &[&str]) -> Result<()> {
    let output = node.place().command(program).args(arguments).output()?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn pods_of_three_nodes_reach_each_other_by_address_and_through_a_service() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut nodes =
        [41, 42, 43].into_iter().map(|last| ClusterNode::start(&plane, last, &[])).collect::<Result<Vec<_>>>()?;
    // Nothing but what the agents allow is forwarded.
    run(&nodes[0], "iptables", &["-P", "FORWARD", "DROP"])?;
    plane.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}))?;
    let names = ["p41", "p42", "p43"];
    for (name, node) in names.into_iter().zip(&nodes) {
        plane.apply(&pod(name, &node.name))?;
    }
    let mut addresses = Vec::new();
    for (name, node) in names.into_iter().zip(&mut nodes) {
        let pod = node.wait_for_pod(&plane, name, is_ready)?;
        ensure!(pod["spec"]["nodeName"] == node.name.as_str(), "{pod}");
        addresses.push(pod["status"]["podIP"].as_str().context("an address")?.to_owned());
    }

    // Each hears every other, which sees its own address.
    for (from, node) in nodes.iter_mut().enumerate() {
        for to in (0..3).filter(|to| *to != from) {
            let expected = format!("{} heard {}", names[to], addresses[from]);
            until_it_hears(node, names[from], &format!("{}:8080", addresses[to]), |said| said == expected)?;
        }
    }
    // A node itself is heard too, by its own address.
    let from_node = nodes[1]
        .place()
        .command("bash")
        .args([
            "-c",
            &format!(
                "exec 3<>/dev/tcp/{}/8080; printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
                addresses[0]
            ),
        ])
        .output()?;
    ensure!(String::from_utf8_lossy(&from_node.stdout).contains("p41 heard 192.0.2.42"), "{from_node:?}");
    // Through the Service every pod of every node answers a pod of the first one.
    let service = plane.get("/api/v1/namespaces/default/services/web")?.context("the Service")?;
    let service = format!("{}:80", service["spec"]["clusterIP"].as_str().context("its address")?);
    for name in names {
        until_it_hears(&mut nodes[0], "p41", &service, |said| said.starts_with(name))?;
    }

    // Somebody takes a route away.
    ensure!(routes(&nodes[0])?.lines().count() == 2, "{}", routes(&nodes[0])?);
    run(&nodes[0], "ip", &["route", "flush", "proto", "76"])?;
    nodes[0].wait("routes that are back", |node| Ok((routes(node)?.lines().count() == 2).then_some(())))?;

    // They outlive the agent, and its successor knows them.
    let before = routes(&nodes[0])?;
    nodes[0].kill()?;
    ensure!(routes(&nodes[0])? == before, "the routes went with the agent");
    nodes[0].come_back()?;
    let expected = format!("p42 heard {}", addresses[0]);
    ensure!(ask(&nodes[0], "p41", &format!("{}:8080", addresses[1]))? == expected);
    ensure!(routes(&nodes[0])? == before);

    // A node that leaves the cluster is forgotten.
    let mut gone = nodes.pop().context("the third node")?;
    gone.terminate()?;
    plane.print(&["delete", "node", "n43"])?;
    for node in &mut nodes {
        node.wait("end of the route to n43", |node| Ok((!routes(node)?.contains("192.0.2.43")).then_some(())))?;
    }
    until_it_hears(&mut nodes[0], "p41", &format!("{}:8080", addresses[1]), |said| said == expected)?;
    for node in &mut nodes {
        node.terminate()?;
    }
    Ok(())
}

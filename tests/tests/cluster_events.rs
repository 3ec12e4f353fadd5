//! What happens on a node is told to a real API server as events.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

/// The events of this reason about that object.
fn events(plane: &ControlPlane, name: &str, reason: &str) -> Result<Vec<Value>> {
    let selector = format!("involvedObject.name={name},reason={reason}");
    let list = plane.get(&format!("/api/v1/namespaces/default/events?fieldSelector={selector}"))?.context("a list")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn count(events: &[Value]) -> u64 {
    events.first().and_then(|event| event["count"].as_u64()).unwrap_or_default()
}

#[test]
fn events_of_pods_and_of_the_node_are_objects_that_count_up() -> Result<()> {
    let Some(mut plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 51, &[])?;
    plane.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"],
            "readinessProbe": {"exec": {"command": ["sh", "-c", "echo not yet; exit 1"]}, "periodSeconds": 1}}]}}))?;
    let said = node.wait("event that counts up", |_| {
        let all = events(&plane, "web", "Unhealthy")?;
        Ok((count(&all) >= 3).then_some(all))
    })?;
    ensure!(said.len() == 1, "{said:?}");
    let unhealthy = &said[0];
    ensure!(unhealthy["type"] == "Warning" && unhealthy["source"] == json!({"component": "kubelet", "host": "n51"}));
    ensure!(unhealthy["involvedObject"]["fieldPath"] == "spec.containers{main}", "{unhealthy}");
    ensure!(unhealthy["message"].as_str().is_some_and(|text| text.contains("not yet")), "{unhealthy}");
    for reason in ["Created", "Started"] {
        node.wait(reason, |_| Ok((count(&events(&plane, "web", reason)?) == 1).then_some(())))?;
    }
    for reason in ["Starting", "NodeReady"] {
        let all = node.wait(reason, |_| Ok(Some(events(&plane, "n51", reason)?).filter(|all| !all.is_empty())))?;
        ensure!(all[0]["involvedObject"]["uid"] == "n51", "{all:?}");
    }

    // What happens while nobody listens is counted, and told afterwards.
    plane.stop("kube-apiserver")?;
    let before = count(&said);
    node.wait("more of the same", |node| {
        let all = node.print(&["events"])?;
        let line = all.lines().find(|line| line.contains("Unhealthy")).unwrap_or_default();
        let now = line.rsplit_once("(x").and_then(|(_, rest)| rest.trim_end_matches(')').parse::<u64>().ok());
        Ok(now.filter(|now| *now >= before + 3))
    })?;
    plane.start_api_server()?;
    let after = node.wait("what was missed", |_| {
        let all = events(&plane, "web", "Unhealthy")?;
        Ok((count(&all) >= before + 3).then_some(all))
    })?;
    ensure!(after.len() == 1 && after[0]["metadata"]["uid"] == unhealthy["metadata"]["uid"], "{after:?}");
    plane.print(&["delete", "pod", "web", "--wait=false"])?;
    node.wait("end of the pod", |_| Ok(plane.get("/api/v1/namespaces/default/pods/web")?.is_none().then_some(())))?;
    node.terminate()
}

//! A node of a real cluster that runs short of memory: what the API server, its controllers and its scheduler see of it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

/// A pod that holds so many MiB of memory.
fn pod(name: &str, mebibytes: u32) -> Value {
    let fill = format!("head -c {} /dev/zero > /data/fill; sleep 1000000", mebibytes << 20);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", fill], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}})
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|condition| condition["type"] == name).unwrap_or(&Value::Null)
}

fn is_tainted(node: &Value) -> bool {
    let taints = node["spec"]["taints"].as_array().map(Vec::as_slice).unwrap_or_default();
    taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/memory-pressure" && taint["effect"] == "NoSchedule")
}

fn is_relieved(node: &Value) -> bool {
    !is_tainted(node) && condition(node, "MemoryPressure")["status"] == "False"
}

fn wait_for_node(node: &mut ClusterNode, plane: &ControlPlane, what: &str, right: fn(&Value) -> bool) -> Result<Value> {
    node.wait(what, |_| Ok(plane.get("/api/v1/nodes/n71")?.filter(right)))
}

fn wait_for_event(node: &mut ClusterNode, plane: &ControlPlane, reason: &str, object: &str) -> Result<Value> {
    let path = format!("/api/v1/namespaces/default/events?fieldSelector=reason={reason},involvedObject.name={object}");
    node.wait(&format!("event {reason}"), |_| {
        Ok(plane.get(&path)?.map(|list| list["items"][0].clone()).filter(Value::is_object))
    })
}

#[test]
fn a_node_short_of_memory_evicts_says_so_and_is_spared_until_it_is_over() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total: u64 = text.split_whitespace().nth(1).context("MemTotal")?.parse()?;
    // Below this the test's own pods use more than 60 MiB.
    let hard = format!("--eviction-hard=allocatableMemory.available<{}", (total << 10) - (60 << 20));
    let folder = tempfile::tempdir()?;
    let manifests = format!("--pod-manifest-path={}", folder.path().display());
    let mut node = ClusterNode::start(&plane, 71, &[&hard, "--eviction-pressure-transition-period=1s", &manifests])?;
    let right = wait_for_node(&mut node, &plane, "ready Node", |node| condition(node, "Ready")["status"] == "True")?;
    ensure!(condition(&right, "MemoryPressure")["reason"] == "KubeletHasSufficientMemory", "{right}");

    let watch = plane.watch("/api/v1/nodes?fieldSelector=metadata.name=n71")?;
    plane.apply(&pod("greedy", 100))?;
    let greedy = node.wait_for_pod(&plane, "greedy", |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(greedy["status"]["reason"] == "Evicted", "{greedy}");
    let said = greedy["status"]["message"].as_str().unwrap_or_default();
    ensure!(said.starts_with("The node was low on resource: memory. Threshold quantity: "), "{said}");
    let disrupted = condition(&greedy, "DisruptionTarget");
    ensure!(disrupted["reason"] == "TerminationByKubelet" && disrupted["message"] == said, "{greedy}");
    ensure!(wait_for_event(&mut node, &plane, "Evicted", "greedy")?["message"] == said);
    let begun = wait_for_event(&mut node, &plane, "EvictionThresholdMet", "n71")?;
    ensure!(begun["message"] == "Attempting to reclaim memory" && begun["type"] == "Warning", "{begun}");
    node.wait("pressure that comes and goes", |_| {
        let events = watch.events()?;
        let mut seen = events.iter().map(|event| &event["object"]);
        let came = seen.any(|object| condition(object, "MemoryPressure")["status"] == "True");
        Ok((came && seen.any(is_relieved)).then_some(()))
    })?;

    // A static pod is critical: it stays, and the node stays short of memory.
    std::fs::write(folder.path().join("vital.json"), pod("vital", 100).to_string())?;
    let short = wait_for_node(&mut node, &plane, "tainted Node under pressure", |node| {
        is_tainted(node) && condition(node, "MemoryPressure")["status"] == "True"
    })?;
    ensure!(condition(&short, "MemoryPressure")["reason"] == "KubeletHasInsufficientMemory", "{short}");
    ensure!(condition(&short, "MemoryPressure")["message"] == "kubelet has insufficient memory available", "{short}");
    let mut bound = pod("bound", 1);
    bound["spec"]["nodeName"] = json!("n71");
    plane.apply(&bound)?;
    let bound = node.wait_for_pod(&plane, "bound", |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(bound["status"]["reason"] == "Evicted", "{bound}");
    let said = &bound["status"]["message"];
    ensure!(said == "Pod was rejected: The node had condition: [MemoryPressure]. ", "{said}");
    plane.apply(&pod("waiting", 1))?;
    node.wait_for_pod(&plane, "waiting", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable")?;

    std::fs::remove_file(folder.path().join("vital.json"))?;
    wait_for_node(&mut node, &plane, "Node without pressure", is_relieved)?;
    node.wait_for_pod(&plane, "waiting", |pod| condition(pod, "Ready")["status"] == "True")?;
    for pod in ["greedy", "bound", "waiting"] {
        plane.print(&["delete", "pod", pod, "--wait=false"])?;
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        node.wait("end of the pod", |_| Ok(plane.get(&path)?.is_none().then_some(())))?;
    }
    node.terminate()
}

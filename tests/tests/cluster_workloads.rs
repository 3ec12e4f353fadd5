//! Workloads of the real controllers on two nodes, while agents are killed and the API server is away for a while.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

const APPS: &str = "/apis/apps/v1/namespaces/default";
const SERVING: &str = "trap 'exit 0' TERM; echo $VERSION; while true; do sleep 0.1; done";

/// A template whose pods are ready a second after they have begun.
fn template(app: &str, version: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {
        "terminationGracePeriodSeconds": 2,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", SERVING], "env": [{"name": "VERSION", "value": version}],
            "readinessProbe": {"exec": {"command": ["true"]}, "initialDelaySeconds": 1, "periodSeconds": 1}}]}})
}

fn workload(kind: &str, app: &str, template: Value, rest: &Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": {
        "selector": {"matchLabels": {"app": app}}, "template": template}});
    for (key, value) in rest.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn web(replicas: u64, version: &str) -> Value {
    let roll = json!({"replicas": replicas, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    workload("Deployment", "web", template("web", version), &roll)
}

fn job() -> Value {
    let mut template = template("sum", "1");
    template["spec"]["restartPolicy"] = json!("Never");
    template["spec"]["containers"][0]["command"] = json!(["sh", "-c", "sleep 0.2; echo done"]);
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"},
        "spec": {"completions": 3, "parallelism": 2, "template": template}})
}

fn until(node: &mut ClusterNode, plane: &ControlPlane, path: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
    let seen = std::cell::RefCell::new(Value::Null);
    let found = node.wait(path, |_| {
        let object = plane.get(path)?.unwrap_or_default();
        seen.replace(object["status"].clone());
        Ok(Some(object).filter(|object| right(object)))
    });
    found.with_context(|| format!("the API server shows: {}", seen.take()))
}

fn is(object: &Value, field: &str, count: u64) -> bool {
    object["status"][field].as_u64().unwrap_or_default() == count
}

/// The whole rollout is done: nothing older is left.
fn is_rolled_out(object: &Value, replicas: u64) -> bool {
    let counts = ["replicas", "updatedReplicas", "availableReplicas"];
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
        && counts.iter().all(|field| is(object, field, replicas))
}

/// Pods that have not ended, by app: on which nodes they are.
fn pods(plane: &ControlPlane) -> Result<BTreeMap<String, Vec<String>>> {
    let list = plane.get("/api/v1/namespaces/default/pods")?.context("the pods")?;
    let mut all = BTreeMap::<String, Vec<String>>::new();
    for pod in list["items"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if pod["status"]["phase"] != "Succeeded" {
            all.entry(text(&pod["metadata"]["labels"]["app"])).or_default().push(text(&pod["spec"]["nodeName"]));
        }
    }
    all.values_mut().for_each(|nodes| nodes.sort());
    Ok(all)
}

#[test]
fn workloads_roll_finish_and_move_while_agents_are_killed_and_the_api_server_is_away() -> Result<()> {
    let Some(mut plane) = ControlPlane::start()? else { return Ok(()) };
    let mut one = ClusterNode::start(&plane, 71, &[])?;
    let mut two = ClusterNode::start(&plane, 72, &[])?;
    plane.apply(&web(2, "1"))?;
    plane.apply(&workload("DaemonSet", "every", template("every", "1"), &json!({})))?;
    plane.apply(&workload("StatefulSet", "db", template("db", "1"), &json!({"replicas": 2, "serviceName": "db"})))?;
    plane.apply(&job())?;
    let (deployment, statefulset) = (format!("{APPS}/deployments/web"), format!("{APPS}/statefulsets/db"));
    until(&mut one, &plane, &deployment, |object| is_rolled_out(object, 2))?;
    until(&mut one, &plane, &format!("{APPS}/daemonsets/every"), |object| is(object, "numberReady", 2))?;
    until(&mut one, &plane, &statefulset, |object| is(object, "readyReplicas", 2))?;
    until(&mut one, &plane, "/apis/batch/v1/namespaces/default/jobs/sum", |object| is(object, "succeeded", 3))?;

    // A new version comes pod by pod, each when the last one is ready, whatever happens to the agents.
    let watch = plane.watch(&format!("{APPS}/deployments?fieldSelector=metadata.name=web"))?;
    plane.apply(&web(2, "2"))?;
    for node in [&mut one, &mut two] {
        node.kill()?;
        node.come_back()?;
    }
    until(&mut one, &plane, &deployment, |object| is_rolled_out(object, 2))?;
    let available = |event: &Value| event["object"]["status"]["availableReplicas"].as_u64().unwrap_or_default();
    let events = watch.events()?;
    ensure!(events.len() > 2 && events.iter().all(|event| available(event) >= 2), "{events:?}");

    // The API server is away, and an agent too; then more is wanted.
    plane.stop("kube-apiserver")?;
    two.kill()?;
    two.come_back()?;
    plane.start_api_server()?;
    plane.apply(&web(3, "2"))?;
    until(&mut two, &plane, &deployment, |object| is_rolled_out(object, 3))?;

    // All but what belongs to every node leaves the first one by the eviction API, never more than the budget allows.
    plane.apply(&json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}}))?;
    // A scheduler that has not heard of the cordon yet may put a pod there once more: that one is asked to go too.
    two.wait("drained node", |_| {
        plane.print(&["drain", "n71", "--ignore-daemonsets", "--force", "--timeout=100s"])?;
        let there = pods(&plane)?;
        let on = |app: &str| there.get(app).cloned().unwrap_or_default();
        Ok((on("web") == ["n72"; 3] && on("db") == ["n72"; 2] && on("every") == ["n71", "n72"]).then_some(()))
    })?;
    until(&mut two, &plane, &deployment, |object| is_rolled_out(object, 3))?;
    until(&mut two, &plane, &statefulset, |object| is(object, "readyReplicas", 2))?;

    plane.print(&["delete", "deployment/web", "daemonset/every", "statefulset/db", "job/sum", "--wait=false"])?;
    two.wait("end of all pods", |_| Ok(pods(&plane)?.is_empty().then_some(())))?;
    one.terminate()?;
    two.terminate()
}

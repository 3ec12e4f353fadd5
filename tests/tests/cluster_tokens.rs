//! Tokens of service accounts in the pods of a real cluster.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;

const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A pod with the volume that API servers from 1.21 on put into every one.
fn pod(name: &str, account: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "serviceAccountName": account,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"],
            "volumeMounts": [{"name": "kube-api-access", "mountPath": MOUNTED, "readOnly": true}]}],
        "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}]}})
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

fn is_ready(pod: &Value) -> bool {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn file(node: &ClusterNode, pod: &str, name: &str) -> Result<String> {
    node.print(&["exec", pod, "--", "cat", &format!("{MOUNTED}/{name}")])
}

/// Whom the API server takes the bearer for.
fn whose(plane: &ControlPlane, token: &str) -> Result<Value> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = plane.path("review.json");
    std::fs::write(&path, review.to_string())?;
    let shown = path.display().to_string();
    let answer: Value = serde_json::from_str(&plane.print(&[
        "create",
        "--raw",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        "-f",
        &shown,
    ])?)?;
    Ok(answer["status"].clone())
}

#[test]
fn a_pod_has_a_token_that_the_api_server_takes_and_that_names_it() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 31, &[])?;
    plane.apply(&account("clerk"))?;
    plane.apply(&pod("web", "clerk"))?;
    let ready = node.wait_for_pod(&plane, "web", is_ready)?;

    let token = file(&node, "web", "token")?;
    let status = whose(&plane, &token)?;
    ensure!(status["authenticated"] == true, "{status}");
    let user = &status["user"];
    ensure!(user["username"] == "system:serviceaccount:default:clerk", "{user}");
    ensure!(user["extra"]["authentication.kubernetes.io/pod-name"] == json!(["web"]), "{user}");
    ensure!(user["extra"]["authentication.kubernetes.io/pod-uid"] == json!([ready["metadata"]["uid"]]), "{user}");
    ensure!(file(&node, "web", "namespace")? == "default");
    ensure!(file(&node, "web", "ca.crt")? == std::fs::read_to_string(plane.path("ca.crt"))?);
    ensure!(!node.log().contains(&token), "the token is in the log");

    // What is remembered of the pod on disk does not hold it either; its volume is in memory.
    node.kill()?;
    node.come_back()?;
    let again = node.wait_for_pod(&plane, "web", is_ready)?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(id(&again) == id(&ready), "{again}");
    plane.print(&["delete", "pod", "web", "--wait=false"])?;
    node.wait("end of the pod", |_| Ok(plane.get("/api/v1/namespaces/default/pods/web")?.is_none().then_some(())))?;
    // The API server believes for ten seconds what it has found out.
    node.wait("end of the token", |_| Ok((whose(&plane, &token)?["authenticated"] != true).then_some(())))?;
    node.terminate()
}

#[test]
fn a_pod_whose_service_account_is_missing_says_so_and_runs_once_it_is_made() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 32, &[])?;
    plane.apply(&account("late"))?;
    // The API server takes no pod without its account, so that goes before the pod is bound.
    let mut waiting = pod("web", "late");
    waiting["spec"]["schedulerName"] = json!("by-hand");
    plane.apply(&waiting)?;
    plane.print(&["delete", "serviceaccount", "late"])?;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n32"}});
    let path = plane.path("binding.json");
    std::fs::write(&path, binding.to_string())?;
    let shown = path.to_str().context("a path of letters")?;
    plane.print(&["create", "--raw", "/api/v1/namespaces/default/pods/web/binding", "-f", shown])?;
    node.wait("FailedMount", |node| {
        let said = node.print(&["events"])?;
        Ok((said.contains("FailedMount") && said.contains("serviceaccounts \"late\" not found")).then_some(()))
    })?;
    plane.apply(&account("late"))?;
    node.wait_for_pod(&plane, "web", is_ready)?;
    ensure!(whose(&plane, &file(&node, "web", "token")?)?["authenticated"] == true);
    node.terminate()
}

//! The node's own API: who may ask it what, and what it answers, with a real API server behind it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;
use tests::kubelet_client::{KubeletClient, Who};

fn is_ready(object: &Value) -> bool {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// A role for one user, and a client certificate that names him.
fn user(plane: &ControlPlane, name: &str, rights: &[(&str, &str)]) -> Result<()> {
    plane.kubeconfig(name, name, None)?;
    let rules: Vec<_> = rights
        .iter()
        .map(|(resource, verb)| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]}))
        .collect();
    let rbac = "rbac.authorization.k8s.io";
    let role =
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
    let binding = json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": rbac, "kind": "User", "name": name},
            {"kind": "ServiceAccount", "namespace": "default", "name": name}]});
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]}))
}

/// The token of a service account of that name, with the same role.
fn token(plane: &ControlPlane, name: &str) -> Result<String> {
    plane.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))?;
    let request = plane.path("token-request.json");
    std::fs::write(
        &request,
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}).to_string(),
    )?;
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
    let answer = plane.print(&["create", "--raw", &path, "-f", &request.display().to_string()])?;
    let answer: Value = serde_json::from_str(&answer)?;
    answer["status"]["token"].as_str().map(str::to_owned).context("a token")
}

/// Asks each path as each user and compares the codes.
fn table(kubelet: &KubeletClient, users: &[Who], rows: &[(&str, &str, &[u16])]) -> Result<()> {
    for (method, path, codes) in rows {
        for (who, wanted) in users.iter().zip(*codes) {
            let (code, body) = kubelet.ask(*who, method, path)?;
            ensure!(code == *wanted, "{method} {path} as {who:?}: {code} instead of {wanted}: {body}");
            match code {
                401 if *method != "HEAD" => ensure!(body == "Unauthorized", "{body}"),
                403 if *method != "HEAD" => ensure!(body.starts_with("Forbidden (user="), "{body}"),
                _ => {}
            }
        }
    }
    Ok(())
}

fn strangers(plane: &ControlPlane) -> Result<()> {
    let stranger = plane.path("stranger");
    std::fs::create_dir_all(&stranger)?;
    let other = tests::cluster_trust::Authority::make(&stranger)?;
    let (certificate, key) = other.client("kubernetes-admin", Some("system:masters"))?;
    std::fs::write(plane.path("stranger.crt"), certificate)?;
    Ok(std::fs::write(plane.path("stranger.key"), key)?)
}

#[test]
fn who_may_not_is_told_401_or_403_and_nothing_else() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 41, &["--read-only-port=10255"])?;
    node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n41")?.filter(is_ready)))?;
    let kubelet = KubeletClient::new(&plane, 41);
    user(&plane, "jane", &[])?;
    user(&plane, "scraper", &[("nodes/metrics", "get"), ("nodes/stats", "get")])?;
    user(&plane, "lister", &[("nodes/pods", "get"), ("nodes/healthz", "get")])?;
    user(&plane, "proxier", &[("nodes/proxy", "get")])?;
    strangers(&plane)?;
    let token = token(&plane, "proxier")?;
    plane.kubeconfig("admin", "kubernetes-admin", Some("system:masters"))?;
    let users = [
        Who::Nobody,
        Who::Certificate("stranger"),
        Who::Token("made.up.token"),
        Who::Certificate("jane"),
        Who::Certificate("scraper"),
        Who::Certificate("lister"),
        Who::Certificate("proxier"),
        Who::Token(&token),
        Who::Certificate("admin"),
    ];
    table(
        &kubelet,
        &users,
        &[
            ("GET", "/healthz", &[401, 401, 401, 403, 403, 200, 200, 200, 200]),
            ("GET", "/pods", &[401, 401, 401, 403, 403, 200, 200, 200, 200]),
            ("GET", "/runningpods/", &[401, 401, 401, 403, 403, 200, 200, 200, 200]),
            ("GET", "/configz", &[401, 401, 401, 403, 403, 403, 200, 200, 200]),
            ("HEAD", "/pods", &[401, 401, 401, 403, 403, 403, 403, 403, 405]),
            ("POST", "/pods", &[401, 401, 401, 403, 403, 403, 403, 403, 405]),
            ("GET", "/nothing", &[401, 401, 401, 403, 403, 403, 404, 404, 404]),
            ("GET", "/stats/../pods", &[401, 401, 401, 403, 403, 403, 404, 404, 404]),
            // A stream is a create, however it is asked for.
            ("GET", "/run/default/web/main", &[401, 401, 401, 403, 403, 403, 403, 403, 405]),
            ("GET", "/checkpoint/default/web/main", &[401, 401, 401, 403, 403, 403, 403, 403, 405]),
            ("POST", "/checkpoint/default/web/main", &[401, 401, 401, 403, 403, 403, 403, 403, 404]),
        ],
    )?;
    let (_, said) = kubelet.ask(Who::Certificate("jane"), "GET", "/pods")?;
    ensure!(said == "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n", "{said:?}");
    let (_, config) = kubelet.ask(Who::Certificate("admin"), "GET", "/configz")?;
    let config: Value = serde_json::from_str(&config)?;
    ensure!(config["kubeletconfig"]["authentication"]["anonymous"]["enabled"] == false, "{config}");
    // Without TLS and without a name: what changes nothing, and nothing else.
    for (path, code) in [("/healthz", 200), ("/pods", 200), ("/runningpods/", 404), ("/exec/default/web/main", 404)] {
        let (got, body) = kubelet.get(&format!("http://192.0.2.41:10255{path}"))?;
        ensure!(got == code, "{path} of the read-only port: {got} {body}");
    }
    let mut curl = node.place().command("curl");
    let health = curl.args(["-sS", "http://127.0.0.1:10248/healthz"]).output()?;
    ensure!(health.stdout == b"ok", "{}", String::from_utf8_lossy(&health.stderr));
    ensure!(!node.log().contains(&token) && !node.log().contains("made.up.token"), "a token is in the log");
    // Through the API server, which believes the certificate and is believed.
    let pods: Value = serde_json::from_str(&plane.print(&["get", "--raw", "/api/v1/nodes/n41/proxy/pods"])?)?;
    ensure!(pods["kind"] == "PodList", "{pods}");

    renewed(&plane, &kubelet)?;
    node.terminate()
}

/// A certificate that is replaced is served without a restart; half of a pair is not.
fn renewed(plane: &ControlPlane, kubelet: &KubeletClient) -> Result<()> {
    let key = plane.path("n41-serving.key");
    let former = std::fs::read(&key)?;
    // For another address, so that curl refuses what it took before.
    plane.serving_certificate("n41", "192.0.2.99")?;
    let renewed = std::fs::read(&key)?;
    std::fs::write(&key, former)?;
    ensure!(kubelet.ask(Who::Nobody, "GET", "/pods")?.0 == 401, "the former pair does not serve");
    std::fs::write(&key, renewed)?;
    let refused = kubelet.ask(Who::Nobody, "GET", "/pods").err().context("the former pair serves still")?;
    ensure!(refused.to_string().contains("192.0.2.41"), "{refused}");
    Ok(())
}

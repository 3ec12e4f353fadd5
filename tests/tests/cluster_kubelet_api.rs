//! The node's own API: who may ask it what, and what it answers, with a real API server behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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
            ("GET", "/stats/summary", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/metrics", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/metrics/resource", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/metrics/cadvisor", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/metrics/probes", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/metrics/slis", &[401, 401, 401, 403, 200, 403, 403, 403, 200]),
            ("GET", "/statusz", &[401, 401, 401, 403, 403, 403, 403, 403, 200]),
            ("GET", "/flagz", &[401, 401, 401, 403, 403, 403, 403, 403, 200]),
            ("GET", "/debug/pprof/", &[401, 401, 401, 403, 403, 403, 404, 404, 404]),
            ("GET", "/debug/flags/v", &[401, 401, 401, 403, 403, 403, 405, 405, 405]),
            ("PUT", "/debug/flags/v", &[401, 401, 401, 403, 403, 403, 403, 403, 400]),
            ("GET", "/logs/", &[401, 401, 401, 403, 403, 403, 403, 403, 200]),
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

/// Says its number and goes on until it is stopped; each run says another one.
const TALK: &str = "read run </proc/sys/kernel/random/uuid; trap 'echo bye; exit 3' TERM; echo $run; echo aside; echo last; \
    while true; do sleep 0.1; done";
/// 24 MB in lines.
const FLOOD: &str =
    "yes 0123456789012345678901234567890123456789 | head -c 24000000; echo whole; while true; do sleep 0.1; done";

fn pod(name: &str, command: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", command]}]}})
}

#[test]
fn logs_are_read_by_kubectl_and_nobody_can_hold_them_up() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 42, &["--read-only-port=10255", "--container-log-max-size=100Mi"])?;
    node.wait("ready Node", |_| Ok(plane.get("/api/v1/nodes/n42")?.filter(is_ready)))?;
    let mut talk = pod("talk", TALK, "busybox");
    talk["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    talk["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    talk["spec"]["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    plane.apply(&talk)?;
    plane.apply(&pod("flood", FLOOD, "busybox"))?;
    plane.apply(&pod("lost", "true", "nowhere.invalid/x:1"))?;
    node.wait_for_pod(&plane, "talk", is_ready)?;
    figures(&plane, &mut node)?;
    kubectl_logs(&plane, &mut node)?;
    log_levels(&plane, &node)?;
    let kubelet = KubeletClient::new(&plane, 42);
    plane.kubeconfig("admin", "kubernetes-admin", Some("system:masters"))?;
    slow_readers(&plane, &mut node, &kubelet)?;
    rude_clients(&kubelet)?;
    node.terminate()
}

/// What metrics-server and Prometheus ask for, through the API server.
fn figures(plane: &ControlPlane, node: &mut ClusterNode) -> Result<()> {
    let get = |path: &str| plane.print(&["get", "--raw", &format!("/api/v1/nodes/n42/proxy{path}")]);
    let series = r#"{container="main",namespace="default",pod="talk"} "#;
    node.wait("figures of the pod", |_| {
        let text = get("/metrics/resource")?;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{series}")))?;
            line.split(' ').next()?.parse::<f64>().ok()
        };
        let names =
            ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"];
        let known = names.iter().all(|name| value(name).is_some_and(|value| value > 0.0));
        Ok((known && text.contains("\nscrape_error 0\n")).then_some(()))
    })?;
    let summary: Value = serde_json::from_str(&get("/stats/summary")?)?;
    let pods = summary["pods"].as_array().context("pods")?;
    let talk = pods.iter().find(|pod| pod["podRef"]["name"] == "talk").context("the pod")?;
    ensure!(summary["node"]["nodeName"] == "n42" && summary["node"]["memory"]["workingSetBytes"].is_u64(), "{summary}");
    ensure!(talk["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0), "{talk}");
    ensure!(talk["network"]["name"] == "eth0" && talk["containers"][0]["rootfs"]["usedBytes"].is_u64(), "{talk}");
    let cadvisor = get("/metrics/cadvisor")?;
    ensure!(cadvisor.contains(r#"namespace="default",pod="talk"} "#) && cadvisor.contains("machine_cpu_cores "));
    let own = get("/metrics")?;
    for begin in [
        r#"kubelet_node_name{node="n42"} 1"#,
        r#"longshore_pod_step_duration_seconds_count{step="sandbox",outcome="ok"} "#,
        r#"kubelet_runtime_operations_total{operation_type="run_podsandbox"} "#,
        "kubelet_pod_start_duration_seconds_count ",
        r#"rest_client_requests_total{code="200","#,
        r#"kubelet_http_requests_total{long_running="false",method="GET",path="stats","#,
    ] {
        ensure!(own.lines().any(|line| line.starts_with(begin)), "{begin} is missing:\n{own}");
    }
    ensure!(get("/flagz")?.contains("\nmax-pods=110\n") && get("/statusz")?.contains("\nUp: "));
    node.wait("figures of the probe", |_| {
        let probed = r#"prober_probe_total{container="main",namespace="default",pod="talk",probe_type="Readiness","#;
        let text = get("/metrics/probes")?;
        Ok(text.lines().any(|line| line.starts_with(probed) && line.contains(r#"result="successful""#)).then_some(()))
    })?;
    // Files are counted when somebody asks, and nobody waits for it.
    node.wait("figures of volumes and logs", |_| {
        let summary: Value = serde_json::from_str(&get("/stats/summary")?)?;
        let pods = summary["pods"].as_array().context("pods")?;
        let talk = pods.iter().find(|pod| pod["podRef"]["name"] == "talk").context("the pod")?;
        let volumes = talk["volume"].as_array().map(Vec::as_slice).unwrap_or_default();
        let counted = volumes.iter().any(|volume| volume["name"] == "scratch" && volume["inodesUsed"] == 1);
        Ok((counted && talk["containers"][0]["logs"]["usedBytes"].as_u64() > Some(0)).then_some(()))
    })
}

/// How much is logged is changed while the agent runs, by the kubelet's own way and by a person's.
fn log_levels(plane: &ControlPlane, node: &ClusterNode) -> Result<()> {
    ensure!(node.print(&["log-level"])? == "warn\n", "{}", node.print(&["log-level"])?);
    ensure!(!node.log().contains("DEBUG"), "{}", node.log());
    plane.kubeconfig("admin", "kubernetes-admin", Some("system:masters"))?;
    let kubelet = KubeletClient::new(plane, 42);
    let (code, said) = kubelet.put(Who::Certificate("admin"), "/debug/flags/v", "4")?;
    ensure!((code, said.as_str()) == (200, "successfully set klog.logging.verbosity to 4"), "{code} {said}");
    ensure!(node.print(&["log-level"])?.contains("agent=debug"));
    ensure!(kubelet.put(Who::Certificate("admin"), "/debug/flags/v", "loud")?.0 == 400);
    let refused = node.cli(&["log-level", "loud"])?;
    ensure!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("\"loud\" is no level"));
    ensure!(node.print(&["log-level", "warn"])? == "warn\n");
    Ok(())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn kubectl_logs(plane: &ControlPlane, node: &mut ClusterNode) -> Result<()> {
    let first = node.wait("three lines", |_| {
        let text = plane.print(&["logs", "talk"])?;
        Ok((text.lines().count() == 3).then_some(text))
    })?;
    let run = lines(&first)[0].to_owned();
    ensure!(lines(&first)[1..] == ["aside", "last"], "{first}");
    let print = |flags: &[&str]| plane.print(&[&["logs", "talk", "-c", "main"][..], flags].concat());
    ensure!(print(&["--tail=1"])? == "last\n" && print(&["--tail=0"])?.is_empty());
    ensure!(print(&["--limit-bytes=5"])? == run[..5]);
    ensure!(print(&["--since=1h"])? == first && print(&["--since-time=2999-01-01T00:00:00Z"])?.is_empty());
    let stamped = print(&["--timestamps"])?;
    for (line, plain) in stamped.lines().zip(first.lines()) {
        let (time, rest) = line.split_once(' ').context("a time")?;
        ensure!(rest == plain && time.len() == "2026-01-01T00:00:00.000000000Z".len(), "{stamped}");
    }
    let refused = |flags: &[&str]| -> Result<String> {
        let output = plane.kubectl(&[&["logs"][..], flags].concat())?;
        ensure!(!output.status.success(), "{flags:?} is served");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let said = refused(&["talk", "--previous"])?;
    ensure!(said.contains(r#"previous terminated container "main" in pod "talk" not found"#), "{said}");
    node.wait("reason of the lost pod", |_| {
        let said = refused(&["lost"])?;
        Ok(said.contains(r#"container "main" in pod "lost" is waiting to start: ErrImageNeverPull"#).then_some(()))
    })?;
    // A follower gets the last word, and ends with the container.
    let mut follower = plane.begin(&["logs", "-f", "talk"])?;
    node.wait("followed lines", |_| Ok((follower.text()? == first).then_some(())))?;
    node.print(&["exec", "talk", "--", "sh", "-c", "kill -TERM 1"])?;
    node.wait("end of the follower", |_| Ok(follower.has_ended()?.then_some(())))?;
    ensure!(follower.text()? == format!("{first}bye\n"), "{}", follower.text()?);
    node.wait_for_pod(plane, "talk", |pod| {
        is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    })?;
    ensure!(print(&["--previous"])? == format!("{first}bye\n"), "{}", print(&["--previous"])?);
    ensure!(!print(&[])?.contains(&run), "the second run says what the first one said");
    Ok(())
}

/// Resident memory of the agent, kilobytes.
fn resident(node: &ClusterNode) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("the agent")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Slow readers cost next to nothing, and others are served.
fn slow_readers(plane: &ControlPlane, node: &mut ClusterNode, kubelet: &KubeletClient) -> Result<()> {
    node.wait("whole flood", |_| Ok(plane.print(&["logs", "flood", "--tail=1"])?.ends_with("whole\n").then_some(())))?;
    let before = resident(node)?;
    let (admin, path) = (Who::Certificate("admin"), "/containerLogs/default/flood/main");
    let slow: Vec<_> = (0..6).map(|_| kubelet.trickle(admin, path)).collect::<Result<_>>()?;
    // A whole reading by somebody else, while those take their time.
    let (code, body) = kubelet.ask(admin, "GET", path)?;
    ensure!(code == 200 && body.len() >= 24_000_000 && body.ends_with("whole\n"), "{code}, {} bytes", body.len());
    let grown = resident(node)?.saturating_sub(before);
    ensure!(grown < 30_000, "six slow readers of 24 MB cost {grown} kB");
    drop(slow);
    Ok(())
}

/// Connections that never say anything, or nonsense, hold up nobody.
fn rude_clients(kubelet: &KubeletClient) -> Result<()> {
    let silent: Vec<TcpStream> = (0..300).map(|_| kubelet.connect(10_250)).collect::<Result<_>>()?;
    let half: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = kubelet.connect(10_255)?;
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: ")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    ensure!(kubelet.ask(Who::Certificate("admin"), "GET", "/healthz")? == (200, "ok".into()));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4_096], b"\x16\x03\x01\xff\xff\x01"] {
        let mut stream = kubelet.connect(10_250)?;
        stream.write_all(garbage)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        // Whatever is said to that, it ends.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        ensure!(said.len() < 1_000, "{} bytes for garbage", said.len());
    }
    let mut long = kubelet.connect(10_255)?;
    long.set_read_timeout(Some(Duration::from_secs(60)))?;
    // It may hang up before it has heard everything.
    let _ = long.write_all(format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)).as_bytes());
    let mut said = [0; 12];
    if long.read_exact(&mut said).is_ok() {
        ensure!(&said == b"HTTP/1.1 431", "{}", String::from_utf8_lossy(&said));
    }
    many_short(kubelet)?;
    ensure!(kubelet.ask(Who::Certificate("admin"), "GET", "/healthz")? == (200, "ok".into()));
    drop((silent, half));
    Ok(())
}

/// Ten thousand requests over one connection, five hundred at a time.
fn many_short(kubelet: &KubeletClient) -> Result<()> {
    let mut stream = kubelet.connect(10_255)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = std::io::BufReader::new(stream.try_clone()?);
    for _ in 0..20 {
        stream.write_all("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500).as_bytes())?;
        let mut answers = 0;
        while answers < 500 {
            let mut line = String::new();
            ensure!(std::io::BufRead::read_line(&mut reader, &mut line)? > 0, "it hung up after {answers}");
            answers += usize::from(line.contains("HTTP/1.1 200"));
        }
    }
    Ok(())
}

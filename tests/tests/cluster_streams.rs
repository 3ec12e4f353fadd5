//! kubectl's streams through a real API server to a node: exec, attach, port-forward, cp.
//!
//! A newer kubectl asks with WebSockets first, and with SPDY where it is told so; an older one knows SPDY alone and does
//! not mind being told.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::ControlPlane;
use tests::kubelet_client::{KubeletClient, Who};

/// Which way a kubectl that has the choice goes.
const WAYS: [&str; 2] = ["true", "false"];

fn pod(name: &str, command: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [{"name": "main", "image": "busybox",
            "imagePullPolicy": "IfNotPresent", "stdin": true, "command": ["sh", "-c", command]}]}})
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

/// `kubectl …` on this way.
fn kubectl(plane: &ControlPlane, way: &str, arguments: &[&str]) -> Command {
    let mut command = plane.command(Path::new("kubectl"));
    command.env("HOME", plane.path("")).env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", way);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", way);
    command.arg("--kubeconfig").arg(plane.path("admin.conf")).args(arguments);
    command
}

/// The same in a shell, whose pipes and terminals a test has need of.
fn shell(plane: &ControlPlane, way: &str, script: &str) -> Result<Output> {
    let mut command = plane.command(Path::new("sh"));
    command.env("HOME", plane.path("")).env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", way);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", way).env("KUBECONFIG", plane.path("admin.conf"));
    command.args(["-c", script]).stdin(Stdio::null()).output().context("running a shell")
}

fn says(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn kubectl_reaches_into_pods_of_the_node() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut node = ClusterNode::start(&plane, 61, &[])?;
    let serve = "mkdir /w; head -c 300000 /dev/urandom >/w/x; exec httpd -f -p 127.0.0.1:8080 -h /w";
    plane.apply(&pod("web", serve))?;
    node.wait_for_pod(&plane, "web", runs)?;
    refusals(&plane)?;
    for way in WAYS {
        exec(&plane, way)?;
        attach(&plane, &mut node, way)?;
        forward(&plane, way)?;
        copy(&plane, way)?;
        stalled(&plane, &node, way)?;
    }
    node.terminate()
}

fn exec(plane: &ControlPlane, way: &str) -> Result<()> {
    let output = shell(plane, way, "echo hello | kubectl exec -i web -- sh -c 'cat; echo trouble >&2; exit 3'")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.stdout == b"hello\n" && errors.contains("trouble\n"), "{}", says(&output));
    ensure!(output.status.code() == Some(3), "{way}: {output:?}");
    let much = shell(plane, way, "kubectl exec web -- head -c 30000000 /dev/zero | wc -c")?;
    ensure!(much.stdout == b"30000000\n", "{way}: {}", says(&much));
    // A terminal of its own for kubectl, whose size is the container's.
    let wait = "until stty size | grep -q ^45.123; do sleep 0.1; done; echo sized; exit 4";
    let script = format!("script -qec \"stty rows 45 cols 123; kubectl exec -it web -- sh -c '{wait}'\" /dev/null");
    let output = shell(plane, way, &script)?;
    ensure!(says(&output).contains("sized") && output.status.code() == Some(4), "{way}: {}", says(&output));
    Ok(())
}

fn attach(plane: &ControlPlane, node: &mut ClusterNode, way: &str) -> Result<()> {
    let name = format!("talker-{way}");
    plane.apply(&pod(&name, "while read line; do echo heard $line; test $line = end && exit 0; done"))?;
    node.wait_for_pod(plane, &name, runs)?;
    let output = shell(plane, way, &format!("printf 'one\\nend\\n' | kubectl attach -i {name}"))?;
    let said = says(&output);
    ensure!(output.status.success() && said.contains("heard one\nheard end\n"), "{way}: {said}");
    Ok(())
}

/// Thirty connections at once through one forwarded port.
fn forward(plane: &ControlPlane, way: &str) -> Result<()> {
    let script = "
        kubectl port-forward pod/web :8080 >forwarded 2>&1 & forwarder=$!
        until grep -q Forwarding.from.127 forwarded; do kill -0 $forwarder || exit 9; sleep 0.1; done
        port=$(sed -n 's/Forwarding from 127.0.0.1:\\([0-9]*\\).*/\\1/p' forwarded)
        fetchers=
        for i in $(seq 30); do busybox wget -qO- http://127.0.0.1:$port/x >fetched.$i & fetchers=\"$fetchers $!\"; done
        for pid in $fetchers; do wait $pid || echo failed; done
        kill $forwarder
        kubectl exec web -- md5sum /w/x | cut -d' ' -f1
        md5sum fetched.* | cut -d' ' -f1 | sort -u";
    let script =
        format!("cd {} && mkdir -p ports-{way} && cd ports-{way} || exit 8\n{script}", plane.path("").display());
    let output = shell(plane, way, &script)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sums: Vec<_> = text.lines().collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "{way}: {}", says(&output));
    Ok(())
}

/// A tree of 50 MB there and back.
fn copy(plane: &ControlPlane, way: &str) -> Result<()> {
    let script = "
        mkdir -p tree/deep/er 'tree/with space' tree/empty
        head -c 40000000 /dev/urandom >tree/large; head -c 10000000 /dev/urandom >tree/deep/er/other
        echo text >'tree/with space/a file'; : >tree/deep/nothing
        kubectl cp tree web:/copied && kubectl cp web:/copied back >/dev/null && diff -r tree back && echo same
        kubectl exec web -- rm -rf /copied; rm -rf tree back";
    let script = format!("cd {} && mkdir -p copy-{way} && cd copy-{way} || exit 8\n{script}", plane.path("").display());
    let output = shell(plane, way, &script)?;
    ensure!(output.stdout == b"same\n", "{way}: {}", says(&output));
    Ok(())
}

/// Clients that do not read hold up neither others nor memory.
fn stalled(plane: &ControlPlane, node: &ClusterNode, way: &str) -> Result<()> {
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut child = kubectl(plane, way, &["exec", "web", "--", "yes"]).stdout(Stdio::piped()).spawn()?;
        // It runs; from here on nobody reads.
        child.stdout.as_mut().context("its output")?.read_exact(&mut [0; 4])?;
        stalled.push(child);
    }
    // Others write for ever to a process that never reads, or begin to write and never go on.
    for _ in 0..2 {
        let mut feeds = kubectl(plane, way, &["exec", "-i", "web", "--", "sleep", "1000"]);
        stalled.push(feeds.stdin(std::fs::File::open("/dev/zero")?).stdout(Stdio::null()).spawn()?);
        let mut idles = kubectl(plane, way, &["exec", "-i", "web", "--", "cat"]);
        stalled.push(idles.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
    }
    let output = shell(plane, way, "kubectl exec web -- echo served")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("the agent")?))?;
    for mut child in stalled {
        child.kill()?;
        child.wait()?;
    }
    ensure!(output.stdout == b"served\n", "{way}: {}", says(&output));
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    // A debug build with everything has some 60 MB; `yes` would have written gigabytes.
    ensure!(resident.context("VmRSS")?.parse::<u64>()? < 200_000, "{status}");
    Ok(())
}

fn refusals(plane: &ControlPlane) -> Result<()> {
    plane.kubeconfig("admin", "kubernetes-admin", Some("system:masters"))?;
    let kubelet = KubeletClient::new(plane, 61);
    for (method, path, code, said) in [
        ("POST", "/run/default/web/main?cmd=echo%20a%20b", 200, "a b\n"),
        ("POST", "/run/default/web/main?cmd=false", 500, "command 'false' exited with 1: "),
        ("POST", "/run/default/web/other?cmd=true", 500, "container not found (\"other\")"),
        ("POST", "/exec/default/web/main?command=true", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("GET", "/exec/default/nobody/main?command=true&output=1", 404, "pod does not exist"),
        ("POST", "/attach/default/web/other?output=1", 500, "container not found (\"other\")"),
        ("POST", "/portForward/default/nobody", 404, "pod does not exist"),
        ("POST", "/portForward/default/web", 400, "Upgrade request required"),
        ("GET", "/exec/default/web/main?command=true&output=1", 400, "Upgrade request required"),
    ] {
        let (got, body) = kubelet.ask(Who::Certificate("admin"), method, path)?;
        ensure!(got == code && body == said, "{method} {path}: {got} {body:?}");
    }
    Ok(())
}

//! Whole agents where things go wrong: bad manifests, kills, a second agent, edits under way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(20);

fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox\n    command: [sh, -c, {command:?}]\n"
    )
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn container_id(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned()
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(30))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

#[test]
fn a_killed_agent_loses_no_container() -> Result<()> {
    let looping = "trap 'exit 0' TERM; n=0; while true; do echo line $n; n=$((n+1)); sleep 0.05; done";
    let mut agent = Agent::run(&[("a.yaml", &pod("steady", looping)), ("b.yaml", &pod("sleeper", "sleep 1000000"))])?;
    let before = [agent.wait_for_pod("steady", SOON, runs)?, agent.wait_for_pod("sleeper", SOON, runs)?];
    for _ in 0..3 {
        agent.kill()?;
        agent.start()?;
        for was in &before {
            let name = was["metadata"]["name"].as_str().context("a name")?;
            let now = agent.wait_for_pod(name, SOON, runs)?;
            ensure!(container_id(&now) == container_id(was), "{name} was restarted");
            ensure!(now["status"]["containerStatuses"][0]["restartCount"] == 0);
            ensure!(now["status"]["podIP"] == was["status"]["podIP"], "{name} changed its address");
        }
    }
    // What was written while no agent ran is in the log, and no line twice.
    let log = agent.print(&["logs", "steady"])?;
    for (place, line) in log.lines().enumerate() {
        ensure!(line == format!("line {place}"), "line {place} is {line:?}");
    }
    ends_clean(agent)
}

#[test]
fn a_container_that_ended_while_no_agent_ran_is_restarted_by_the_next() -> Result<()> {
    let mut agent = Agent::run(&[("a.yaml", &pod("brief", "sleep 2; exit 7"))])?;
    agent.wait_for_pod("brief", SOON, runs)?;
    agent.kill()?;
    // The end is on disk before anyone is told: wait for it there.
    let by = Instant::now() + SOON;
    while processes_of(&agent, "sleep 2")? > 0 && Instant::now() < by {
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.start()?;
    let seen = agent.wait_for_pod("brief", SOON, |pod| {
        pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 7
    })?;
    ensure!(seen["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(0));
    ends_clean(agent)
}

fn processes_of(agent: &Agent, command: &str) -> Result<usize> {
    let cgroup = agent.place().cgroup();
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let text = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if text("cmdline").replace('\0', " ").contains(command) && text("cgroup").contains(&cgroup) {
            count += 1;
        }
    }
    Ok(count)
}

#[test]
fn a_second_agent_on_the_same_root_is_told_the_pid_of_the_first() -> Result<()> {
    let mut agent = Agent::run(&[("a.yaml", &pod("first", "sleep 1000000"))])?;
    agent.wait_for_pod("first", SOON, runs)?;
    let program = tests::agent::program("longshore")?;
    let second =
        agent.place().command(program).args(agent.arguments()).arg(agent.place().path("manifests")).output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(!second.status.success());
    ensure!(said.contains(&agent.pid().context("a pid")?.to_string()), "{said}");
    ensure!(runs(&agent.pod("first")?.context("still there")?));
    ends_clean(agent)
}

#[test]
fn two_agents_with_different_folders_run_side_by_side_in_one_network() -> Result<()> {
    let mut first = Agent::run(&[("a.yaml", &pod("one", "sleep 1000000"))])?;
    first.wait_for_pod("one", SOON, runs)?;
    let program = tests::agent::program("longshore")?;
    let other = |name: &str| first.place().path(name).display().to_string();
    std::fs::create_dir(first.place().path("other-manifests"))?;
    std::fs::write(first.place().path("other-manifests/b.yaml"), pod("two", "sleep 1000000"))?;
    let log = std::fs::File::create(first.place().path("other.log"))?;
    let mut second = first
        .place()
        .command(program)
        .args(["run", "--node-name=other-node", "--bridge=longshore1", "--pod-cidr=10.99.0.0/16"])
        .arg(format!("--cgroup-root={}-other", first.place().cgroup()))
        .args([format!("--run-dir={}", other("other-run")), format!("--root-dir={}", other("other-root"))])
        .arg(format!("--log-dir={}", other("other-logs")))
        .arg("--import")
        .arg(tests::agent::busybox()?)
        .arg(other("other-manifests"))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let run = format!("--run-dir={}", other("other-run"));
    let there = first.wait("the second agent's pod", SOON, |first| {
        let listed = first.place().command(tests::agent::program("longshore")?).args([&run, "ps"]).output()?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok((text.contains("default/two") && text.contains("Running") && text.contains("10.99.")).then_some(text))
    });
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(second.id().try_into()?), Signal::SIGTERM)?;
    let ended = second.wait()?;
    there.with_context(|| std::fs::read_to_string(first.place().path("other.log")).unwrap_or_default())?;
    ensure!(ended.success(), "{}", std::fs::read_to_string(first.place().path("other.log"))?);
    // The end of one takes nothing from the other.
    let one = first.pod("one")?.context("still there")?;
    ensure!(runs(&one));
    let address = one["status"]["podIP"].as_str().context("an address")?.to_owned();
    let ping = first.place().command("busybox").args(["ping", "-c", "1", "-W", "2", &address]).output()?;
    ensure!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    ends_clean(first)
}

#[test]
fn manifests_are_acted_on_within_a_second() -> Result<()> {
    let mut agent = Agent::run(&[])?;
    let written = Instant::now();
    agent.write("a.yaml", &pod("added", "sleep 1000000"))?;
    let first = agent.wait_for_pod("added", SOON, runs)?;
    ensure!(written.elapsed() < Duration::from_secs(1), "running after {:?}", written.elapsed());

    agent.write("a.yaml", &pod("added", "sleep 2000000"))?;
    let second =
        agent.wait_for_pod("added", SOON, |pod| runs(pod) && pod["metadata"]["uid"] != first["metadata"]["uid"])?;
    ensure!(container_id(&second) != container_id(&first));

    let removed = Instant::now();
    agent.remove("a.yaml")?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pods()?.is_empty().then_some(())))?;
    // A shell that ignores SIGTERM as pid 1 gets two seconds at least (pod-lifecycle.md, section 12).
    ensure!(removed.elapsed() < Duration::from_secs(5), "gone after {:?}", removed.elapsed());
    ends_clean(agent)
}

#[test]
fn bad_manifests_are_named_and_the_others_run_on() -> Result<()> {
    let bad: &[(&str, &str, &[&str])] = &[
        ("not-yaml.yaml", "kind: [Pod", &["not-yaml.yaml", "document 1"]),
        ("not-a-pod.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n", &["not-a-pod.yaml", "Node"]),
        (
            "unknown-field.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: u}\nspec:\n  containers:\n  - {name: a, image: busybox, comand: [x]}\n",
            &["unknown-field.yaml", "comand", "command"],
        ),
        ("twice.yaml", &pod("good", "sleep 1"), &["good", "good.yaml", "twice.yaml"]),
        (
            "missing-volume.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: m}\nspec:\n  containers:\n  - name: a\n    image: busybox\n    \
             volumeMounts: [{name: data, mountPath: /data}]\n",
            &["missing-volume.yaml", "volumeMounts[0]", "data"],
        ),
        (
            "second-document.yaml",
            &format!(
                "{}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: NO}}\nspec: {{containers: []}}\n",
                pod("fine", "sleep 1000000")
            ),
            &["second-document.yaml", "document 2", "metadata.name"],
        ),
    ];
    let mut files = vec![("good.yaml", pod("good", "sleep 1000000"))];
    files.extend(bad.iter().map(|(name, text, _)| (*name, (*text).to_owned())));
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let mut agent = Agent::run(&files)?;
    agent.wait_for_pod("good", SOON, runs)?;
    agent.wait_for_pod("fine", SOON, runs)?;
    let events = agent.print(&["events"])?;
    for (name, _, words) in bad {
        let line = events.lines().find(|line| words.iter().all(|word| line.contains(word)));
        ensure!(line.is_some(), "nothing said of {name}:\n{events}");
    }
    ends_clean(agent)
}

#[test]
fn what_cannot_run_says_why_and_holds_up_nobody() -> Result<()> {
    let container = |name: &str, extra: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, {extra}}}\n"
        )
    };
    let no_key = container(
        "no-key",
        "image: busybox, command: [env], env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: k}}}]",
    );
    let wrong_type = "apiVersion: v1\nkind: Pod\nmetadata: {name: wrong-type}\nspec:\n  containers:\n  - name: main\n    image: busybox\n    \
                      volumeMounts: [{name: v, mountPath: /v}]\n  volumes:\n  - {name: v, hostPath: {path: /etc/passwd, type: Directory}}\n";
    let mut agent = Agent::run(&[
        ("never.yaml", &container("never", "image: 'example.invalid/none:1', imagePullPolicy: Never")),
        ("unreachable.yaml", &container("unreachable", "image: '127.0.0.1:1/none:1'")),
        ("no-program.yaml", &container("no-program", "image: busybox, command: [no-such-program]")),
        ("no-key.yaml", &no_key),
        ("wrong-type.yaml", wrong_type),
        ("fine.yaml", &pod("fine", "sleep 1000000")),
    ])?;
    agent.wait_for_pod("fine", SOON, runs)?;
    let waiting = |reasons: &'static [&'static str]| {
        move |pod: &Value| {
            let reason =
                pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default();
            reasons.contains(&reason)
        }
    };
    agent.wait_for_pod("never", SOON, waiting(&["ErrImageNeverPull"]))?;
    agent.wait_for_pod("unreachable", SOON, waiting(&["ErrImagePull", "ImagePullBackOff"]))?;
    agent.wait_for_pod("no-key", SOON, waiting(&["CreateContainerConfigError"]))?;
    agent.wait_for_pod("no-program", SOON, |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        waiting(&["RunContainerError", "CrashLoopBackOff"])(pod)
            && status["lastState"]["terminated"]["exitCode"] == 128
            && status["lastState"]["terminated"]["reason"] == "StartError"
    })?;
    let events = agent.wait("the hostPath's event", SOON, |agent| {
        Ok(Some(agent.print(&["events"])?).filter(|events| events.contains("FailedMount")))
    })?;
    ensure!(events.contains("hostPath type check failed: /etc/passwd is not a directory"), "{events}");
    ensure!(events.contains("executable file not found in $PATH"), "{events}");
    ends_clean(agent)
}

#[test]
fn stopped_pods_stay_stopped_and_the_agent_ends_on_request() -> Result<()> {
    let mut agent = Agent::run(&[("a.yaml", &pod("one", "sleep 1000000")), ("b.yaml", &pod("two", "sleep 1000000"))])?;
    agent.wait_for_pod("one", SOON, runs)?;
    agent.wait_for_pod("two", SOON, runs)?;
    ensure!(agent.print(&["stop", "one"])? == "stopped 1 pod\n");
    ensure!(agent.pod("one")?.is_none());
    ensure!(runs(&agent.pod("two")?.context("two goes on")?));
    let refused = agent.cli(&["stop", "three"])?;
    ensure!(!refused.status.success());
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("\"three\" not found"), "{refused:?}");
    ends_clean(agent)
}

#[test]
fn exec_passes_streams_and_exit_codes() -> Result<()> {
    let mut agent = Agent::run(&[("a.yaml", &pod("box", "sleep 1000000"))])?;
    agent.wait_for_pod("box", SOON, runs)?;
    let output = agent.cli(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 5"])?;
    ensure!(output.status.code() == Some(5), "{output:?}");
    ensure!(output.stdout == b"out\n" && output.stderr == b"err\n", "{output:?}");
    let program = tests::agent::program("longshore")?;
    let mut child = agent
        .place()
        .command(program)
        .arg(format!("--run-dir={}", agent.place().path("run").display()))
        .args(["exec", "-i", "box", "--", "sha256sum"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let sent = vec![b'x'; 3 << 20];
    let mut stdin = child.stdin.take().context("stdin")?;
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &sent));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let sum = String::from_utf8(output.stdout)?;
    // sha256 of 3 MiB of "x": every byte arrived, and the end of the input did.
    let expected =
        std::process::Command::new("sh").args(["-c", "head -c 3145728 /dev/zero | tr '\\0' x | sha256sum"]).output()?;
    ensure!(sum.as_bytes() == expected.stdout, "{sum}");
    ends_clean(agent)
}

#[test]
fn a_changed_config_map_reaches_a_running_pod() -> Result<()> {
    let config = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: {value}}}\n")
    };
    let reader = "apiVersion: v1\nkind: Pod\nmetadata: {name: reader}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
                  - name: main\n    image: busybox\n    command: [sleep, '1000000']\n    \
                  volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, configMap: {name: settings}}]\n";
    let mut agent = Agent::run(&[("config.yaml", &config("blue")), ("pod.yaml", reader)])?;
    let first = agent.wait_for_pod("reader", SOON, runs)?;
    ensure!(agent.print(&["exec", "reader", "--", "cat", "/v/colour"])? == "blue");
    agent.write("config.yaml", &config("green"))?;
    agent.wait("the new colour in the container", SOON, |agent| {
        Ok((agent.print(&["exec", "reader", "--", "cat", "/v/colour"])? == "green").then_some(()))
    })?;
    ensure!(container_id(&agent.pod("reader")?.context("a pod")?) == container_id(&first), "it was restarted");
    ends_clean(agent)
}

#[test]
fn a_host_port_answers_on_the_nodes_address() -> Result<()> {
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
               - name: main\n    image: busybox\n    command: [sh, -c, 'mkdir /w; echo from the pod > /w/index.html; exec httpd -f -p 80 -h /w']\n    \
               ports: [{containerPort: 80, hostPort: 8088}]\n    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}\n";
    let mut agent = Agent::run(&[("web.yaml", web)])?;
    agent.wait_for_pod("web", SOON, |pod| pod["status"]["containerStatuses"][0]["ready"] == true)?;
    for address in ["192.0.2.10", "127.0.0.1"] {
        let ask = format!("exec 3<>/dev/tcp/{address}/8088; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let output = agent.place().command("timeout").args(["5", "bash", "-c", &ask]).output()?;
        ensure!(output.stdout.ends_with(b"from the pod\n"), "{address}: {output:?}");
    }
    ends_clean(agent)
}

#[test]
fn a_killed_shim_is_replaced_and_its_container_goes_on() -> Result<()> {
    let counting = "trap 'exit 0' TERM; n=0; while true; do echo line $n; n=$((n+1)); sleep 0.05; done";
    let mut agent = Agent::run(&[("a.yaml", &pod("steady", counting))])?;
    let before = agent.wait_for_pod("steady", SOON, runs)?;
    let mark = agent.place().path("run").display().to_string();
    let shim = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains(&mark) && !line.contains("--run-dir")
        })
        .context("a shim")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), Signal::SIGKILL)?;
    let lines = |agent: &Agent| agent.print(&["logs", "steady"]).map(|log| log.lines().count());
    let at_the_kill = lines(&agent)?;
    agent.wait("more lines in the log", SOON, |agent| Ok((lines(agent)? > at_the_kill + 20).then_some(())))?;
    let after = agent.pod("steady")?.context("a pod")?;
    ensure!(runs(&after) && container_id(&after) == container_id(&before), "the container was lost with its shim");
    ends_clean(agent)
}

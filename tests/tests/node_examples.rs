//! Every file of `examples/` is run by a whole agent and shows what its first lines say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples")
}

fn example(name: &str) -> Result<Agent> {
    let text = std::fs::read_to_string(folder().join(name)).with_context(|| name.to_owned())?;
    Agent::run(&[(name, &text)])
}

const SOON: Duration = Duration::from_secs(20);

fn phase(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["status"]["phase"] == wanted
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn container(pod: &Value, place: usize) -> Value {
    pod["status"]["containerStatuses"][place].clone()
}

/// Ctrl-C, and nothing is left.
fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// The tests below, by file: a new example without one fails here.
const COVERED: &[&str] = &[
    "01-liveness-exec.yaml",
    "02-liveness-exec-fast.yaml",
    "03-init-copy.yaml",
    "04-localhost-pair.yaml",
    "05-share-process-namespace.yaml",
    "06-host-aliases.yaml",
    "07-lifecycle-hooks.yaml",
    "08-projected-volume.yaml",
    "09-env.yaml",
    "10-host-path-types.yaml",
    "11-endings.yaml",
    "12-host-network.yaml",
    "13-resource-limits.yaml",
    "14-service.yaml",
    "15-deployment.yaml",
    "16-job.yaml",
    "17-statefulset.yaml",
];

#[test]
fn every_example_is_run_by_a_test() {
    let entries = std::fs::read_dir(folder()).unwrap();
    let there: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let covered: BTreeSet<_> = COVERED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(there, covered);
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() -> Result<()> {
    let mut agent = example("01-liveness-exec.yaml")?;
    agent.wait_for_pod("liveness-exec", SOON, phase("Running"))?;
    let limit = Duration::from_secs(100);
    let pod = agent.wait_for_pod("liveness-exec", limit, |pod| container(pod, 0)["restartCount"] == 1)?;
    let last = container(&pod, 0)["lastState"]["terminated"].clone();
    ensure!(last["exitCode"] == 137, "killed after its grace period: {last}");
    let times = |field: &str| last[field].as_str().unwrap_or_default().to_owned();
    let ran = seconds_between(&times("startedAt"), &times("finishedAt"))?;
    // Healthy for 30 s, three failures 5 s apart, then 30 s of grace that the shell ignores.
    ensure!((68..=85).contains(&ran), "ran for {ran} s");
    let events = agent.print(&["events"])?;
    ensure!(events.contains("Liveness probe failed: cat: can't open '/tmp/healthy'"), "{events}");
    ensure!(events.contains("Container liveness failed liveness probe, will be restarted"), "{events}");
    ends_clean(agent)
}

fn seconds_between(start: &str, end: &str) -> Result<i64> {
    // Both are RFC 3339 in UTC, whole seconds, and at most an hour apart.
    let seconds = |text: &str| -> Result<i64> {
        let clock = text.get(11..19).with_context(|| format!("{text:?} is no time"))?;
        let parts = clock.split(':').map(|part| part.parse::<i64>().map_err(Into::into)).collect::<Result<Vec<_>>>()?;
        Ok(parts[0] * 3600 + parts[1] * 60 + parts[2])
    };
    Ok((seconds(end)? - seconds(start)?).rem_euclid(86_400))
}

#[test]
fn the_same_in_seconds() -> Result<()> {
    let mut agent = example("02-liveness-exec-fast.yaml")?;
    agent.wait_for_pod("liveness-exec-fast", SOON, |pod| container(pod, 0)["restartCount"] == 1)?;
    ends_clean(agent)
}

#[test]
fn an_init_container_copies_a_file_for_the_web_server() -> Result<()> {
    let mut agent = example("03-init-copy.yaml")?;
    let pod = agent.wait_for_pod("init-copy", SOON, ready)?;
    ensure!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed");
    let page = agent.print(&["exec", "init-copy", "--", "wget", "-qO-", "localhost"])?;
    ensure!(page == "copied by the init container\n", "{page}");
    // Reachable from the node by the pod's address.
    let address = pod["status"]["podIP"].as_str().context("an address")?;
    let ask = format!("exec 3<>/dev/tcp/{address}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let output = agent.place().command("timeout").args(["5", "bash", "-c", &ask]).output()?;
    ensure!(output.stdout.ends_with(b"\r\n\r\ncopied by the init container\n"), "{output:?}");
    ends_clean(agent)
}

#[test]
fn two_containers_talk_over_localhost() -> Result<()> {
    let mut agent = example("04-localhost-pair.yaml")?;
    agent.wait("the server's words in the client's log", SOON, |agent| {
        let log = agent.print(&["logs", "localhost-pair", "-c", "client"]).unwrap_or_default();
        Ok(log.contains("hello from the server").then_some(()))
    })?;
    ends_clean(agent)
}

#[test]
fn a_shared_process_namespace_shows_the_other_containers() -> Result<()> {
    let mut agent = example("05-share-process-namespace.yaml")?;
    agent.wait_for_pod("share-process-namespace", SOON, ready)?;
    let pod = "share-process-namespace";
    let processes = agent.print(&["exec", pod, "-c", "shell", "--", "ps"])?;
    ensure!(processes.contains("httpd -f -p 8080"), "{processes}");
    let first = agent.print(&["exec", pod, "-c", "shell", "--", "cat", "/proc/1/comm"])?;
    ensure!(first.trim().contains("pause"), "{first}");
    let terminal = agent.print(&["exec", "-t", pod, "-c", "shell", "--", "tty"])?;
    ensure!(terminal.trim() == "/dev/pts/1" || terminal.trim() == "/dev/pts/0", "{terminal}");
    ends_clean(agent)
}

#[test]
fn host_aliases_are_in_etc_hosts() -> Result<()> {
    let mut agent = example("06-host-aliases.yaml")?;
    let pod = agent.wait_for_pod("host-aliases", SOON, phase("Succeeded"))?;
    let address = pod["status"]["podIP"].as_str().context("an address")?;
    let log = agent.print(&["logs", "host-aliases"])?;
    let expected = format!(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         {address}\thost-aliases\n\n# Entries added by HostAliases.\n\
         127.0.0.1\tfoo.local\tbar.local\n10.1.2.3\tfoo.remote\tbar.remote\n"
    );
    ensure!(log == expected, "{log}\n---\n{expected}");
    ends_clean(agent)
}

#[test]
fn hooks_run_after_the_start_and_before_the_end() -> Result<()> {
    let mut agent = example("07-lifecycle-hooks.yaml")?;
    agent.wait_for_pod("lifecycle-hooks", SOON, ready)?;
    let message = agent.print(&["exec", "lifecycle-hooks", "--", "cat", "/usr/share/message"])?;
    ensure!(message == "Hello from the postStart handler\n", "{message}");
    agent.remove("07-lifecycle-hooks.yaml")?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pod("lifecycle-hooks")?.is_none().then_some(())))?;
    let written = std::fs::read_to_string(agent.place().path("host/hooks/prestop"))?;
    ensure!(written == "preStop ran\n", "{written}");
    ends_clean(agent)
}

#[test]
fn a_projected_volume_holds_all_its_sources() -> Result<()> {
    let mut agent = example("08-projected-volume.yaml")?;
    agent.wait_for_pod("projected-volume", SOON, phase("Succeeded"))?;
    let log = agent.print(&["logs", "projected-volume"])?;
    let expected = "./cpu_limit 644 250\n./labels 644 tier=\"demo\"\nzone=\"here\"\n./my-group/my-config 644 colour=blue\n\
                    ./my-group/my-password 400 1f2d1e2e67df\n./username 644 admin\n";
    ensure!(log == expected, "{log}\n---\n{expected}");
    ends_clean(agent)
}

#[test]
fn the_environment_comes_from_everywhere() -> Result<()> {
    let mut agent = example("09-env.yaml")?;
    let pod = agent.wait_for_pod("env", SOON, phase("Succeeded"))?;
    let address = pod["status"]["podIP"].as_str().context("an address")?;
    let log = agent.print(&["logs", "env"])?;
    let expected = format!(
        "APP_SPECIAL_LEVEL=very\nAPP_SPECIAL_TYPE=charm\nESCAPED=$(SPECIAL_LEVEL) $(NOT_THERE)\n\
         GREETING=hello very backend-admin\nMEMORY_LIMIT=32\nPOD_IP={address}\nPOD_NAME=env\n\
         SECRET_USERNAME=backend-admin\nSPECIAL_LEVEL=very\nSPECIAL_TYPE=overridden\n"
    );
    ensure!(log == expected, "{log}\n---\n{expected}");
    ends_clean(agent)
}

#[test]
fn a_host_path_of_each_type_is_checked_and_mounted() -> Result<()> {
    let mut agent = example("10-host-path-types.yaml")?;
    agent.wait_for_pod("host-path-types", Duration::from_secs(45), phase("Succeeded"))?;
    let log = agent.print(&["logs", "host-path-types"])?;
    let expected = "any: directory\ndirectory-or-create: directory\ndirectory: directory\n\
                    file-or-create: regular empty file\nfile: regular file\nsocket: socket\n\
                    char-device: character special file\nblock-device: block special file\nwritten\ndata\n";
    ensure!(log == expected, "{log}\n---\n{expected}");
    ends_clean(agent)
}

#[test]
fn pods_complete_fail_and_crash_loop() -> Result<()> {
    let mut agent = example("11-endings.yaml")?;
    agent.wait_for_pod("completes", SOON, phase("Succeeded"))?;
    let failed = agent.wait_for_pod("fails", SOON, phase("Failed"))?;
    let end = container(&failed, 0)["state"]["terminated"].clone();
    ensure!(end["exitCode"] == 3 && end["reason"] == "Error" && end["message"] == "no luck\n", "{end}");
    let looping = |pod: &Value| container(pod, 0)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let pod = agent.wait_for_pod("crash-loops", SOON, looping)?;
    let last = container(&pod, 0)["lastState"]["terminated"].clone();
    ensure!(last["message"] == "starting\n", "the log's tail is the message: {last}");
    let waiting = container(&pod, 0)["state"]["waiting"]["message"].clone();
    ensure!(
        waiting.as_str().is_some_and(
            |text| text.starts_with("back-off 10s restarting failed container=main pod=crash-loops_default(")
        ),
        "{waiting}"
    );
    agent.wait_for_pod("crash-loops", SOON, |pod| container(pod, 0)["restartCount"] == 2)?;
    ensure!(agent.print(&["logs", "--previous", "crash-loops"])? == "starting\n");
    ends_clean(agent)
}

#[test]
fn a_host_network_pod_has_the_nodes_address() -> Result<()> {
    let mut agent = example("12-host-network.yaml")?;
    let pod = agent.wait_for_pod("host-network", SOON, phase("Succeeded"))?;
    ensure!(pod["status"]["podIP"] == "192.0.2.10", "{}", pod["status"]["podIP"]);
    let log = agent.print(&["logs", "host-network"])?;
    ensure!(log.lines().any(|line| line == "uplink"), "{log}");
    ends_clean(agent)
}

#[test]
fn limits_are_in_the_cgroup_and_kill() -> Result<()> {
    let mut agent = example("13-resource-limits.yaml")?;
    agent.wait_for_pod("limits", SOON, ready)?;
    let log = agent.wait("the limits in the log", SOON, |agent| {
        Ok(Some(agent.print(&["logs", "limits"])?).filter(|log| log.lines().count() == 2))
    })?;
    ensure!(log.starts_with("67108864\n50000"), "{log}");
    let killed = |pod: &Value| container(pod, 0)["state"]["terminated"]["reason"] == "OOMKilled";
    let pod = agent.wait_for_pod("out-of-memory", SOON, killed)?;
    ensure!(container(&pod, 0)["state"]["terminated"]["exitCode"] == 137);
    ends_clean(agent)
}

#[test]
fn a_service_reaches_both_pods() -> Result<()> {
    let mut agent = example("14-service.yaml")?;
    agent.wait("both pods' words in the client's log", SOON, |agent| {
        let log = agent.print(&["logs", "service-client"]).unwrap_or_default();
        Ok((log.contains("one\n") && log.contains("two\n")).then_some(()))
    })?;
    ends_clean(agent)
}

#[test]
fn a_deployment_runs_three_pods_behind_its_service() -> Result<()> {
    let mut agent = example("15-deployment.yaml")?;
    agent.wait("three ready pods", SOON, |agent| {
        Ok((agent.pods()?.iter().filter(|p| ready(p)).count() == 3).then_some(()))
    })?;
    let ask = "exec 3<>/dev/tcp/10.96.0.51/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    agent.wait("the Service's answer", SOON, |agent| {
        let output = agent.place().command("timeout").args(["5", "bash", "-c", ask]).output()?;
        Ok(output.stdout.ends_with(b"hello\n").then_some(()))
    })?;
    ends_clean(agent)
}

#[test]
fn a_job_completes_and_a_cron_job_waits_for_its_minute() -> Result<()> {
    let mut agent = example("16-job.yaml")?;
    let done = |agent: &Agent| {
        let table = agent.print(&["workloads"])?;
        let line = |start: &str, word: &str| table.lines().any(|line| line.starts_with(start) && line.contains(word));
        Ok((line("Job/default/squares", "Complete") && line("CronJob/default/every-minute", "")).then_some(()))
    };
    agent.wait("the Job's completion", SOON, done)?;
    let squares = agent.pods()?.into_iter().filter(|pod| pod["metadata"]["labels"]["job-name"] == "squares");
    let names = squares.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    let mut logs = names.map(|name| agent.print(&["logs", &name])).collect::<Result<Vec<_>>>()?;
    logs.sort();
    ensure!(logs == ["0\n", "1\n", "4\n"], "{logs:?}");
    ends_clean(agent)
}

#[test]
fn a_stateful_set_has_its_members() -> Result<()> {
    let mut agent = example("17-statefulset.yaml")?;
    for name in ["member-0", "member-1"] {
        agent.wait_for_pod(name, SOON, ready)?;
        ensure!(agent.print(&["logs", name])? == format!("{name}\n"));
    }
    ends_clean(agent)
}

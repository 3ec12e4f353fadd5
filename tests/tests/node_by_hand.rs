//! What a person does to running pods: stopping and starting them, `top`, and logs that rotate under a follower.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::{Agent, program};

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox\n    command: [sh, -c, {command:?}]\n"
    )
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn fails_with(agent: &Agent, arguments: &[&str], words: &[&str]) -> Result<()> {
    let output = agent.cli(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{arguments:?}: {said}");
    Ok(())
}

#[test]
fn a_stopped_pod_stays_stopped_until_it_is_started_or_changed() -> Result<()> {
    let sleeper = |name| pod(name, "trap 'exit 0' TERM; sleep 1000000 & wait");
    let (one, two, three) = (sleeper("one"), sleeper("two"), sleeper("three"));
    let mut agent = Agent::run(&[("one.yaml", &one), ("two.yaml", &two), ("three.yaml", &three)])?;
    for name in ["one", "two", "three"] {
        agent.wait_for_pod(name, SOON, runs)?;
    }
    ensure!(agent.print(&["stop", "one", "two"])? == "stopped 2 pods\n");
    // Killed right after the answer, and ended in good order: neither brings them back.
    agent.kill()?;
    agent.start()?;
    agent.wait_for_pod("three", SOON, runs)?;
    agent.interrupt(Duration::from_secs(60))?;
    agent.start()?;
    agent.wait_for_pod("three", SOON, runs)?;
    ensure!(agent.pod("one")?.is_none() && agent.pod("two")?.is_none(), "{:#?}", agent.pods()?);
    let listed = agent.print(&["ps"])?;
    let row = listed.lines().find(|line| line.starts_with("default/one ")).context("it is listed")?;
    ensure!(row.contains("Stopped"), "{row}");
    fails_with(&agent, &["explain", "one"], &["default/one was stopped by hand", "longshore start default/one"])?;
    fails_with(&agent, &["start", "three"], &["default/three was not stopped by hand"])?;
    fails_with(&agent, &["start", "nobody"], &["\"nobody\" not found"])?;
    ensure!(agent.print(&["stop", "one"])? == "stopped 1 pod\n", "a second stop is no error");

    ensure!(agent.print(&["start", "one"])? == "started 1 pod\n");
    agent.wait_for_pod("one", SOON, runs)?;
    agent.write("two.yaml", &pod("two", "sleep 2000000"))?;
    agent.wait_for_pod("two", SOON, runs)?;
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

#[test]
fn top_shows_who_is_busy() -> Result<()> {
    let mut agent = Agent::run(&[
        ("busy.yaml", &pod("busy", "while :; do :; done")),
        ("idle.yaml", &pod("idle", "sleep 1000000")),
    ])?;
    agent.wait_for_pod("busy", SOON, runs)?;
    agent.wait_for_pod("idle", SOON, runs)?;
    agent.wait("top's figures", SOON, |agent| {
        let told: Value = serde_json::from_str(&agent.print(&["top", "-o", "json"])?)?;
        let of = |name: &str, field: &str| {
            let pods = told["pods"].as_array()?;
            pods.iter().find(|pod| pod["pod"] == name)?[field].as_u64()
        };
        let (busy, idle) = (of("default/busy", "cpu_millis"), of("default/idle", "cpu_millis"));
        let known = of("default/busy", "memory_bytes").is_some_and(|bytes| bytes > 0);
        Ok((known && idle.is_some() && busy > idle).then_some(()))
    })?;
    let text = agent.print(&["top", "--once"])?;
    ensure!(text.starts_with("POD ") && text.contains("LAST EVENT"), "{text}");
    ensure!(
        text.lines().any(|line| line.starts_with("default/busy ") && line.contains("Mi ") && line.contains("Running")),
        "{text}"
    );
    agent.interrupt(Duration::from_secs(60))
}

#[test]
fn a_follower_sees_each_line_once_while_the_log_rotates() -> Result<()> {
    const LINES: usize = 40_000;
    let counting = format!(
        "n=0; while [ $n -lt {LINES} ]; do echo line $n; n=$((n+1)); [ $((n % 1000)) = 0 ] && sleep 1; done; sleep 1000000"
    );
    let settings = ["--container-log-max-size=64Ki", "--container-log-max-files=3"];
    let mut agent = Agent::run_with(&settings, &[("a.yaml", &pod("counts", &counting))])?;
    agent.wait_for_pod("counts", SOON, runs)?;
    let mut follower = agent
        .place()
        .command(program("longshore")?)
        .arg(format!("--run-dir={}", agent.place().path("run").display()))
        .args(["logs", "-f", "counts"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(follower.stdout.take().context("a pipe")?).lines();
    let read = std::thread::spawn(move || -> Result<()> {
        for (place, line) in lines.take(LINES).enumerate() {
            let line = line?;
            ensure!(line == format!("line {place}"), "line {place} is {line:?}");
        }
        Ok(())
    });
    let files = |agent: &Agent| -> Result<Vec<String>> {
        let pods = std::fs::read_dir(agent.place().path("logs"))?.flatten().next().context("the pod's folder")?;
        let files = std::fs::read_dir(pods.path().join("main"))?.flatten();
        Ok(files.filter_map(|file| file.file_name().into_string().ok()).collect())
    };
    agent.wait("a compressed log", Duration::from_secs(180), |agent| {
        let files = files(agent)?;
        ensure!(files.iter().filter(|file| !file.ends_with(".tmp")).count() <= 4, "too many files: {files:?}");
        Ok(files.iter().any(|file| file.ends_with(".gz")).then_some(()))
    })?;
    let all = read.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    follower.kill()?;
    follower.wait()?;
    all?;
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    Ok(())
}

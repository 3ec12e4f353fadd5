//! `longshore explain` of real pods: what was tried, what is awaited, and why there is no such pod.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(60);

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 20\n{spec}")
}

fn main(rest: &str) -> String {
    format!("  containers:\n  - {{name: main, image: busybox, {rest}}}\n")
}

/// The answer of `explain -o json`, once it is as `right` says.
fn explained(agent: &mut Agent, pod: &str, what: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
    agent.wait(&format!("{what} in what explain says of {pod}"), SOON, |agent| {
        let told: Value = serde_json::from_str(&agent.print(&["explain", pod, "-o", "json"])?)?;
        Ok(Some(told).filter(|told| right(told)))
    })
}

fn awaits(told: &Value, words: &[&str]) -> bool {
    let waits = told["awaits"].as_array().map(Vec::as_slice).unwrap_or_default();
    waits.iter().any(|wait| {
        let text = format!("{}: {}", wait["of"].as_str().unwrap_or_default(), wait["why"].as_str().unwrap_or_default());
        words.iter().all(|word| text.contains(word))
    })
}

fn step<'a>(told: &'a Value, work: &str, of: Option<&str>) -> Option<&'a Value> {
    told["steps"].as_array()?.iter().find(|step| step["work"] == work && step["of"].as_str() == of)
}

#[test]
fn explain_tells_what_was_tried_and_what_is_awaited() -> Result<()> {
    let probed = "command: [sleep, '1000000'], startupProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1000}";
    let two_inits = "  initContainers:\n  - {name: one, image: busybox, command: ['true']}\n  \
                     - {name: two, image: busybox, command: [sleep, '1000000']}\n";
    let stubborn = "command: [sh, -c, \"trap '' TERM; while true; do sleep 1; done\"]";
    let mut agent = Agent::run(&[
        ("fine.yaml", &pod("fine", &main("command: [sleep, '1000000']"))),
        ("crashes.yaml", &pod("crashes", &main("command: [sh, -c, 'exit 3']"))),
        ("slow.yaml", &pod("slow", &main(probed))),
        ("inits.yaml", &pod("inits", &format!("{two_inits}{}", main("command: [sleep, '1000000']")))),
        (
            "gate.yaml",
            &pod(
                "gate",
                &format!(
                    "  readinessGates: [{{conditionType: example.com/ok}}]\n{}",
                    main("command: [sleep, '1000000']")
                ),
            ),
        ),
        ("stubborn.yaml", &pod("stubborn", &main(stubborn))),
    ])?;
    let fine = agent
        .wait_for_pod("fine", SOON, runs)
        .and_then(|_| explained(&mut agent, "fine", "a settled pod", |told| awaits(told, &["nothing", "ready"])))?;
    for (work, of) in [("volumes", None), ("sandbox", None), ("image", Some("main")), ("container", Some("main"))] {
        let step = step(&fine, work, of).with_context(|| format!("no step {work} in {fine:#}"))?;
        ensure!(step["outcome"] == "done" && step["ended"].is_string(), "{step:#}");
    }
    explained(&mut agent, "crashes", "a back-off", |told| awaits(told, &["container main", "back-off 10s"]))?;
    explained(&mut agent, "slow", "a startup probe", |told| awaits(told, &["container main", "startup probe"]))?;
    explained(&mut agent, "inits", "an init container", |told| awaits(told, &["init container 2 of 2 (two)"]))?;
    explained(&mut agent, "gate", "a readiness gate", |told| awaits(told, &["readiness gate", "example.com/ok"]))?;
    agent.wait_for_pod("stubborn", SOON, runs)?;
    agent.remove("stubborn.yaml")?;
    explained(&mut agent, "stubborn", "a grace period", |told| {
        awaits(told, &["terminating with", "s of grace left", "main"])
    })?;

    let text = agent.print(&["explain", "default/crashes"])?;
    for words in ["pod default/crashes", "TRIED", "start of main", "AWAITED", "until ", "EVENTS", "BackOff"] {
        ensure!(text.contains(words), "no {words:?} in:\n{text}");
    }
    agent.kill()?;
    agent.start()?;
    agent.wait_for_pod("fine", SOON, runs)?;
    let text = agent.print(&["explain", "fine"])?;
    ensure!(text.contains("found the pod as a former run left it"), "{text}");
    ensure!(text.contains("start of main") && text.contains("wanted since"), "what the former run tried: {text}");
    agent.remove("inits.yaml")?;
    agent.interrupt(Duration::from_secs(60))
}

#[test]
fn a_pod_that_is_not_there_is_explained_by_its_manifest() -> Result<()> {
    let bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: typo}\nspec:\n  containers:\n  - {name: a, image: busybox, comand: [x]}\n";
    let mut agent = Agent::run(&[("bad.yaml", bad)])?;
    for (name, words) in
        [("typo", &["bad.yaml", "comand", "command"][..]), ("nobody", &["\"nobody\" not found", "bad.yaml"][..])]
    {
        let output = agent.cli(&["explain", name])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && words.iter().all(|word| said.contains(word)), "{name}: {said}");
    }
    agent.interrupt(Duration::from_secs(30))
}

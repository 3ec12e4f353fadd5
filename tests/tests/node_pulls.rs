//! Images that pods pull from a real registry: refusals, back-off, credentials that come later, and a pull that hangs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff_seconds::seconds_between;
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::pod_network::Netns;
use tests::registry::{Layer, Registry, can_run, serve};

const SOON: Duration = Duration::from_secs(120);
const OPEN: &str = "127.0.0.1:5000";
const CLOSED: &str = "127.0.0.1:5001";
const HANGING: &str = "127.0.0.1:5002";

/// Time stamps as the agent prints them, far enough for differences within a day.
mod jiff_seconds {
    pub(super) fn seconds_between(first: &str, last: &str) -> Option<i64> {
        let day = |stamp: &str| -> Option<i64> {
            let time = stamp.split_once('T')?.1;
            let mut parts = time.trim_end_matches('Z').split(':');
            let (hours, minutes): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let seconds: f64 = parts.next()?.parse().ok()?;
            Some(hours * 3_600 + minutes * 60 + seconds as i64)
        };
        Some((day(last)? - day(first)?).rem_euclid(86_400))
    }
}

fn pod(name: &str, image: &str, policy: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         imagePullSecrets: [{{name: reg}}]\n  containers:\n  - {{name: main, image: '{image}', imagePullPolicy: {policy}}}\n"
    )
}

fn secret(password: &str) -> String {
    let auth = STANDARD.encode(format!("ann:{password}"));
    let config = STANDARD.encode(json!({"auths": {CLOSED: {"auth": auth}}}).to_string());
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: reg}}\ntype: kubernetes.io/dockerconfigjson\ndata: {{.dockerconfigjson: {config}}}\n"
    )
}

/// The reason and message with which the container waits.
fn waits(pod: &Value) -> (String, String) {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let text = |field: &str| waiting[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

fn event(agent: &mut Agent, pod: &str, reason: &str, message: &str) -> Result<String> {
    let about = format!("pod/default/{pod} ");
    agent.wait(&format!("event {reason} {message:?} of {pod}"), SOON, |agent| {
        let events = agent.print(&["events"])?;
        let found =
            events.lines().find(|line| line.contains(&about) && line.contains(reason) && line.contains(message));
        Ok(found.map(str::to_owned))
    })
}

#[test]
fn pulls_fail_wait_and_succeed_as_the_kubelets_do() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut agent = Agent::run(&[("secret.yaml", &secret("wrong"))])?;
    let netns = Netns::named(&agent.place().name)?;
    let storage = agent.place().path("registry");
    let open = Registry::start(&netns, OPEN, &storage, &json!({}))?;
    open.push_image("app", Some("1"), arch(), &[Layer::gzip("a", b"content")])?;
    let passwords = agent.place().path("htpasswd");
    std::fs::write(
        &passwords,
        std::process::Command::new("htpasswd").args(["-nbB", "ann", "hunter2"]).output()?.stdout,
    )?;
    let auth = json!({"auth": {"htpasswd": {"realm": "test", "path": passwords}}});
    let _closed = Registry::start(&netns, CLOSED, &storage, &auth)?;

    agent.write("private.yaml", &pod("private", &format!("{CLOSED}/app:1"), "IfNotPresent"))?;
    agent.write("absent.yaml", &pod("absent", &format!("{OPEN}/app:none"), "IfNotPresent"))?;
    let image = format!("{CLOSED}/app:1");
    event(&mut agent, "private", "Failed", &format!("Failed to pull image \"{image}\": "))?;
    let (_, message) = waits(&agent.wait_for_pod("private", SOON, |pod| waits(pod).0 == "ImagePullBackOff")?);
    let backoff = format!("Back-off pulling image \"{image}\": ErrImagePull: ");
    ensure!(message.starts_with(&backoff) && message.contains("refused access"), "{message}");
    event(&mut agent, "private", "BackOff", &format!("Back-off pulling image \"{image}\""))?;
    event(&mut agent, "private", "Failed", "Error: ErrImagePull")?;
    event(&mut agent, "private", "Failed", "Error: ImagePullBackOff")?;
    ensure!(!agent.print(&["events"])?.contains("wrong"), "a password in an event");

    // Three tries take the delays of 10 s and 20 s at least.
    let told = agent.wait("a third try", SOON, |agent| {
        let told: Value = serde_json::from_str(&agent.print(&["explain", "absent", "-o", "json"])?)?;
        let steps = told["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.into_iter().find(|step| step["work"] == "image" && step["times"].as_u64() >= Some(3)))
    })?;
    let stamp = |field: &str| told[field].as_str().unwrap_or_default();
    let passed = seconds_between(stamp("first"), stamp("began")).context("two times")?;
    ensure!(passed >= 29, "three tries within {passed} s: {told:#}");
    ensure!(
        told["outcome"]["failed"]["message"].as_str().is_some_and(|text| text.contains("does not exist")),
        "{told:#}"
    );

    // Better credentials are used at once, whatever the delay was.
    agent.write("secret.yaml", &secret("hunter2"))?;
    event(&mut agent, "private", "Pulled", &format!("Successfully pulled image \"{image}\" in "))?;

    // What is here is not asked for again, unless the policy says so.
    let open_image = format!("{OPEN}/app:1");
    agent.write("first.yaml", &pod("first", &open_image, "IfNotPresent"))?;
    event(&mut agent, "first", "Pulled", "Successfully pulled image")?;
    agent.write("second.yaml", &pod("second", &open_image, "IfNotPresent"))?;
    event(&mut agent, "second", "Pulled", "already present on machine and can be accessed by the pod")?;
    agent.write("third.yaml", &pod("third", &open_image, "Always"))?;
    event(&mut agent, "third", "Pulled", "Successfully pulled image")?;
    agent.write("fourth.yaml", &pod("fourth", &open_image, "Never"))?;
    event(&mut agent, "fourth", "Pulled", "already present on machine and can be accessed by the pod")?;
    agent.interrupt(Duration::from_secs(60))
}

#[test]
fn a_pull_that_hangs_is_told_and_ends_with_its_pod() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut agent = Agent::run(&[])?;
    serve(&Netns::named(&agent.place().name)?, HANGING, |_| {
        loop {
            std::thread::park();
        }
    })?;
    agent.write("hangs.yaml", &pod("hangs", &format!("{HANGING}/app:1"), "IfNotPresent"))?;
    agent.wait("the pull in what explain says", SOON, |agent| {
        let Ok(text) = agent.print(&["explain", "hangs"]) else { return Ok(None) };
        let told = text.contains("image pull of") && text.contains("in progress since");
        Ok(told.then_some(()))
    })?;
    agent.remove("hangs.yaml")?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pods()?.is_empty().then_some(())))?;
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// This machine, as images name it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! A node that runs short of memory or disk: what is collected, which pod goes, which is not taken, and that it ends. The
//! thresholds are of the tests' own pods and of a small file system, so that nothing else on the machine matters.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tests::agent::Agent;
use tests::pod_network::Netns;
use tests::registry::{Layer, Registry, can_run, noise};

const SOON: Duration = Duration::from_secs(120);
const REGISTRY: &str = "127.0.0.1:5000";
const STAYS: &str = "sleep 1000000";

/// A pod that runs `script`, with an emptyDir at `/data`; `spec` and `requests` are YAML in flow form.
fn pod(name: &str, script: &str, medium: &str, spec: &str, requests: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  {spec}\n  \
         volumes: [{{name: data, emptyDir: {{medium: {medium:?}}}}}]\n  containers:\n  - name: main\n    image: busybox\n    \
         command: [sh, -c, {script:?}]\n    resources: {{requests: {{{requests}}}}}\n    \
         volumeMounts: [{{name: data, mountPath: /data}}]\n"
    )
}

/// Writes so many MiB and goes on.
fn fills(mebibytes: u32) -> String {
    format!("head -c {} /dev/zero > /data/fill; echo full; sleep 1000000", mebibytes << 20)
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn failed(pod: &Value) -> bool {
    pod["status"]["phase"] == "Failed"
}

fn message(pod: &Value) -> &str {
    pod["status"]["message"].as_str().unwrap_or_default()
}

/// Waits for events that hold these texts.
fn told(agent: &mut Agent, texts: &[&str]) -> Result<()> {
    for text in texts {
        agent.wait(&format!("event {text:?}"), SOON, |agent| {
            Ok(agent.print(&["events"])?.contains(text).then_some(()))
        })?;
    }
    Ok(())
}

/// The pod was evicted for want of `resource`, and says so everywhere.
fn was_evicted(agent: &mut Agent, name: &str, resource: &str) -> Result<()> {
    let pod = agent.wait_for_pod(name, SOON, failed)?;
    ensure!(pod["status"]["reason"] == "Evicted", "{pod}");
    let low = format!("The node was low on resource: {resource}. Threshold quantity: ");
    ensure!(message(&pod).starts_with(&low) && message(&pod).contains(", available: "), "{}", message(&pod));
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let disrupted = conditions.iter().find(|one| one["type"] == "DisruptionTarget").context("DisruptionTarget")?;
    ensure!(disrupted["reason"] == "TerminationByKubelet" && disrupted["message"] == pod["status"]["message"]);
    told(agent, &[&low])
}

#[test]
fn too_little_memory_costs_one_pod_at_a_time_and_new_ones_wait_until_it_is_over() -> Result<()> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total: u64 = text.split_whitespace().nth(1).context("MemTotal")?.parse()?;
    // Below this the test's own pods use more than 60 MiB.
    let hard = format!("--eviction-hard=allocatableMemory.available<{}", (total << 10) - (60 << 20));
    let greedy = pod("greedy", &fills(100), "Memory", "priority: 10", "");
    let modest = pod("modest", STAYS, "", "", "memory: 40Mi");
    let mut agent = Agent::run_with(
        &[&hard, "--eviction-pressure-transition-period=1s"],
        &[("greedy.yaml", &greedy), ("modest.yaml", &modest)],
    )?;
    was_evicted(&mut agent, "greedy", "memory")?;
    let evicted = agent.pod("greedy")?.context("the evicted pod")?;
    let said = message(&evicted);
    ensure!(
        said.contains("Container main was using ") && said.ends_with("has larger consumption of memory. "),
        "{said}"
    );
    told(&mut agent, &["Attempting to reclaim memory", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"])?;
    ensure!(runs(&agent.pod("modest")?.context("modest")?), "it used less than it had asked for");

    // A critical pod stays whatever it uses, so the others go.
    agent.write("vital.yaml", &pod("vital", &fills(100), "Memory", "priority: 2000000000", ""))?;
    was_evicted(&mut agent, "modest", "memory")?;
    agent.write("late.yaml", &pod("late", STAYS, "", "", ""))?;
    let late = agent.wait_for_pod("late", SOON, failed)?;
    ensure!(late["status"]["reason"] == "Evicted", "{late}");
    ensure!(message(&late) == "Pod was rejected: The node had condition: [MemoryPressure]. ", "{}", message(&late));
    ensure!(runs(&agent.pod("vital")?.context("vital")?));
    agent.remove("vital.yaml")?;
    agent.wait_for_pod("late", SOON, runs)?;
    agent.interrupt(SOON)?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

#[test]
fn too_little_disk_costs_what_nobody_uses_before_it_costs_a_pod() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut agent = Agent::prepared(&[])?;
    let root = agent.place().path("root");
    std::fs::create_dir(&root)?;
    // Taken away with the place.
    mount(Some("tmpfs"), &root, Some("tmpfs"), MsFlags::empty(), Some("size=128m"))?;
    agent.start()?;
    let netns = Netns::named(&agent.place().name)?;
    let registry = Registry::start(&netns, REGISTRY, &agent.place().path("registry"), &json!({}))?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (name, size) in [("unused", 20 << 20), ("used", 1 << 20)] {
        registry.push_image(name, Some("1"), arch, &[Layer::plain(name, &noise(size))])?;
    }
    let (unused, used) = (format!("{REGISTRY}/unused:1"), format!("{REGISTRY}/used:1"));
    agent.print(&["pull", &unused])?;
    agent.kill()?;
    let short = "--eviction-pressure-transition-period=1s";
    agent.set_flags(&["--eviction-hard=nodefs.available<60Mi", short, "--minimum-image-ttl-duration=1ms"]);
    agent.start()?;
    let image = format!("{{name: image, image: {{reference: '{used}'}}}}");
    let reader = pod("reader", STAYS, "", "", "")
        .replace("volumes: [", &format!("volumes: [{image}, "))
        .replace("volumeMounts: [", "volumeMounts: [{name: image, mountPath: /image}, ");
    agent.write("reader.yaml", &reader)?;
    agent.wait_for_pod("reader", SOON, runs)?;
    let over = "head -c 10485760 /dev/zero > /fill; echo done";
    agent.write("over.yaml", &pod("over", over, "", "restartPolicy: Never", ""))?;
    agent.wait_for_pod("over", SOON, |pod| pod["status"]["phase"] == "Succeeded")?;
    let images = agent.print(&["images"])?;
    ensure!(images.contains(&unused) && images.contains(&used), "{images}");

    agent.write("writer.yaml", &pod("writer", &fills(40), "", "", "ephemeral-storage: 60Mi"))?;
    agent.wait("end of the unused image", SOON, |agent| {
        Ok((!agent.print(&["images"])?.contains(&unused)).then_some(()))
    })?;
    told(&mut agent, &["NodeHasDiskPressure", "Attempting to reclaim ephemeral-storage", "NodeHasNoDiskPressure"])?;
    let images = agent.print(&["images"])?;
    ensure!(images.contains(&used), "a pod has it as a volume: {images}");
    ensure!(images.contains("busybox"), "it was imported by hand: {images}");
    let over = agent.pod("over")?.context("the pod that has ended")?;
    ensure!(over["status"]["phase"] == "Succeeded", "{over}");
    ensure!(over["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0, "{over}");
    ensure!(agent.print(&["logs", "over"])?.contains("done"));
    ensure!(runs(&agent.pod("writer")?.context("writer")?), "enough was free without it");
    ensure!(!agent.print(&["events"])?.contains("Evicted"));

    agent.write("greedy.yaml", &pod("greedy", &fills(44), "", "", ""))?;
    was_evicted(&mut agent, "greedy", "ephemeral-storage")?;
    for name in ["writer", "reader"] {
        ensure!(runs(&agent.pod(name)?.context("a pod")?), "{name} stays");
    }

    // Without any eviction, full disks alone cost images.
    agent.print(&["pull", &unused])?;
    agent.kill()?;
    agent.set_flags(&["--image-gc-high-threshold=1", "--image-gc-low-threshold=0", "--minimum-image-ttl-duration=1ms"]);
    agent.start()?;
    agent.wait("end of the unused image", SOON, |agent| {
        Ok((!agent.print(&["images"])?.contains(&unused)).then_some(()))
    })?;
    told(&mut agent, &["FreeDiskSpaceFailed", "Insufficient free disk space on the node's image filesystem ("])?;
    ensure!(agent.print(&["images"])?.contains(&used));
    agent.interrupt(SOON)?;
    Ok(())
}

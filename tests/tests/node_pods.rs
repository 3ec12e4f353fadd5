//! The pod core with real containers: edits in place, ephemeral containers, restart rules, sidecars, deadlines, kills.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(60);
const STAYS: &str = "image: busybox, command: [sleep, '1000000']";

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}")
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

fn runs(pod: &Value, container: &str) -> bool {
    status(pod, container)["state"]["running"].is_object()
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(SOON)?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// Memory limits of the agent's cgroups that hold a pod or a container.
fn memory_limits(agent: &Agent) -> Vec<u64> {
    let root = agent.place().cgroup();
    let tops = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let mut found = Vec::new();
    for top in tops {
        below(&Path::new(top).join(root.trim_start_matches('/')), &mut found);
    }
    found
}

fn below(dir: &Path, found: &mut Vec<u64>) {
    for file in ["memory.limit_in_bytes", "memory.max"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        found.extend(text.trim().parse::<u64>());
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        below(&entry.path(), found);
    }
}

fn count(agent: &Agent, mebibytes: u64) -> usize {
    memory_limits(agent).into_iter().filter(|limit| *limit == mebibytes << 20).count()
}

#[test]
fn a_resize_reaches_the_cgroups_of_a_running_container() -> Result<()> {
    let sized = |memory: &str| {
        let limits = format!("{{limits: {{memory: {memory}, cpu: 500m}}}}");
        pod("web", &format!("  containers:\n  - {{name: c, {STAYS}, resources: {limits}}}\n"))
    };
    let mut agent = Agent::run(&[("a.yaml", &sized("64Mi"))])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c"))?;
    ensure!(count(&agent, 64) == 2, "{:?}", memory_limits(&agent));
    for (memory, mebibytes) in [("128Mi", 128), ("96Mi", 96)] {
        agent.write("a.yaml", &sized(memory))?;
        let after = agent.wait_for_pod("web", SOON, |pod| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let resizing =
                conditions.filter(|c| c["type"].as_str().unwrap_or_default().starts_with("PodResize")).count();
            resizing == 0 && status(pod, "c")["resources"]["limits"]["memory"] == memory
        })?;
        ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "it was replaced");
        ensure!(status(&after, "c")["containerID"] == status(&before, "c")["containerID"], "it was restarted");
        ensure!(count(&agent, mebibytes) == 2, "{memory}: {:?}", memory_limits(&agent));
    }
    let events = agent.print(&["events"])?;
    ensure!(events.contains("ResizeStarted") && events.contains("ResizeCompleted"), "{events}");
    ends_clean(agent)
}

#[test]
fn a_resize_restarts_a_container_whose_policy_says_so() -> Result<()> {
    let sized = |memory: &str| {
        let more = format!(
            "resources: {{limits: {{memory: {memory}}}}}, resizePolicy: [{{resourceName: memory, restartPolicy: RestartContainer}}]"
        );
        pod("web", &format!("  containers:\n  - {{name: c, {STAYS}, {more}}}\n  - {{name: d, {STAYS}}}\n"))
    };
    let mut agent = Agent::run(&[("a.yaml", &sized("64Mi"))])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c") && runs(pod, "d"))?;
    agent.write("a.yaml", &sized("80Mi"))?;
    let after = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c") && status(pod, "c")["restartCount"] == 1)?;
    ensure!(status(&after, "d")["containerID"] == status(&before, "d")["containerID"], "d was restarted too");
    ensure!(count(&agent, 80) == 1, "{:?}", memory_limits(&agent));
    ends_clean(agent)
}

#[test]
fn another_image_restarts_its_container_only() -> Result<()> {
    let with = |image: &str| {
        pod(
            "web",
            &format!(
                "  containers:\n  - {{name: c, image: '{image}', command: [sleep, '1000000']}}\n  - {{name: d, {STAYS}}}\n"
            ),
        )
    };
    let mut agent = Agent::run(&[("a.yaml", &with("busybox"))])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c") && runs(pod, "d"))?;
    agent.write("a.yaml", &with("busybox:latest"))?;
    let after = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c") && status(pod, "c")["restartCount"] == 1)?;
    ensure!(
        after["metadata"]["uid"] == before["metadata"]["uid"] && after["status"]["podIP"] == before["status"]["podIP"]
    );
    ensure!(status(&after, "d")["containerID"] == status(&before, "d")["containerID"], "d was restarted too");
    ends_clean(agent)
}

#[test]
fn an_ephemeral_container_sees_its_target_and_is_never_restarted() -> Result<()> {
    let plain = pod("web", &format!("  containers:\n  - {{name: c, {STAYS}}}\n"));
    let looks = "image: busybox, targetContainerName: c, command: [sh, -c, 'cat /proc/1/cmdline > /dev/termination-log; exit 3']";
    let mut agent = Agent::run(&[("a.yaml", &plain)])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c"))?;
    agent.write("a.yaml", &format!("{plain}  ephemeralContainers:\n  - {{name: e, {looks}}}\n"))?;
    let after = agent.wait_for_pod("web", SOON, |pod| status(pod, "e")["state"]["terminated"].is_object())?;
    let end = &status(&after, "e")["state"]["terminated"];
    ensure!(end["exitCode"] == 3 && end["message"].as_str().unwrap_or_default().contains("1000000"), "{end}");
    ensure!(status(&after, "c")["containerID"] == status(&before, "c")["containerID"], "the pod was restarted");
    ensure!(after["status"]["phase"] == "Running" && status(&after, "e")["restartCount"] == 0, "{after}");
    ends_clean(agent)
}

#[test]
fn one_exit_code_restarts_all_containers_in_the_same_sandbox() -> Result<()> {
    let once = "if [ -e /v/once ]; then exec sleep 1000000; fi; touch /v/once; sleep 1; exit 42";
    let rule = "[{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]";
    let spec = format!(
        "  restartPolicy: Never\n  volumes: [{{name: v}}]\n  initContainers:\n  - {{name: i, image: busybox, command: ['true']}}\n  containers:\n  - \
         {{name: a, image: busybox, restartPolicy: Never, restartPolicyRules: {rule}, volumeMounts: [{{name: v, mountPath: /v}}], command: [sh, -c, '{once}']}}\n  - \
         {{name: b, {STAYS}}}\n"
    );
    let mut agent = Agent::run(&[("a.yaml", &pod("web", &spec))])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "b"))?;
    let after = agent
        .wait_for_pod("web", SOON, |pod| runs(pod, "a") && runs(pod, "b") && status(pod, "b")["restartCount"] == 1)?;
    ensure!(status(&after, "a")["restartCount"] == 1 && status(&after, "i")["restartCount"] == 1, "{after}");
    ensure!(after["status"]["podIP"] == before["status"]["podIP"], "the sandbox was made again");
    ends_clean(agent)
}

#[test]
fn limits_of_the_whole_pod_hold_for_its_containers() -> Result<()> {
    let spec =
        format!("  resources: {{limits: {{memory: 48Mi, cpu: 500m}}}}\n  containers:\n  - {{name: c, {STAYS}}}\n");
    let mut agent = Agent::run(&[("a.yaml", &pod("web", &spec))])?;
    let web = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c"))?;
    ensure!(count(&agent, 48) == 2, "{:?}", memory_limits(&agent));
    ensure!(web["status"]["qosClass"] == "Guaranteed", "{}", web["status"]["qosClass"]);
    ensure!(web["status"]["allocatedResources"]["memory"] == "48Mi", "{}", web["status"]);
    ends_clean(agent)
}

#[test]
fn sidecars_stop_in_reverse_order_after_the_others() -> Result<()> {
    let tells = |name: &str| format!("trap \"echo {name} >> /o/order; exit 0\" TERM; while true; do sleep 0.1; done");
    let one = |name: &str, more: &str| {
        let mounts = "volumeMounts: [{name: o, mountPath: /o}]";
        format!("  - {{name: {name}, image: busybox, {mounts}, {more} command: [sh, -c, '{}']}}\n", tells(name))
    };
    let side = "restartPolicy: Always,";
    let spec = format!(
        "  volumes: [{{name: o, hostPath: {{path: /tmp/longshore-examples}}}}]\n  initContainers:\n{}{}  containers:\n{}",
        one("first", side),
        one("second", side),
        one("main", "")
    );
    let text = pod("web", &spec).replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 60");
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    agent.wait_for_pod("web", SOON, |pod| ["first", "second", "main"].iter().all(|name| runs(pod, name)))?;
    // Each shell has set its trap once its loop's first child runs.
    std::thread::sleep(Duration::from_secs(1));
    agent.remove("a.yaml")?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pods()?.is_empty().then_some(())))?;
    let order = std::fs::read_to_string(agent.place().path("host/order"))?;
    ensure!(order == "main\nsecond\nfirst\n", "{order}");
    ends_clean(agent)
}

#[test]
fn a_deadline_that_is_shortened_ends_the_pod_that_runs() -> Result<()> {
    let until = |seconds: u32| {
        pod("web", &format!("  activeDeadlineSeconds: {seconds}\n  containers:\n  - {{name: c, {STAYS}}}\n"))
    };
    let mut agent = Agent::run(&[("a.yaml", &until(100_000))])?;
    let before = agent.wait_for_pod("web", SOON, |pod| runs(pod, "c"))?;
    agent.write("a.yaml", &until(1))?;
    let after = agent.wait_for_pod("web", SOON, |pod| pod["status"]["phase"] == "Failed")?;
    ensure!(after["status"]["reason"] == "DeadlineExceeded", "{}", after["status"]);
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"]);
    ends_clean(agent)
}

#[test]
fn a_back_off_and_a_count_of_restarts_outlive_the_agent() -> Result<()> {
    let text = pod("web", "  containers:\n  - {name: c, image: busybox, command: ['false']}\n");
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    let waits = |pod: &Value| status(pod, "c")["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let mut before = agent.wait_for_pod("web", SOON, waits)?;
    for _ in 0..3 {
        agent.kill()?;
        agent.start()?;
        let after = agent.wait_for_pod("web", SOON, |pod| status(pod, "c")["state"].is_object())?;
        let restarts = |pod: &Value| status(pod, "c")["restartCount"].as_i64();
        ensure!(restarts(&after) >= restarts(&before), "{before}\n{after}");
        before = agent.wait_for_pod("web", SOON, waits)?;
    }
    let after = agent.wait_for_pod("web", SOON, |pod| waits(pod) && status(pod, "c")["restartCount"] == 2)?;
    let message = status(&after, "c")["state"]["waiting"]["message"].as_str().unwrap_or_default();
    ensure!(message.starts_with("back-off 20s"), "the delay began anew: {message}");
    ends_clean(agent)
}

#[test]
fn a_grace_period_goes_on_where_the_agent_was_killed() -> Result<()> {
    let stubborn = "  containers:\n  - {name: c, image: busybox, command: [sh, -c, 'trap : TERM; while true; do sleep 0.1; done']}\n";
    let text = pod("web", stubborn).replace("GracePeriodSeconds: 1", "GracePeriodSeconds: 6");
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    agent.wait_for_pod("web", SOON, |pod| runs(pod, "c"))?;
    let asked = Instant::now();
    agent.remove("a.yaml")?;
    agent.wait("the pod on its way out", SOON, |agent| {
        Ok(agent.print(&["ps"])?.contains("Terminating").then_some(()))
    })?;
    agent.kill()?;
    agent.start()?;
    agent.wait("the pod's end", SOON, |agent| Ok(agent.pods()?.is_empty().then_some(())))?;
    ensure!(asked.elapsed() >= Duration::from_secs(5), "killed after {:?} of six seconds", asked.elapsed());
    let _ = agent.pod("web").context("the agent answers")?;
    ends_clean(agent)
}

//! Kills of the agent at any moment, and the ways in which a pod's end is made shorter, with real containers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(120);
const KILLS: usize = 8;
/// More than one run of the agent lives to see, so that only a count that goes on reaches it.
const FAILURES: usize = 30;
const INITS: usize = 12;
const SEED: u64 = 0x1005_e5a1;

fn pod(name: &str, grace: u32, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: {grace}\n  \
         volumes: [{{name: o, hostPath: {{path: /tmp/longshore-examples}}}}]\n{spec}"
    )
}

fn container(name: &str, script: &str, more: &str) -> String {
    let mounts = "volumeMounts: [{name: o, mountPath: /o}]";
    format!("  - {{name: {name}, image: busybox, {mounts}, command: [sh, -c, \"{script}\"]{more}}}\n")
}

fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

fn runs(pod: &Value, container: &str) -> bool {
    status(pod, container)["state"]["running"].is_object()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

/// The lines that containers wrote into a file of the folder they share with the test.
fn lines(agent: &Agent, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(agent.place().path("host").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(SOON)?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// The same moments in each run of the test (xorshift).
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        below * u32::try_from(self.0 % 1_000).unwrap_or(0) / 1_000
    }
}

fn with_inits() -> String {
    let init =
        |n| container(&format!("i{n}"), &format!("echo begin {n} >> /o/inits; sleep 2; echo end {n} >> /o/inits"), "");
    let inits: String = (1..=INITS).map(init).collect();
    let main = container("c", "echo main >> /o/inits; exec sleep 1000000", "");
    pod("inits", 1, &format!("  initContainers:\n{inits}  containers:\n{main}"))
}

fn with_failing_probe() -> String {
    let probe = format!(
        ", livenessProbe: {{exec: {{command: [sh, -c, 'echo probe >> /o/probes; exit 1']}}, periodSeconds: 1, \
         timeoutSeconds: 30, failureThreshold: {FAILURES}}}"
    );
    let script = "trap 'exit 0' TERM; echo start >> /o/probes; while true; do sleep 0.2; done";
    pod("alive", 5, &format!("  containers:\n{}", container("c", script, &probe)))
}

fn with_readiness() -> String {
    let probe =
        ", readinessProbe: {exec: {command: ['true']}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 5}";
    pod("ready", 1, &format!("  containers:\n{}", container("c", "exec sleep 1000000", probe)))
}

/// An attempt under way at a kill has left its line and was not counted: one for each kill at most.
fn right_number_of_probes(agent: &Agent) -> Result<()> {
    let told = lines(agent, "probes");
    let first = told.iter().skip(1).take_while(|line| *line == "probe").count();
    ensure!((FAILURES..=FAILURES + KILLS).contains(&first), "{first} probes before the kill, {KILLS} kills: {told:?}");
    Ok(())
}

#[test]
fn kills_of_the_agent_repeat_no_init_container_restart_nothing_and_lose_no_count() -> Result<()> {
    let mut agent =
        Agent::run(&[("i.yaml", &with_inits()), ("a.yaml", &with_failing_probe()), ("r.yaml", &with_readiness())])?;
    let ready = agent.wait_for_pod("ready", SOON, |pod| condition(pod, "Ready")["status"] == "True")?;
    let alive = agent.wait_for_pod("alive", SOON, |pod| runs(pod, "c"))?;
    let mut moments = Moments(SEED);
    for round in 1..=KILLS {
        let before = lines(&agent, "probes").len();
        agent.wait("two more probes", SOON, |agent| Ok((lines(agent, "probes").len() >= before + 2).then_some(())))?;
        std::thread::sleep(moments.next(Duration::from_millis(1_500)));
        agent.kill()?;
        agent.start()?;
        let now = agent.wait_for_pod("ready", SOON, |_| true)?;
        ensure!(condition(&now, "Ready") == condition(&ready, "Ready"), "kill {round}: {:#}", now["status"]);
    }
    let held = agent.pod("alive")?.context("the probed pod")?;
    let restarted = status(&held, "c")["restartCount"] != 0;
    ensure!(
        restarted || status(&held, "c")["containerID"] == status(&alive, "c")["containerID"],
        "a kill of the agent replaced the container: {held:#}"
    );
    agent.wait_for_pod("alive", SOON, |pod| runs(pod, "c") && status(pod, "c")["restartCount"] == 1)?;
    right_number_of_probes(&agent)?;

    let inits = agent.wait_for_pod("inits", SOON, |pod| runs(pod, "c"))?;
    agent.wait("the main container's line", SOON, |agent| {
        Ok(lines(agent, "inits").iter().any(|line| line == "main").then_some(()))
    })?;
    let each = (1..=INITS).flat_map(|n| [format!("begin {n}"), format!("end {n}")]);
    let wanted: Vec<_> = each.chain(["main".to_owned()]).collect();
    ensure!(lines(&agent, "inits") == wanted, "{:?}", lines(&agent, "inits"));
    ensure!((1..=INITS).all(|n| status(&inits, &format!("i{n}"))["restartCount"] == 0), "{inits:#}");
    let now = agent.wait_for_pod("ready", SOON, |_| true)?;
    ensure!(status(&now, "c")["containerID"] == status(&ready, "c")["containerID"], "it was restarted: {now:#}");
    ensure!(condition(&now, "Ready") == condition(&ready, "Ready"), "{:#}", now["status"]);
    ends_clean(agent)
}

#[test]
fn a_pod_with_a_readiness_gate_is_not_ready_and_says_so() -> Result<()> {
    let gate = "  readinessGates: [{conditionType: example.com/ok}]\n  containers:\n";
    let gated = pod("gated", 1, &format!("{gate}{}", container("c", "exec sleep 1000000", "")));
    let mut agent = Agent::run(&[("a.yaml", &gated)])?;
    for _ in 0..2 {
        let pod = agent.wait_for_pod("gated", SOON, |pod| condition(pod, "ContainersReady")["status"] == "True")?;
        let ready = condition(&pod, "Ready");
        ensure!(ready["status"] == "False" && ready["reason"] == "ReadinessGatesNotReady", "{ready:#}");
        ensure!(ready["message"].as_str().unwrap_or_default().contains("\"example.com/ok\""), "{ready:#}");
        ensure!(status(&pod, "c")["ready"] == true, "{pod:#}");
        let told = agent.print(&["explain", "gated"])?;
        ensure!(told.contains("example.com/ok"), "{told}");
        agent.kill()?;
        agent.start()?;
    }
    ends_clean(agent)
}

/// Nothing here waits so long: a period that was not shortened is found out by the test's own bounds.
const HOUR: u32 = 3_600;

fn stubborn(name: &str) -> String {
    let script = format!("trap '' TERM; echo deaf >> /o/{name}; while true; do sleep 1; done");
    pod(name, HOUR, &format!("  containers:\n{}", container("c", &script, "")))
}

#[test]
fn a_second_stop_shortens_the_first_one() -> Result<()> {
    let mut agent = Agent::run(&[("a.yaml", &stubborn("twice")), ("b.yaml", &stubborn("force"))])?;
    for name in ["twice", "force"] {
        agent.wait("a deaf container", SOON, |agent| Ok((lines(agent, name) == ["deaf"]).then_some(())))?;
    }
    let mut first = agent.begin(&["stop", "twice"])?;
    let stopping = |agent: &Agent| Ok(agent.print(&["events"])?.contains("Stopping container c").then_some(()));
    agent.wait("the first stop", SOON, stopping)?;
    // The deadline that is shortened is one that a former run of the agent set.
    agent.kill()?;
    first.wait()?;
    agent.start()?;
    let mut again = agent.begin(&["stop", "twice"])?;
    let asked = Instant::now();
    ensure!(agent.print(&["stop", "--grace-period", "5", "twice"])? == "stopped 1 pod\n");
    ensure!(asked.elapsed() >= Duration::from_secs(4), "killed after {:?} of 5 s", asked.elapsed());
    ensure!(agent.pod("twice")?.is_none(), "it is there yet");
    agent.wait("the longer stop's answer", SOON, |_| Ok(again.try_wait()?))?;
    ensure!(agent.print(&["stop", "--grace-period=0", "force"])? == "stopped 1 pod\n");
    ensure!(agent.pods()?.is_empty(), "{:#?}", agent.pods()?);
    let refused = agent.cli(&["stop", "--grace-period", "5"])?;
    ensure!(!refused.status.success(), "a grace period without a pod");
    ends_clean(agent)
}

#[test]
fn a_failed_probe_gives_its_own_grace_period() -> Result<()> {
    let probe = |grace: u32| {
        format!(
            ", livenessProbe: {{exec: {{command: [sh, -c, '[ ! -e /armed ]']}}, periodSeconds: 1, timeoutSeconds: 30, \
             failureThreshold: 1, terminationGracePeriodSeconds: {grace}}}"
        )
    };
    let deaf = "trap '' TERM; touch /armed; while true; do sleep 1; done";
    // Longer than the pod's grace period and the least that the runtime gives.
    let slow = "trap 'sleep 6; exit 7' TERM; touch /armed; while true; do sleep 0.2; done";
    let shorter = pod("shorter", HOUR, &format!("  containers:\n{}", container("c", deaf, &probe(2))));
    let longer = pod("longer", 1, &format!("  containers:\n{}", container("c", slow, &probe(HOUR))));
    let mut agent = Agent::run(&[("a.yaml", &shorter), ("b.yaml", &longer)])?;
    for (name, code) in [("shorter", 137), ("longer", 7)] {
        let pod = agent.wait_for_pod(name, SOON, |pod| status(pod, "c")["restartCount"].as_u64() >= Some(1))?;
        let last = &status(&pod, "c")["lastState"]["terminated"];
        ensure!(last["exitCode"] == code, "{name}: {last:#}");
    }
    agent.print(&["stop", "--grace-period=0", "shorter", "longer"])?;
    ends_clean(agent)
}

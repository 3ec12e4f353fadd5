//! Pods that cannot run here, all at once, beside one that can: each says why, everywhere, and holds up nobody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(120);

/// What is wrong with a pod, and how it says so.
struct Bad {
    name: &'static str,
    /// Everything below `spec:`, indented by two.
    spec: &'static str,
    /// The reason in the status: the pod's for a refused one, else the first container's. One of these.
    reasons: &'static [&'static str],
    /// What its message says; empty where the event alone has one.
    message: &'static str,
    /// Reason and message of an event.
    event: (&'static str, &'static str),
    /// It is tried again.
    again: bool,
}

const BAD: &[Bad] = &[
    Bad {
        name: "no-image",
        spec: "containers: [{name: main, image: 'example.invalid/none:1', imagePullPolicy: Never}]",
        reasons: &["ErrImageNeverPull"],
        message: "Container image \"example.invalid/none:1\" is not present with pull policy of Never",
        event: (
            "ErrImageNeverPull",
            "Container image \"example.invalid/none:1\" is not present with pull policy of Never",
        ),
        again: true,
    },
    Bad {
        name: "no-registry",
        spec: "containers: [{name: main, image: '127.0.0.1:1/none:1'}]",
        reasons: &["ErrImagePull", "ImagePullBackOff"],
        message: "127.0.0.1:1",
        event: ("Failed", "Failed to pull image \"127.0.0.1:1/none:1\": "),
        again: true,
    },
    Bad {
        name: "no-key",
        spec: "containers: [{name: main, image: busybox, env: [{name: A, valueFrom: {configMapKeyRef: {name: nowhere, key: k}}}]}]",
        reasons: &["CreateContainerConfigError"],
        message: "configmap \"nowhere\" not found",
        event: ("Failed", "Error: configmap \"nowhere\" not found"),
        again: true,
    },
    Bad {
        name: "no-secret",
        spec: "containers: [{name: main, image: busybox, command: [sleep, '9'], volumeMounts: [{name: v, mountPath: /v}]}]\n  \
               volumes: [{name: v, secret: {secretName: nowhere}}]",
        reasons: &["ContainerCreating"],
        message: "",
        event: ("FailedMount", "nowhere"),
        again: true,
    },
    Bad {
        name: "no-directory",
        spec: "containers: [{name: main, image: busybox, command: [sleep, '9'], volumeMounts: [{name: v, mountPath: /v}]}]\n  \
               volumes: [{name: v, hostPath: {path: /etc/passwd, type: Directory}}]",
        reasons: &["ContainerCreating"],
        message: "",
        event: ("FailedMount", "hostPath type check failed: /etc/passwd is not a directory"),
        again: true,
    },
    Bad {
        name: "no-program",
        spec: "containers: [{name: main, image: busybox, command: [no-such-program]}]",
        reasons: &["RunContainerError", "CrashLoopBackOff"],
        message: "",
        event: ("Failed", "executable file not found in $PATH"),
        again: true,
    },
    Bad {
        name: "root",
        spec: "containers: [{name: main, image: busybox, command: [sleep, '9'], securityContext: {runAsNonRoot: true, runAsUser: 0}}]",
        reasons: &["CreateContainerConfigError"],
        message: "container's runAsUser breaks non-root policy",
        event: ("Failed", "Error: container's runAsUser breaks non-root policy"),
        again: true,
    },
    Bad {
        name: "cpu",
        spec: "containers: [{name: main, image: busybox, resources: {requests: {cpu: 5000}}}]",
        reasons: &["OutOfcpu"],
        message: "Pod was rejected: Node didn't have enough resource: cpu, requested: 5000000, used: ",
        event: ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 5000000, used: "),
        again: false,
    },
    Bad {
        name: "memory",
        spec: "containers: [{name: main, image: busybox, resources: {requests: {memory: 90Ti}}}]",
        reasons: &["OutOfmemory"],
        message: "Pod was rejected: Node didn't have enough resource: memory, requested: ",
        event: ("OutOfmemory", "Node didn't have enough resource: memory, requested: "),
        again: false,
    },
    Bad {
        name: "elsewhere",
        spec: "nodeSelector: {disk: ssd}\n  containers: [{name: main, image: busybox}]",
        reasons: &["NodeAffinity"],
        message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        event: ("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"),
        again: false,
    },
];

fn good() -> String {
    manifest(
        "good",
        "terminationGracePeriodSeconds: 1\n  containers: [{name: main, image: busybox, command: [sleep, '1000000'], ports: [{containerPort: 80, hostPort: 8099}]}]",
    )
}

fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n")
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

/// Reason and message: of the container that waits, or of the whole pod.
fn why(pod: &Value) -> (String, String) {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let from = if waiting.is_object() { waiting } else { &pod["status"] };
    let text = |field: &str| from[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

impl Bad {
    fn shows(&self, agent: &mut Agent) -> Result<()> {
        let shown = agent.wait_for_pod(self.name, SOON, |pod| {
            let (reason, message) = why(pod);
            self.reasons.contains(&reason.as_str()) && message.contains(self.message)
        })?;
        let (reason, _) = why(&shown);
        ensure!((shown["status"]["phase"] == "Failed") != self.again, "{}: {:#}", self.name, shown["status"]);
        let (event, message) = self.event;
        agent.wait(&format!("event {event} of {}", self.name), SOON, |agent| {
            let events = agent.print(&["events"])?;
            let of_it = format!("pod/default/{}", self.name);
            let told =
                events.lines().any(|line| line.contains(&of_it) && line.contains(event) && line.contains(message));
            Ok(told.then_some(()))
        })?;
        let listed = agent.print(&["ps"])?;
        let row = listed.lines().find(|line| line.starts_with(&format!("default/{} ", self.name))).context("no row")?;
        ensure!(self.reasons.iter().any(|reason| row.contains(reason)), "{reason} is not in {row:?}");
        let told = agent.print(&["explain", self.name])?;
        ensure!(told.contains(event) && told.contains(message), "{} {message:?} is not in:\n{told}", self.name);
        Ok(())
    }
}

#[test]
fn each_says_why_and_the_good_one_runs() -> Result<()> {
    let files: Vec<_> = BAD.iter().map(|bad| (format!("{}.yaml", bad.name), manifest(bad.name, bad.spec))).collect();
    let mut files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let good = good();
    files.push(("good.yaml", &good));
    let mut agent = Agent::run(&files)?;
    agent.wait_for_pod("good", SOON, runs)?;
    for bad in BAD {
        bad.shows(&mut agent)?;
    }
    // Two pods on one port: whichever comes second is refused, and the first goes on.
    let clash = "containers: [{name: main, image: busybox, command: [sleep, '9'], ports: [{containerPort: 81, hostPort: 8099}]}]";
    agent.write("clash.yaml", &manifest("clash", clash))?;
    let (reason, message) = why(&agent.wait_for_pod("clash", SOON, |pod| pod["status"]["phase"] == "Failed")?);
    ensure!(
        reason == "NodePorts" && message.ends_with("node(s) didn't have free ports for the requested pod ports"),
        "{reason}: {message}"
    );
    ensure!(runs(&agent.pod("good")?.context("the good one")?));

    // What was missing comes, and what waited for it runs without waiting for its turn.
    agent.write("nowhere.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nowhere}\ndata: {k: v}\n")?;
    agent.wait_for_pod("no-key", SOON, |pod| why(pod).0 != "CreateContainerConfigError")?;

    // Refused pods stay refused over a restart, and go without a trace.
    agent.kill()?;
    agent.start()?;
    agent.wait_for_pod("cpu", SOON, |pod| why(pod).0 == "OutOfcpu")?;
    agent.remove("cpu.yaml")?;
    agent.wait("the refused pod's end", SOON, |agent| Ok(agent.pod("cpu")?.is_none().then_some(())))?;
    agent.interrupt(Duration::from_secs(120))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

#[test]
fn a_full_node_takes_no_more_pods() -> Result<()> {
    let sleeper =
        "terminationGracePeriodSeconds: 1\n  containers: [{name: main, image: busybox, command: [sleep, '1000000']}]";
    let mut agent = Agent::run_with(
        &["--max-pods=2"],
        &[("a.yaml", &manifest("a", sleeper)), ("b.yaml", &manifest("b", sleeper))],
    )?;
    agent.wait_for_pod("a", SOON, runs)?;
    agent.wait_for_pod("b", SOON, runs)?;
    agent.write("c.yaml", &manifest("c", sleeper))?;
    let (reason, message) = why(&agent.wait_for_pod("c", SOON, |pod| pod["status"]["phase"] == "Failed")?);
    ensure!(reason == "OutOfpods", "{reason}");
    ensure!(
        message == "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
        "{message}"
    );
    // What it lacked is given back, and it needs no help to notice.
    agent.remove("a.yaml")?;
    agent.wait_for_pod("c", SOON, runs)?;
    ensure!(runs(&agent.pod("b")?.context("b")?));
    agent.interrupt(Duration::from_secs(60))
}

//! This build: `longshore run` alone, pods in a running agent, memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use cri_proto::{Client, Deadline, Runtime, v1};
use tests::agent::{Agent, program};

use crate::fifo::{Lines, command};
use crate::memory::{self, Memory};
use crate::{AT_ONCE, IN_A_ROW, Starts, Times};

/// All figures of our side.
pub(crate) struct Ours {
    pub(crate) alone: Times,
    pub(crate) starts: Starts,
    pub(crate) agent: Memory,
    pub(crate) per_pod: u64,
    pub(crate) binary: u64,
    pub(crate) phases: String,
}

pub(crate) fn measure() -> Result<Ours> {
    let alone = alone()?;
    let mut agent = Agent::run(&[])?;
    let lines = Lines::in_folder(&agent.place().path("host/bench"))?;
    let (in_a_row, starts) = in_a_row(&agent, &lines)?;
    let phases = phases(&agent, &starts)?;
    let (memory, per_pod) = memory(&agent)?;
    let at_once = at_once(&agent, &lines)?;
    agent.interrupt(Duration::from_secs(60))?;
    let binary = std::fs::metadata(program("longshore")?)?.len();
    Ok(Ours { alone, starts: Starts { in_a_row, at_once }, agent: memory, per_pod, binary, phases })
}

fn manifest(name: &str) -> String {
    let words: Vec<_> = command(name).iter().map(|word| format!("{word:?}")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    command: [{}]\n    \
         volumeMounts: [{{name: bench, mountPath: /bench}}]\n  volumes:\n  \
         - {{name: bench, hostPath: {{path: /tmp/longshore-examples/bench}}}}\n",
        words.join(", ")
    )
}

/// From the exec of `longshore run` to the container's line: agent, network and pod from nothing, image present.
fn alone() -> Result<Times> {
    let mut agent = Agent::run(&[])?;
    let lines = Lines::in_folder(&agent.place().path("host/bench"))?;
    agent.interrupt(Duration::from_secs(30))?;
    agent.write("pod.yaml", &manifest("alone"))?;
    let mut times = Vec::new();
    for _ in 0..IN_A_ROW {
        let asked = Instant::now();
        agent.start()?;
        times.push(lines.wait("alone")?.duration_since(asked));
        agent.interrupt(Duration::from_secs(30))?;
    }
    Ok(Times::of(times))
}

fn in_a_row(agent: &Agent, lines: &Lines) -> Result<(Times, Vec<Start>)> {
    let (mut times, mut starts) = (Vec::new(), Vec::new());
    for n in 0..IN_A_ROW {
        let name = format!("row-{n}");
        let (begun, asked) = (Instant::now(), now_ns()?);
        agent.write(&format!("{name}.yaml"), &manifest(&name))?;
        let took = lines.wait(&name)?.duration_since(begun);
        times.push(took);
        starts.push(Start { name, asked, line: asked + i64::try_from(took.as_nanos())? });
    }
    Ok((Times::of(times), starts))
}

fn at_once(agent: &Agent, lines: &Lines) -> Result<Duration> {
    let all: Vec<_> = (0..AT_ONCE).map(|n| manifest(&format!("burst-{n}"))).collect();
    let asked = Instant::now();
    agent.write("burst.yaml", &all.join("---\n"))?;
    Ok(lines.wait_for(AT_ONCE)?.duration_since(asked))
}

/// The agent, and the mean of what each of its ten pods costs beside its containers.
fn memory(agent: &Agent) -> Result<(Memory, u64)> {
    let own = memory::of(agent.pid().context("the agent runs")?.as_raw())?;
    let mark = agent.place().dir.path().display().to_string();
    let helpers = memory::pids_named(&["longshore-shim", "shim", "pause", "longshore-pause"], &mark);
    let pauses = memory::pids_named(&["pause", "longshore-pause"], &agent.place().cgroup());
    let mut all: Vec<_> = helpers.into_iter().chain(pauses).collect();
    all.sort_unstable();
    all.dedup();
    let sum: u64 = all.iter().filter_map(|pid| memory::of(*pid).ok()).map(|memory| memory.pss).sum();
    Ok((own, sum / u64::try_from(IN_A_ROW)?))
}

/// When a pod was asked for and when its container's line arrived, nanoseconds since the epoch.
struct Start {
    name: String,
    asked: i64,
    line: i64,
}

fn now_ns() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Median of each part of these starts, by what the runtime noted of the sandbox and the container.
fn phases(agent: &Agent, starts: &[Start]) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sandboxes, containers) = runtime.block_on(noted(agent))?;
    let mut parts = [const { Vec::new() }; 4];
    for start in starts {
        let (Some(sandbox), Some(container)) = (sandboxes.get(&start.name), containers.get(&start.name)) else {
            continue;
        };
        let marks = [start.asked, *sandbox, container.created_at, container.started_at, start.line];
        for (part, ends) in parts.iter_mut().zip(marks.windows(2)) {
            part.push(ends[1] - ends[0]);
        }
    }
    let names = ["manifest read, pod planned", "sandbox and network", "container made and started", "its first line"];
    let told = names.iter().zip(&mut parts).map(|(name, times)| {
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        format!("{name} {:.1} ms", median as f64 / 1e6)
    });
    Ok(told.collect::<Vec<_>>().join(", "))
}

type Noted = (BTreeMap<String, i64>, BTreeMap<String, v1::ContainerStatus>);

/// By pod: when its sandbox was begun, and its container's status.
async fn noted(agent: &Agent) -> Result<Noted> {
    let by = Deadline::within(Duration::from_secs(10));
    let client = Client::connect(agent.place().path("cri.sock")).await?;
    let listed = client.list_pod_sandbox(v1::ListPodSandboxRequest::default(), by).await?.items;
    let pod = |metadata: &Option<v1::PodSandboxMetadata>| metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
    let pods: BTreeMap<_, _> = listed.iter().map(|sandbox| (sandbox.id.clone(), pod(&sandbox.metadata))).collect();
    let sandboxes = listed.iter().map(|sandbox| (pod(&sandbox.metadata), sandbox.created_at)).collect();
    let mut containers = BTreeMap::new();
    for container in client.list_containers(v1::ListContainersRequest::default(), by).await?.containers {
        let request = v1::ContainerStatusRequest { container_id: container.id, verbose: false };
        let status = client.container_status(request, by).await?.status.context("a status")?;
        containers.insert(pods.get(&container.pod_sandbox_id).cloned().unwrap_or_default(), status);
    }
    Ok((sandboxes, containers))
}

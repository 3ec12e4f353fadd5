//! This build: `longshore run` alone, pods in a running agent, memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    let in_a_row = in_a_row(&agent, &lines)?;
    let phases = phases(&agent)?;
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

fn in_a_row(agent: &Agent, lines: &Lines) -> Result<Times> {
    let mut times = Vec::new();
    for n in 0..IN_A_ROW {
        let name = format!("row-{n}");
        let asked = Instant::now();
        agent.write(&format!("{name}.yaml"), &manifest(&name))?;
        times.push(lines.wait(&name)?.duration_since(asked));
    }
    Ok(Times::of(times))
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

/// Median of each phase, as the agent itself told them for these pods.
fn phases(agent: &Agent) -> Result<String> {
    let mut by_phase = BTreeMap::<String, Vec<f64>>::new();
    for pod in agent.pods()? {
        let told = pod["metadata"]["annotations"]["longshore.dev/start-phases"].as_str().unwrap_or_default().to_owned();
        for part in told.split(", ") {
            if let Some((name, time)) = part.split_once('=') {
                by_phase.entry(name.to_owned()).or_default().push(time.trim_end_matches("ms").parse().unwrap_or(0.0));
            }
        }
    }
    let parts: Vec<_> = by_phase
        .into_iter()
        .map(|(name, mut times)| {
            times.sort_by(f64::total_cmp);
            format!("{name} {:.1} ms", times[times.len() / 2])
        })
        .collect();
    Ok(if parts.is_empty() { "not told".into() } else { parts.join(", ") })
}

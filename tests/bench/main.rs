//! Figures, as a table: pod starts and memory of this build, and of containerd in the same run where it is installed.
//!
//! Every start is taken from outside: the clock runs from the moment a person or a caller asks until the container's
//! own first line arrives through a FIFO on the host. Then services, in network namespaces. Where the
//! control plane's folder has a kube-proxy, that does the same beside the agent. `bench pods`, `bench cluster` (a node of a
//! control plane), `bench services`, `bench kube-proxy` and `bench memory` (the agent with thousands of services) do a part.

#![expect(clippy::print_stdout, reason = "a table on standard output is what this program is for")]

mod cluster;
mod containerd;
mod fifo;
mod kube_api;
mod kube_objects;
mod kube_proxy;
mod longshore;
mod memory;
mod probes;
mod services;

use std::time::Duration;

use anyhow::Result;

/// Pods started one after another, and at once.
const IN_A_ROW: usize = 10;
const AT_ONCE: usize = 50;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("probes") => {
            print_row(["what", "longshore", "containerd (CRI alone)", "ratio", "budget"]);
            probe_rows()
        }
        Some("pods") => pods(),
        Some("services") => all_services(),
        Some("kube-proxy") => {
            let counts = std::env::args().skip(2).map(|count| Ok(count.parse()?)).collect::<Result<Vec<usize>>>()?;
            kube_proxy::print(if counts.is_empty() { &kube_proxy::COUNTS } else { &counts });
            Ok(())
        }
        Some("cluster") => {
            cluster::print();
            Ok(())
        }
        Some("memory") => {
            services::memory();
            Ok(())
        }
        _ => {
            pods()?;
            println!();
            cluster::print();
            println!();
            all_services()
        }
    }
}

fn all_services() -> Result<()> {
    services::print()?;
    println!();
    kube_proxy::print(&kube_proxy::COUNTS);
    Ok(())
}

fn pods() -> Result<()> {
    println!("longshore bench: {} cores, image present, every start seen by the container's own first line\n", cores());
    let ours = longshore::measure()?;
    let theirs = containerd::measure();
    let peer = |figure: fn(&Starts) -> Duration| theirs.as_ref().ok().map(figure);
    print_row(["what", "longshore", "containerd (CRI alone)", "ratio", "budget"]);
    print_row(["---"; 5]);
    let time = |name: &str, took: Duration, peer: Option<Duration>, budget_ms: u64| {
        let ratio = peer.map_or("–".into(), |peer| format!("{:.1}×", peer.as_secs_f64() / took.as_secs_f64()));
        let within = if took <= Duration::from_millis(budget_ms) { "" } else { " (missed)" };
        print_row([name, &ms(took), &peer.map_or("–".into(), ms), &ratio, &format!("{budget_ms} ms{within}")]);
    };
    time("exec of `longshore run` -> container running, p50 of 10", ours.alone.p50(), None, 100);
    time("one pod in a running agent, p50 of 10 in a row", ours.starts.in_a_row.p50(), peer(|s| s.in_a_row.p50()), 25);
    time("one pod in a running agent, slowest of 10", ours.starts.in_a_row.max(), peer(|s| s.in_a_row.max()), 100);
    time("fifty pods at once -> all running", ours.starts.at_once, peer(|s| s.at_once), 1_000);
    let size = |name: &str, bytes: u64, budget: u64| {
        let within = if bytes <= budget { "" } else { " (missed)" };
        print_row([name, &mb(bytes), "–", "–", &format!("{}{within}", mb(budget))]);
    };
    size("agent with ten pods, resident", ours.agent.rss, 20_000_000);
    size("agent with ten pods, PSS", ours.agent.pss, 20_000_000);
    size("shim + pause for each pod, PSS", ours.per_pod, 300_000);
    size("release binary", ours.binary, 20_000_000);
    probe_rows()?;
    if let Err(why) = theirs {
        println!("\ncontainerd was not measured: {why:#}");
    }
    println!("\nwhere a start in a running agent goes (p50 of the {IN_A_ROW} in a row): {}", ours.phases);
    Ok(())
}

/// The agent's own time; what an exec costs the runtime's helpers and the container is not in it.
fn probe_rows() -> Result<()> {
    let costs = probes::measure()?;
    let idle = costs.first().map_or(0.0, |cost| cost.percent);
    for cost in &costs {
        let what = match cost.kind {
            "none" => "agent with 84 containers and no probes, share of a core".to_owned(),
            kind => format!("{:.0} {kind} probes a second, share of a core beside that", cost.rate),
        };
        let percent = if cost.kind == "none" { cost.percent } else { cost.percent - idle };
        let budget = match cost.kind {
            "http" | "tcp" if percent > 5.0 => "5 % (missed)",
            "http" | "tcp" => "5 %",
            _ => "–",
        };
        print_row([what.as_str(), &format!("{percent:.1} %"), "–", "–", budget]);
    }
    Ok(())
}

/// Starts of one side.
struct Starts {
    in_a_row: Times,
    at_once: Duration,
}

/// Times of the same thing done several times, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn p50(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

fn ms(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn print_row<S: AsRef<str>>(cells: [S; 5]) {
    println!("| {} |", cells.map(|cell| cell.as_ref().to_owned()).join(" | "));
}

//! Services: from a change to the first connection that follows it, thousands of them from nothing, and the daemon's memory
//! with them. In network namespaces of their own, beside the bare tool given the same text.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netfilter::apply::{Iptables, Nft};
use netfilter::nft;
use netfilter::{Endpoint, Family, Model, NodeConfig, Protocol, Ruleset, ServicePort, ServicePortName, Transaction};
use tests::agent::Agent;
use tests::pod_network::Netns;
use tests::service_world::{World, port, service};

use crate::memory::{self, Memory};
use crate::{Times, mb, ms, print_row};

const CLUSTER_IP: &str = "10.96.0.10:80";
/// Changes of each kind: every second one is the bare tool's.
const CHANGES: usize = 20;
const DAEMON: usize = 5_000;

/// What is measured, with what to aim for.
const CHANGED: [(usize, u64); 3] = [(0, 10), (1_000, 20), (5_000, 40)];
const FROM_NOTHING: [(usize, u64); 2] = [(5_000, 3_000), (10_000, 6_000)];

/// Prints the table.
pub(crate) fn print() -> Result<()> {
    print_row(["services, two endpoints each", "iptables (nft)", "iptables (legacy)", "nftables", "aim"]);
    print_row(["---"; 5]);
    let ways = [Way::iptables_nft, Way::iptables_legacy, Way::nftables];
    for (count, aim) in FROM_NOTHING {
        let cells = ways.map(|way| cell(way().and_then(|way| way.all_at_once(count))));
        let [nft, legacy, nftables] = cells;
        print_row([&format!("{count} from nothing"), &nft, &legacy, &nftables, &format!("{aim} ms")]);
    }
    for (count, aim) in CHANGED {
        let cells = ways.map(|way| cell(way().and_then(|way| way.changed(count))));
        let [nft, legacy, nftables] = cells;
        let what = format!("endpoint changed to first connection, p50, {count} others");
        print_row([&what, &nft, &legacy, &nftables, &format!("{aim} ms")]);
    }
    memory();
    Ok(())
}

/// Prints the row of the daemon.
pub(crate) fn memory() {
    let memory = daemon().map_or_else(|error| format!("{error:#}"), |memory| mb(memory.rss));
    print_row([&format!("agent with {DAEMON} services, resident"), &memory, "", "", "60 MB"]);
}

/// Ours, and how many times as long as the bare tool.
fn cell(measured: Result<(Duration, Duration)>) -> String {
    match measured {
        Ok((ours, bare)) => format!("{} ({:.1}× the tool)", ms(ours), ours.as_secs_f64() / bare.as_secs_f64()),
        Err(error) => format!("{error:#}"),
    }
}

enum Tool {
    Iptables(Iptables, &'static str, Ruleset),
    Nft(Nft, nft::Ruleset),
}

struct Way {
    world: World,
    config: NodeConfig,
    tool: Tool,
}

enum Who {
    Us,
    Tool,
}

impl Way {
    fn iptables_nft() -> Result<Self> {
        Self::iptables(World::new()?, "iptables-nft-restore")
    }

    fn iptables_legacy() -> Result<Self> {
        Self::iptables(World::with_legacy_tables()?, "iptables-legacy-restore")
    }

    fn iptables(world: World, restore: &'static str) -> Result<Self> {
        let (iptables, ruleset) = (world.iptables().clone(), world.ruleset().clone());
        Ok(Self { config: world.config().clone(), world, tool: Tool::Iptables(iptables, restore, ruleset) })
    }

    fn nftables() -> Result<Self> {
        let world = World::with_nftables()?;
        let (nft, ruleset) = world.nftables();
        let tool = Tool::Nft(nft.clone(), ruleset.clone());
        Ok(Self { config: world.config().clone(), world, tool })
    }

    /// All of them at once; then away with them, and the same text by the bare tool.
    fn all_at_once(mut self, count: usize) -> Result<(Duration, Duration)> {
        let (all, none) = (others(count)?, Model::new(Family::V4));
        let begun = Instant::now();
        self.program(&all, &Who::Us)?;
        let ours = begun.elapsed();
        self.program(&none, &Who::Us)?;
        Ok((ours, self.program(&all, &Who::Tool)?))
    }

    /// One endpoint goes, another comes, among `count` others.
    fn changed(mut self, count: usize) -> Result<(Duration, Duration)> {
        self.world.server(2, "a")?;
        self.world.server(3, "b")?;
        let client = self.world.pod(9)?;
        let mut model = others(count)?;
        let name = ServicePortName::new("demo", "web", "")?;
        model.insert(name.clone(), service(CLUSTER_IP, &[2])?);
        self.program(&model, &Who::Us)?;
        follow(&client, "a")?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for change in 0..CHANGES {
            // Two of ours, two of the tool's: both see both directions.
            let who = if change / 2 % 2 == 0 { Who::Us } else { Who::Tool };
            let (pod, heard) = if change % 2 == 0 { (3, "b") } else { (2, "a") };
            let begun = Instant::now();
            let mut next = model.clone();
            next.insert(name.clone(), service(CLUSTER_IP, &[pod])?);
            let alone = self.program(&next, &who)?;
            model = next;
            follow(&client, heard)?;
            match who {
                Who::Us => ours.push(begun.elapsed()),
                Who::Tool => bare.push(alone),
            }
        }
        Ok((Times::of(ours).p50(), Times::of(bare).p50()))
    }

    /// Brings the kernel to `model`. The time is that of the tool alone.
    fn program(&mut self, model: &Model, who: &Who) -> Result<Duration> {
        let node = &self.world.node;
        match &mut self.tool {
            Tool::Iptables(iptables, restore, ruleset) => {
                let next = ruleset.next(model, &self.config);
                let transaction = Transaction::between(ruleset, &next);
                *ruleset = next;
                match who {
                    Who::Us => timed(|| Ok(node.run(|| iptables.restore(&transaction))??)),
                    Who::Tool => run(node, restore, &["-w", "5", "--noflush", "--counters"], &transaction.text()),
                }
            }
            Tool::Nft(nft, ruleset) => {
                let next = ruleset.next(model, &self.config);
                let transaction = nft::Transaction::between(ruleset, &next);
                *ruleset = next;
                match who {
                    Who::Us => timed(|| Ok(node.run(|| nft.restore(&transaction))??)),
                    Who::Tool => run(node, "nft", &["-f", "-"], &transaction.text()),
                }
            }
        }
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

fn run(node: &Netns, program: &str, words: &[&str], text: &str) -> Result<Duration> {
    timed(|| {
        node.run(|| {
            let mut child = Command::new(program).args(words).stdin(Stdio::piped()).spawn()?;
            child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
            ensure!(child.wait()?.success(), "{program} failed");
            Ok(())
        })?
    })
}

/// Asks until the answer is that of `name`: old endpoints go on answering.
fn follow(client: &Netns, name: &str) -> Result<()> {
    for _ in 0..1_000 {
        if client.ask_tcp(CLUSTER_IP)?.starts_with(name) {
            return Ok(());
        }
    }
    anyhow::bail!("{name} was never reached")
}

/// Services that nobody asks.
fn others(count: usize) -> Result<Model> {
    let mut model = Model::new(Family::V4);
    for number in 0..count {
        let [.., high, low] = u32::try_from(number)?.to_be_bytes();
        let mut other = ServicePort::new(Protocol::Tcp, IpAddr::from([10, 100, high, low]), port(80)?);
        other.endpoints = [1, 2]
            .map(|net| Endpoint::ready(IpAddr::from([10, 200 + net, high, low]), port(8080).expect("a port")))
            .into();
        model.insert(ServicePortName::new("bench", &format!("service-{number}"), "http")?, other);
    }
    Ok(model)
}

/// The agent with two pods that are the endpoints of all services, and have none of them in their environment: 35,000
/// variables for each would be what is measured.
fn daemon() -> Result<Memory> {
    let mut agent = Agent::run(&[])?;
    for name in ["one", "two"] {
        agent.write(
            &format!("{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: bench}}}}\nspec:\n  \
                 terminationGracePeriodSeconds: 1\n  enableServiceLinks: false\n  containers:\n  - {{name: main, image: busybox, imagePullPolicy: IfNotPresent, \
                 command: [sleep, '1000000']}}\n"
            ),
        )?;
    }
    let services: Vec<_> = (0..DAEMON)
        .map(|number| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}}}\nspec: {{selector: {{app: bench}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
            )
        })
        .collect();
    agent.write("services.yaml", &services.join("---\n"))?;
    let by = Instant::now() + Duration::from_secs(120);
    loop {
        let listed: serde_json::Value = serde_json::from_str(&agent.print(&["services", "-o", "json"])?)?;
        let is_ready =
            |service: &&serde_json::Value| service["ports"][0]["ready"] == 2 && service["ports"][0]["packets"].is_u64();
        let all = listed["services"].as_array().cloned().unwrap_or_default();
        let ready = all.iter().filter(is_ready).count();
        if ready == DAEMON {
            break;
        }
        ensure!(Instant::now() < by, "{ready} of {DAEMON} services were there in time, the first is {:?}", all.first());
        std::thread::sleep(Duration::from_millis(200));
    }
    let memory = memory::of(agent.pid().context("the agent runs")?.as_raw())?;
    agent.interrupt(Duration::from_secs(60))?;
    Ok(memory)
}

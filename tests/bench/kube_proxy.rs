//! A cluster's Services, by `longshore agent` and by kube-proxy: the same API server, the same objects, one after the other,
//! each in a fresh network namespace. `bench kube-proxy 0 100` does it with these numbers of services.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::agent::Place;
use tests::cluster_node::ClusterNode;
use tests::control_plane::{ControlPlane, programs};
use tests::pod_network::Netns;

use crate::kube_objects::{CHANGED, Objects, address};
use crate::memory::{self, Memory};
use crate::{Times, mb, ms, print_row};

/// The numbers of services beside the one that changes.
pub(crate) const COUNTS: [usize; 3] = [0, 1_000, 5_000];
const CHANGES: usize = 8;
/// kube-proxy puts changes that follow each other off, by a second as it comes: its delay is not what is measured.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two questions: enough for who is asked about to have the processor.
const LOOK: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(300);
/// The servers' addresses, 192.0.2.x, with what they answer.
const SERVERS: [(u8, &str); 2] = [(41, "a"), (42, "b")];
/// The first node's address, 192.0.2.x.
const FIRST_NODE: u8 = 51;

/// Prints the table, or in one row why there is none.
pub(crate) fn print(counts: &[usize]) {
    print_row(["services of a cluster, two endpoints each", "longshore agent", "kube-proxy", "ratio", "aim"]);
    print_row(["---"; 5]);
    if let Err(error) = measure(counts) {
        print_row(["not measured", &format!("{error:#}"), "–", "–", "–"]);
    }
}

fn measure(counts: &[usize]) -> Result<()> {
    let folder = programs()?.context("no control plane: tests/tools/control-plane kube-proxy builds it")?;
    let program = folder.join("kube-proxy");
    if !program.exists() {
        bail!("no kube-proxy in {}: tests/tools/control-plane kube-proxy builds one", folder.display());
    }
    let plane = ControlPlane::start()?.context("no control plane")?;
    let servers = SERVERS.map(|(last, word)| server(&plane, last, word));
    let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let mut objects = Objects::new(&plane)?;
    for (number, &count) in counts.iter().enumerate() {
        objects.grow(count)?;
        let last = FIRST_NODE + 2 * u8::try_from(number)?;
        let ours = Figures::of(&Side::longshore(&plane, last)?, &objects)?;
        let theirs = Figures::of(&Side::kube_proxy(&plane, &program, last + 1)?, &objects)?;
        rows(count, &ours, &theirs);
    }
    Ok(())
}

fn rows(count: usize, ours: &Figures, theirs: &Figures) {
    let time = |what: &str, ours: Duration, theirs: Duration| {
        let ratio = format!("{:.1}×", theirs.as_secs_f64() / ours.as_secs_f64());
        print_row([&format!("{what}, {count} others"), &ms(ours), &ms(theirs), &ratio, "–"]);
    };
    time("start to the last one answering", ours.start, theirs.start);
    time("EndpointSlice written to first connection that follows, p50", ours.changes.p50(), theirs.changes.p50());
    time("the slowest of those", ours.changes.max(), theirs.changes.max());
    let ratio = format!("{:.1}×", theirs.memory.rss as f64 / ours.memory.rss as f64);
    print_row([&format!("resident, {count} others"), &mb(ours.memory.rss), &mb(theirs.memory.rss), &ratio, "–"]);
}

/// A machine beside the nodes that answers on port 8080 with its word.
fn server(plane: &ControlPlane, last: u8, word: &'static str) -> Result<Place> {
    let place = Place::new()?;
    plane.attach(&place, last)?;
    Netns::named(&place.name)?.serve_tcp("0.0.0.0:8080", word)?;
    Ok(place)
}

/// Who programs the services; started when it is made, ended when it is dropped.
struct Side {
    begun: Instant,
    netns: Netns,
    pid: i32,
    log: PathBuf,
    _process: Process,
}

/// What a side lives in.
enum Process {
    Agent { _node: ClusterNode },
    KubeProxy { child: Child, _place: Place },
}

impl Side {
    fn longshore(plane: &ControlPlane, last: u8) -> Result<Self> {
        let mut node = ClusterNode::with_credentials(plane, last, &["--cluster-cidr=10.244.0.0/16"])?;
        let netns = Netns::named(&node.place().name)?;
        let begun = Instant::now();
        node.spawn()?;
        let pid = i32::try_from(node.pid().context("the agent runs")?)?;
        Ok(Self { begun, netns, pid, log: node.place().path("agent.log"), _process: Process::Agent { _node: node } })
    }

    fn kube_proxy(plane: &ControlPlane, program: &Path, last: u8) -> Result<Self> {
        let place = Place::new()?;
        plane.attach(&place, last)?;
        let netns = Netns::named(&place.name)?;
        let kubeconfig = plane.kubeconfig("kube-proxy.conf", "system:kube-proxy", None)?;
        let path = plane.path(&format!("kube-proxy-{last}.log"));
        let log = std::fs::File::create(&path)?;
        let begun = Instant::now();
        let child = place
            .command(program)
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .args(["--proxy-mode=iptables", "--cluster-cidr=10.244.0.0/16"])
            // Without an address it would look for a Node of this name, which no kubelet registers.
            .args([format!("--hostname-override=n{last}"), format!("--bind-address=192.0.2.{last}")])
            // The machine's connection tracking is not the bench's to resize.
            .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"])
            .arg("--conntrack-tcp-timeout-close-wait=0s")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting kube-proxy")?;
        let pid = i32::try_from(child.id())?;
        Ok(Self { begun, netns, pid, log: path, _process: Process::KubeProxy { child, _place: place } })
    }

    /// Asks until the answer begins with `word`; before there are rules, nobody answers at all.
    fn follow(&self, address: &str, word: &str) -> Result<()> {
        let address: SocketAddr = address.parse()?;
        let by = Instant::now() + PATIENCE;
        self.netns.run(|| {
            while !ask(&address).is_ok_and(|answer| answer.starts_with(word)) {
                if Instant::now() > by || self.has_ended() {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    let end = log.lines().rev().take(3).collect::<Vec<_>>();
                    bail!("{address} did not answer {word:?}; last lines of the log, last first: {end:?}");
                }
                std::thread::sleep(LOOK);
            }
            Ok(())
        })?
    }

    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::KubeProxy { child, .. } = self {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// What was measured on one side.
struct Figures {
    start: Duration,
    changes: Times,
    memory: Memory,
}

impl Figures {
    fn of(side: &Side, objects: &Objects) -> Result<Self> {
        objects.point(SERVERS[0].0)?;
        side.follow(CHANGED, SERVERS[0].1)?;
        // One in a hundred, and the last: all of them would measure the asking.
        let asked = (0..objects.count()).rev().step_by(100).collect::<Vec<_>>();
        asked.into_iter().try_for_each(|number| side.follow(&address(number), ""))?;
        let start = side.begun.elapsed();
        let changes = (1..=CHANGES).map(|change| {
            std::thread::sleep(PAUSE);
            let (last, word) = SERVERS[change % 2];
            let begun = Instant::now();
            objects.point(last)?;
            side.follow(CHANGED, word)?;
            Ok(begun.elapsed())
        });
        let changes = Times::of(changes.collect::<Result<Vec<_>>>()?);
        Ok(Self { start, changes, memory: memory::of(side.pid)? })
    }
}

fn ask(address: &SocketAddr) -> std::io::Result<String> {
    // A packet that no rule sends anywhere is lost, and only the next connection would notice the rule.
    let stream = TcpStream::connect_timeout(address, Duration::from_millis(50))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut said = String::new();
    BufReader::new(stream).read_line(&mut said)?;
    Ok(said.trim_end().to_owned())
}

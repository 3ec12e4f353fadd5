//! A node of a cluster: how long a pod takes from the API to the API, what a node of a hundred pods costs, and a join.
//!
//! All times are a watcher's: from the event with which the API server shows one thing to that with which it shows the next.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::{ControlPlane, TOKEN};
use tests::pod_network::Netns;

use crate::kube_api::{Api, Watched};
use crate::memory;
use crate::probes::{ticks, ticks_per_second};
use crate::{Times, mb, ms, print_row};

const IN_A_ROW: usize = 20;
const AT_ONCE: usize = 100;
const SCRAPES: usize = 10;
const HANDS: usize = 8;
const PODS: &str = "/api/v1/namespaces/default/pods";
/// How long an idle node is looked at: six renewals of its lease.
const IDLE: Duration = Duration::from_secs(60);
/// After so long without a word a node has nothing left to tell.
const QUIET: Duration = Duration::from_secs(15);
/// What an idle node asks for every ten seconds.
const LEASE: &str = "update leases";

/// Prints the table, or in one row why there is none. Kubernetes 1.36 with containerd on such a machine stands beside it.
pub(crate) fn print() {
    print_row(["a node of a cluster", "longshore agent", "kubelet 1.36 + containerd", "ratio", "aim"]);
    print_row(["---"; 5]);
    if let Err(error) = measure() {
        print_row(["not measured", &format!("{error:#}"), "–", "–", "–"]);
    }
}

fn measure() -> Result<()> {
    let plane = ControlPlane::start()?.context("no control plane: tests/tools/control-plane builds it")?;
    joined(&plane)?;
    let mut node = ClusterNode::start(&plane, 61, &["--max-pods=200", "--read-only-port=10255"])?;
    node.wait("Node that is Ready", |_| Ok(is_ready(&plane, "n61")?.then_some(())))?;
    let bench = Bench { api: Api::open(&plane)?, watched: Watched::begin(&plane, PODS)?, node: node.name.clone() };
    // The first pod finds nothing warm, as every pod after a start of the node does not.
    bench.starts(&["warm".to_owned()])?;
    let names = |what: &str, count| (0..count).map(|n| format!("{what}-{n}")).collect::<Vec<_>>();
    let row = names("row", IN_A_ROW);
    let starts = row.iter().map(|name| bench.starts(std::slice::from_ref(name))).collect::<Result<Vec<_>>>()?;
    let starts = Times::of(starts.into_iter().map(|start| start.alone).collect());
    time("created to Ready, p50 of 20", starts.p50(), Some(303), 30);
    time("created to Ready, slowest of 20", starts.max(), None, 100);
    let ends = row.iter().map(|name| bench.ends(name)).collect::<Result<Vec<_>>>()?;
    time("deleted to gone, p50 of 20", Times::of(ends).p50(), Some(1_800), 100);
    let at_once = bench.starts(&names("burst", AT_ONCE))?;
    time("100 pods at once, first created to last Ready", at_once.all, Some(20_000), 2_000);
    for path in ["/stats/summary", "/metrics/cadvisor", "/metrics/resource"] {
        time(&format!("scrape of {path}, 101 pods, p50 of {SCRAPES}"), scrapes(&node, path)?.p50(), None, 50);
    }
    idle(&plane, &node)
}

/// Scrapes by somebody on the node's own network, until the last byte.
fn scrapes(node: &ClusterNode, path: &str) -> Result<Times> {
    let netns = Netns::named(&node.place().name)?;
    let one = || -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = netns.run(|| TcpStream::connect("192.0.2.61:10255"))??;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(begun.elapsed())
    };
    Ok(Times::of((0..SCRAPES).map(|_| one()).collect::<Result<_>>()?))
}

fn time(what: &str, took: Duration, peer_ms: Option<u64>, aim_ms: u64) {
    let peer = peer_ms.map(Duration::from_millis);
    let ratio = peer.map_or("–".into(), |peer| format!("{:.1}×", peer.as_secs_f64() / took.as_secs_f64()));
    let missed = if took <= Duration::from_millis(aim_ms) { "" } else { " (missed)" };
    print_row([what, &ms(took), &peer.map_or("–".into(), ms), &ratio, &format!("{aim_ms} ms{missed}")]);
}

fn is_ready(plane: &ControlPlane, node: &str) -> Result<bool> {
    Ok(plane.get(&format!("/api/v1/nodes/{node}"))?.is_some_and(|node| holds(&node, "Ready")))
}

fn holds(object: &Value, condition: &str) -> bool {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().any(|found| found["type"] == condition && found["status"] == "True")
}

struct Bench {
    api: Api,
    watched: Watched,
    node: String,
}

/// How long pods that were created together took.
struct Started {
    /// Of the first: created to Ready.
    alone: Duration,
    /// The first created to the last Ready.
    all: Duration,
}

impl Bench {
    /// Creates pods and waits until all are Ready.
    fn starts(&self, names: &[String]) -> Result<Started> {
        let (next, api, node) = (AtomicUsize::new(0), &self.api, &self.node);
        let work = || -> Result<()> {
            while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                api.request("POST", PODS, &pod(name, node))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..HANDS.min(names.len())).map(|_| scope.spawn(work)).collect();
            hands.into_iter().try_for_each(|hand| hand.join().expect("no hand panics"))
        })?;
        let (mut created, mut ready) = (BTreeMap::new(), BTreeMap::new());
        while ready.len() < names.len() {
            let (at, event) = self.watched.next()?;
            let Some(name) = event["object"]["metadata"]["name"].as_str().map(str::to_owned) else { continue };
            if event["type"] == "ADDED" {
                created.insert(name.clone(), at);
            }
            if names.contains(&name) && holds(&event["object"], "Ready") {
                ready.entry(name).or_insert(at);
            }
        }
        let took = |name: &String| Some(ready.get(name)?.duration_since(*created.get(name)?));
        let alone = names.first().and_then(took).context("the first pod was seen")?;
        let began = names.iter().filter_map(|name| created.get(name)).min().context("a pod was seen")?;
        let ended = ready.values().max().context("a pod was Ready")?;
        Ok(Started { alone, all: ended.duration_since(*began) })
    }

    /// Deletes a pod and waits until it is gone.
    fn ends(&self, name: &str) -> Result<Duration> {
        self.api.request("DELETE", &format!("{PODS}/{name}"), &json!({}))?;
        let mut deleted: Option<Instant> = None;
        loop {
            let (at, event) = self.watched.next()?;
            let metadata = &event["object"]["metadata"];
            if metadata["name"] != name || metadata["deletionTimestamp"].is_null() {
                continue;
            }
            let since = *deleted.get_or_insert(at);
            if event["type"] == "DELETED" {
                return Ok(at.duration_since(since));
            }
        }
    }
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node, "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 1000000 & wait"]}]}})
}

/// What a node of a hundred pods costs, and what it asks of the API server.
fn idle(plane: &ControlPlane, node: &ClusterNode) -> Result<()> {
    let agent = i32::try_from(node.pid().context("the agent runs")?)?;
    let mark = node.place().dir.path().display().to_string();
    let helpers = memory::pids_named(&["longshore-shim", "shim", "pause", "longshore-pause"], &mark);
    let pauses = memory::pids_named(&["pause", "longshore-pause"], &node.place().cgroup());
    let all: BTreeSet<i32> = helpers.into_iter().chain(pauses).chain([agent]).collect();
    quiet(plane, &node.name)?;
    let (asked, busy) = (plane.asked_by(&node.name)?.len(), processor_time(&all)?);
    std::thread::sleep(IDLE);
    let asked = plane.asked_by(&node.name)?.split_off(asked);
    let share = (processor_time(&all)? - busy) / IDLE.as_secs_f64() * 100.0;
    let pss: u64 = all.iter().filter_map(|pid| memory::of(*pid).ok()).map(|memory| memory.pss).sum();
    let ratio = |theirs: f64, ours: f64| format!("{:.1}×", theirs / ours);
    let missed = |is_missed: bool| if is_missed { " (missed)" } else { "" };
    let aim = format!("0.5 %{}", missed(share > 0.5));
    print_row(["100 idle pods, share of a core", &format!("{share:.2} %"), "7.7 %", &ratio(7.7, share), &aim]);
    let aim = format!("60 MB{}", missed(pss > 60_000_000));
    print_row(["100 idle pods, agent, shims and pauses, PSS", &mb(pss), "600 MB", &ratio(6e8, pss as f64), &aim]);
    let mut counts = BTreeMap::<String, usize>::new();
    asked.into_iter().for_each(|what| *counts.entry(what).or_default() += 1);
    let told: Vec<_> = counts.iter().map(|(what, count)| format!("{count} × {what}")).collect();
    print_row(["requests of an idle node in a minute", &told.join(", "), "–", "–", &format!("6 × {LEASE}")]);
    Ok(())
}

/// Waits until a node has told what the last starts left to be told: events go out at the rate of the kubelet's.
fn quiet(plane: &ControlPlane, node: &str) -> Result<()> {
    let told = || -> Result<usize> { Ok(plane.asked_by(node)?.iter().filter(|what| *what != LEASE).count()) };
    let mut before = told()?;
    loop {
        std::thread::sleep(QUIET);
        let now = told()?;
        if now == before {
            return Ok(());
        }
        before = now;
    }
}

/// Seconds of all these processes.
fn processor_time(pids: &BTreeSet<i32>) -> Result<f64> {
    let used = pids.iter().map(|pid| ticks(*pid)).sum::<Result<u64>>()?;
    Ok(used as f64 / ticks_per_second())
}

/// `longshore join` by token: from the signed certificate to a Node that is Ready.
fn joined(plane: &ControlPlane) -> Result<()> {
    let requests = Watched::begin(plane, "/apis/certificates.k8s.io/v1/certificatesigningrequests")?;
    let nodes = Watched::begin(plane, "/api/v1/nodes")?;
    let hash = format!("--discovery-token-ca-cert-hash={}", plane.ca_hash());
    let token = format!("--token={TOKEN}");
    let mut node = ClusterNode::joining(plane, 60, &["192.0.2.1:6443", &token, &hash])?;
    let asked = Instant::now();
    node.spawn()?;
    let after = |watched: &Watched, is_it: &dyn Fn(&Value) -> bool| loop {
        let (at, event) = watched.next()?;
        if is_it(&event["object"]) {
            return anyhow::Ok(at);
        }
    };
    let signed = after(&requests, &|request| request["status"]["certificate"].is_string())?;
    let ready = after(&nodes, &|node| node["metadata"]["name"] == "n60" && holds(node, "Ready"))?;
    time("join: certificate signed to Node Ready", ready.duration_since(signed), None, 2_000);
    print_row(["join: asked to Node Ready", &ms(ready.duration_since(asked)), "–", "–", "–"]);
    node.terminate()
}

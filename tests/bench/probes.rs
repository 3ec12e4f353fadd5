//! What ten thousand probes a minute cost the agent: 168 a second, of containers that do nothing else.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use tests::agent::{Agent, Place};

/// 14 pods of 6 containers with two probes each, every second.
const PODS: usize = 14;
const CONTAINERS: usize = 6;
/// Where the bench's own server listens: the address that every place has.
const SERVER: &str = "192.0.2.10";
const PORT: u16 = 18_080;
/// Long enough for clock ticks of 10 ms to be a fine measure.
const WATCHED: Duration = Duration::from_secs(20);

/// Share of one core that the agent takes, with these probes and without any.
pub(crate) struct Cost {
    /// What is asked.
    pub(crate) kind: &'static str,
    /// Per second, as the server counted them; for exec as configured.
    pub(crate) rate: f64,
    /// Percent of a core.
    pub(crate) percent: f64,
}

/// One agent for each kind; the first has no probes.
pub(crate) fn measure() -> Result<Vec<Cost>> {
    let http = format!("httpGet: {{host: {SERVER}, port: {PORT}, path: /healthz}}");
    let tcp = format!("tcpSocket: {{host: {SERVER}, port: {PORT}}}");
    let kinds = [("none", String::new()), ("http", http), ("tcp", tcp), ("exec", "exec: {command: [\"true\"]}".into())];
    kinds.into_iter().map(|(kind, handler)| one(kind, &handler)).collect()
}

fn one(kind: &'static str, handler: &str) -> Result<Cost> {
    let mut agent = Agent::run(&[])?;
    let answered = serve(agent.place())?;
    for pod in 0..PODS {
        agent.write(&format!("{pod}.yaml"), &manifest(pod, handler))?;
    }
    agent.wait("every container", Duration::from_secs(120), |agent| Ok(all_ready(agent)?.then_some(())))?;
    // What the start leaves to do is done; probes are on their grid.
    thread::sleep(Duration::from_secs(5));
    let pid = agent.pid().context("the agent runs")?.as_raw();
    let (before, counted, begun) = (ticks(pid)?, answered.load(Ordering::Relaxed), Instant::now());
    thread::sleep(WATCHED);
    let took = begun.elapsed().as_secs_f64();
    let used = (ticks(pid)? - before) as f64 / ticks_per_second();
    let rate = match kind {
        "none" => 0.0,
        "exec" => (PODS * CONTAINERS * 2) as f64,
        _ => (answered.load(Ordering::Relaxed) - counted) as f64 / took,
    };
    agent.interrupt(Duration::from_secs(60))?;
    Ok(Cost { kind, rate, percent: 100.0 * used / took })
}

fn manifest(pod: usize, handler: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: probed-{pod}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers:\n"
    );
    for container in 0..CONTAINERS {
        let _ = write!(text, "  - name: c{container}\n    image: busybox\n    command: [sleep, '1000000']\n");
        for probe in ["readinessProbe", "livenessProbe"].iter().filter(|_| !handler.is_empty()) {
            let _ = writeln!(text, "    {probe}: {{periodSeconds: 1, timeoutSeconds: 1, {handler}}}");
        }
    }
    text
}

fn all_ready(agent: &Agent) -> Result<bool> {
    let pods = agent.pods()?;
    let ready = |pod: &serde_json::Value| {
        let all = pod["status"]["containerStatuses"].as_array();
        all.is_some_and(|all| all.len() == CONTAINERS && all.iter().all(|one| one["ready"] == true))
    };
    Ok(pods.len() == PODS && pods.iter().all(ready))
}

/// A server in the agent's network; counts whom it has answered.
fn serve(place: &Place) -> Result<Arc<AtomicU64>> {
    let namespace = File::open(format!("/run/netns/{}", place.name))?;
    let listener = thread::spawn(move || -> Result<TcpListener> {
        // Only this thread goes there; the socket stays there.
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(TcpListener::bind((SERVER, PORT))?)
    });
    let listener = listener.join().ok().context("the server's thread")??;
    let answered = Arc::<AtomicU64>::default();
    let count = answered.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One after the other: an answer takes some microseconds.
            answer(stream);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(answered)
}

fn answer(mut stream: TcpStream) {
    let mut request = [0; 4_096];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    // A TCP probe says nothing.
    if matches!(stream.read(&mut request), Ok(1..)) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
    }
}

/// User and system time of a process, in clock ticks.
pub(crate) fn ticks(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("a stat line")?.1.split(' ').collect();
    ensure!(fields.len() > 12, "a short stat line");
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

pub(crate) fn ticks_per_second() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

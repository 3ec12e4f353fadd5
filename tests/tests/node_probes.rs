//! Probes and hooks of real containers, through restarts of the agent too.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tests::agent::{Agent, Place};

const SOON: Duration = Duration::from_secs(60);

fn ready(pod: &Value) -> bool {
    let all = pod["status"]["containerStatuses"].as_array();
    all.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["ready"] == true))
}

fn wait_for_event(agent: &mut Agent, text: &str) -> Result<()> {
    agent.wait(&format!("event {text:?}"), SOON, |agent| Ok(agent.print(&["events"])?.contains(text).then_some(())))
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

const SERVER: &str = r"apiVersion: v1
kind: ConfigMap
metadata: {name: server}
data:
  serve: |
    read method path rest
    while read name value && [ ${#name} -gt 1 ]; do
      case $name in X-Pass:*) pass=${value%?} ;; esac
    done
    code='200 OK' more='X-A: b'
    case $path in
      /same) code='302 Found' more='Location: /secret' ;;
      /secret) [ x$pass = xhush ] || code='403 No' ;;
      /other) code='302 Found' more='Location: http://192.0.2.99/' ;;
      /broken) code='500 Broken' ;;
    esac
    printf 'HTTP/1.1 %s\r\n%s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' '$code' '$more' | sed 's/^//'
";

fn probed() -> String {
    let waits = "image: busybox, command: [sleep, '1000000']";
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: probed}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{{name: server, configMap: {{name: server}}}}]
  containers:
  - name: follows
    image: busybox
    command: [sh, -c, 'while true; do nc -l -p 8080 -e sh /server/serve; done']
    volumeMounts: [{{name: server, mountPath: /server}}]
    ports: [{{name: web, containerPort: 8080}}]
    readinessProbe:
      periodSeconds: 1
      timeoutSeconds: 5
      httpGet: {{port: web, path: /same, httpHeaders: [{{name: X-Pass, value: hush}}]}}
  - {{name: warned, {waits}, readinessProbe: {{timeoutSeconds: 5, periodSeconds: 1, httpGet: {{port: 8080, path: /other}}}}}}
  - {{name: dialled, {waits}, readinessProbe: {{timeoutSeconds: 5, periodSeconds: 1, tcpSocket: {{port: 8080}}}}}}
  - {{name: asked, {waits}, readinessProbe: {{timeoutSeconds: 5, periodSeconds: 1, exec: {{command: ['true']}}}}}}
"
    )
}

#[test]
fn every_kind_of_probe_finds_what_is_there() -> Result<()> {
    let server = SERVER.replace("'$code' '$more' | sed 's/^//'", "\"$code\" \"$more\"");
    let mut agent = Agent::run(&[("a.yaml", &server), ("b.yaml", &probed())])?;
    agent.wait_for_pod("probed", SOON, ready)?;
    wait_for_event(&mut agent, "Readiness probe warning: Probe terminated redirects, Response body: ")?;
    let broken = "apiVersion: v1\nkind: Pod\nmetadata: {name: broken}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
                  containers:\n  - name: main\n    image: busybox\n    command: [sleep, '1000000']\n    readinessProbe: \
                  {periodSeconds: 1, httpGet: {port: 8080}}\n";
    agent.write("c.yaml", broken)?;
    wait_for_event(&mut agent, ":8080/\": dial tcp ")?;
    let seen = agent.pod("broken")?.context("a pod")?;
    ensure!(!ready(&seen), "{}", seen["status"]);
    ends_clean(agent)
}

/// A health service on the node, for pods on its network. It is HTTP/2 with the few frames that one call takes.
struct Health(Arc<AtomicU8>);

impl Health {
    const PORT: u16 = 18_090;

    fn start(place: &Place) -> Result<Self> {
        let namespace = File::open(format!("/run/netns/{}", place.name))?;
        let listener = thread::spawn(move || -> Result<TcpListener> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(TcpListener::bind(("0.0.0.0", Self::PORT))?)
        });
        let listener = listener.join().ok().context("the server's thread")??;
        let status = Arc::new(AtomicU8::new(1));
        let says = status.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = says.clone();
                // Who was probing may have hung up.
                thread::spawn(move || drop(Self::answer(stream, says.load(Ordering::Relaxed))));
            }
        });
        Ok(Self(status))
    }

    fn answer(mut stream: TcpStream, status: u8) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let frame = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
            [&[0, 0, body.len() as u8, kind, flags, 0, 0, 0, stream][..], body].concat()
        };
        stream.read_exact(&mut [0; 24])?;
        stream.write_all(&frame(4, 0, 0, &[]))?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head)?;
            let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut body)?;
            match (head[3], head[4]) {
                // Settings, not their acknowledgement.
                (4, 0) => stream.write_all(&frame(4, 1, 0, &[]))?,
                // The last data of the call.
                (0, flags) if flags & 1 == 1 => break,
                _ => {}
            }
        }
        let headers = [&[0x88][..], b"\x00\x0ccontent-type\x10application/grpc"].concat();
        stream.write_all(&frame(1, 4, 1, &headers))?;
        stream.write_all(&frame(0, 0, 1, &[0, 0, 0, 0, 2, 8, status]))?;
        stream.write_all(&frame(1, 5, 1, b"\x00\x0bgrpc-status\x010"))?;
        // Until the other side has had it.
        let _ = stream.read(&mut [0; 64]);
        Ok(())
    }
}

#[test]
fn a_grpc_probe_asks_the_health_service() -> Result<()> {
    let mut agent = Agent::run(&[])?;
    let health = Health::start(agent.place())?;
    let probe = format!("{{periodSeconds: 1, timeoutSeconds: 5, grpc: {{port: {}, service: shop}}}}", Health::PORT);
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: health}}\nspec:\n  hostNetwork: true\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox\n    command: [sleep, \
         '1000000']\n    readinessProbe: {probe}\n"
    );
    agent.write("a.yaml", &pod)?;
    agent.wait_for_pod("health", SOON, ready)?;
    health.0.store(2, Ordering::Relaxed);
    agent.wait_for_pod("health", SOON, |pod| !ready(pod))?;
    wait_for_event(&mut agent, "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")")?;
    health.0.store(1, Ordering::Relaxed);
    agent.wait_for_pod("health", SOON, ready)?;
    ends_clean(agent)
}

#[test]
fn failures_are_counted_on_by_the_next_agent() -> Result<()> {
    // Each attempt leaves a line in a file of its instance.
    let pod = r"apiVersion: v1
kind: Pod
metadata: {name: counted}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: host, hostPath: {path: /tmp/longshore-examples/counted, type: DirectoryOrCreate}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'mktemp -u XXXXXX > /id; exec sleep 1000000']
    volumeMounts: [{name: host, mountPath: /host}]
    livenessProbe:
      periodSeconds: 2
      timeoutSeconds: 30
      failureThreshold: 5
      exec: {command: [sh, -c, 'cat /id >> /host/attempts; exit 1']}
";
    let mut agent = Agent::run(&[("a.yaml", pod)])?;
    let path = agent.place().path("host/counted/attempts");
    let attempts = move || std::fs::read_to_string(&path).unwrap_or_default();
    agent.wait("two failures", SOON, |_| Ok((attempts().lines().count() >= 2).then_some(())))?;
    // The failure is on disk a moment after the command has ended.
    wait_for_event(&mut agent, "Liveness probe failed")?;
    agent.wait("three failures", SOON, |_| Ok((attempts().lines().count() >= 3).then_some(())))?;
    agent.kill()?;
    let before = attempts();
    let first = before.lines().next().context("a line")?.to_owned();
    agent.start()?;
    agent.wait_for_pod("counted", SOON, |pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)?;
    let made = attempts().lines().filter(|line| **line == first).count();
    // Five, and one more where the agent was killed before it had noted the last.
    ensure!((5..=6).contains(&made), "{made} attempts on the first instance: {:?}", attempts());
    ends_clean(agent)
}

#[test]
fn hooks_that_fail_say_so() -> Result<()> {
    let pod = |name: &str, hooks: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  \
             containers:\n  - name: main\n    image: busybox\n    command: [sleep, '1000000']\n    lifecycle: {hooks}\n"
        )
    };
    let late = pod("late", "{preStop: {exec: {command: [sh, -c, 'exit 4']}}}");
    let slow = pod("slow", "{preStop: {exec: {command: [sleep, '1000']}}}");
    let early = pod("early", "{postStart: {exec: {command: [sh, -c, 'echo out; echo err >&2; exit 3']}}}");
    let refused = pod("refused", "{postStart: {httpGet: {port: 9, path: /x}}}");
    let fine = pod("fine", "{postStart: {exec: {command: ['true']}}, preStop: {sleep: {seconds: 1}}}");
    let files = [("l.yaml", &late), ("s.yaml", &slow), ("e.yaml", &early), ("r.yaml", &refused), ("f.yaml", &fine)];
    let mut agent = Agent::run(&files.map(|(name, text)| (name, text.as_str())))?;
    let text =
        "Exec lifecycle hook ([sh -c echo out; echo err >&2; exit 3]) for Container \"main\" in Pod \"early_default(";
    for (name, text) in
        [("early", text), ("refused", "HTTP lifecycle hook (/x) for Container \"main\" in Pod \"refused_")]
    {
        let told = |agent: &Agent| Ok(agent.print(&["explain", name])?.contains(text).then_some(()));
        agent.wait(&format!("{name} to be explained"), SOON, told)?;
    }
    for name in ["late", "slow", "fine"] {
        agent.wait_for_pod(name, SOON, ready)?;
    }
    for file in ["l.yaml", "s.yaml", "f.yaml"] {
        agent.remove(file)?;
    }
    agent.wait("their end", SOON, |agent| Ok((agent.pods()?.len() == 2).then_some(())))?;
    let events = agent.print(&["events"])?;
    let of = |name: &str, text: &str| events.lines().filter(|line| line.contains(name) && line.contains(text)).count();
    ensure!(of("early", "PostStartHook failed") > 0 && of("refused", "PostStartHook failed") > 0, "{events}");
    ensure!(of("late", "PreStopHook failed") > 0 && of("slow", "PreStopHook failed") > 0, "{events}");
    ensure!(of("fine", "Hook failed") == 0, "{events}");
    ends_clean(agent)
}

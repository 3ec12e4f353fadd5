//! The whole room, with a runtime whose commands are a script.

use std::collections::VecDeque;

use cri_proto::v1::{ExecSyncRequest, ExecSyncResponse};
use cri_proto::{Answer, Deadline, Kind, RuntimeError};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// Answers the commands `ok`, `bad`, `stuck` and `gone`; `flip` fails as often as it was told to.
#[derive(Default)]
struct Script {
    flips: Mutex<VecDeque<i32>>,
    seen: Mutex<Vec<ExecSyncRequest>>,
}

#[async_trait::async_trait]
impl Runtime for Script {
    async fn exec_sync(&self, request: ExecSyncRequest, _: Deadline) -> Answer<ExecSyncResponse> {
        self.seen.lock().unwrap().push(request.clone());
        let code = match request.cmd[0].as_str() {
            "ok" => 0,
            "flip" => self.flips.lock().unwrap().pop_front().unwrap_or(0),
            "stuck" => return Err(RuntimeError::new("ExecSync", Kind::DeadlineExceeded, "too late")),
            "gone" => return Err(RuntimeError::new("ExecSync", Kind::Unavailable, "no connection")),
            _ => 1,
        };
        Ok(ExecSyncResponse { stdout: b"out ".to_vec(), stderr: b"err".to_vec(), exit_code: code })
    }
}

struct Fixture {
    probes: Probes,
    script: Arc<Script>,
    recorder: Recorder,
    results: watch::Receiver<Arc<ProbeResults>>,
    pod: Arc<Pod>,
    stop: CancellationToken,
}

fn uid() -> PodUid {
    PodUid::try_from("u".to_owned()).unwrap()
}

impl Fixture {
    fn new(container: Value) -> Self {
        let mut container = container;
        container["name"] = json!("c");
        let pod = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"containers": [container]}});
        let pod: Arc<Pod> = Arc::new(serde_json::from_value(pod).unwrap());
        let (script, recorder) = (Arc::new(Script::default()), Recorder::default());
        let probes = Probes::new(script.clone(), Http::new().unwrap(), recorder.clone());
        let results = probes.track(&pod, &uid(), None);
        let stop = CancellationToken::new();
        tokio::spawn(probes.clone().run(stop.clone()));
        Self { probes, script, recorder, results, pod, stop }
    }

    fn running(&self, id: &str) {
        let running =
            Running { container: "c", id, since: Timestamp::now(), restored: false, pod_ip: Some("127.0.0.1") };
        self.probes.running(&uid(), &running);
    }

    async fn becomes(&mut self, startup: Option<Outcome>, readiness: Option<Outcome>, liveness: Option<Outcome>) {
        let want = |results: &Arc<ProbeResults>| {
            let found = &results.containers["c"];
            (found.startup, found.readiness, found.liveness) == (startup, readiness, liveness)
        };
        let waited = tokio::time::timeout(Duration::from_secs(5), self.results.wait_for(want)).await.is_ok();
        assert!(waited, "{:?}", self.results.borrow());
    }

    fn events(&self) -> Vec<String> {
        self.recorder.recent().iter().map(|event| format!("{} {}", event.reason, event.message)).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const OK: Option<Outcome> = Some(Outcome::Success);
const BAD: Option<Outcome> = Some(Outcome::Failure);

#[tokio::test]
async fn a_container_that_answers_is_ready_at_once_and_unready_when_it_stops() {
    let mut fixture = Fixture::new(json!({"env": [{"name": "A", "value": "x"}],
        "readinessProbe": {"exec": {"command": ["ok", "$(A)", "$(B)"]}, "timeoutSeconds": 7}}));
    fixture.running("one");
    fixture.becomes(None, OK, None).await;
    assert_eq!(fixture.results.borrow().containers["c"].container_id, "one");
    let seen = fixture.script.seen.lock().unwrap()[0].clone();
    assert_eq!((seen.container_id.as_str(), seen.timeout), ("one", 7));
    assert_eq!(seen.cmd, ["ok", "x", "$(B)"]);
    fixture.probes.stopped(&uid(), "c");
    fixture.becomes(None, BAD, None).await;
    assert_eq!(fixture.events(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_that_needs_a_moment_is_ready_within_moments() {
    let mut fixture = Fixture::new(json!({"readinessProbe": {"exec": {"command": ["flip"]}, "periodSeconds": 60}}));
    fixture.script.flips.lock().unwrap().extend([1, 1]);
    fixture.running("one");
    fixture.becomes(None, OK, None).await;
    assert_eq!(fixture.events(), ["Unhealthy Readiness probe failed: out err"]);
    assert_eq!(fixture.recorder.recent()[0].count, 2);
}

#[tokio::test]
async fn the_others_wait_for_startup() {
    let mut fixture = Fixture::new(json!({
        "startupProbe": {"exec": {"command": ["flip"]}, "periodSeconds": 1},
        "readinessProbe": {"exec": {"command": ["ok"]}}, "livenessProbe": {"exec": {"command": ["ok"]}}}));
    fixture.script.flips.lock().unwrap().extend([1]);
    fixture.running("one");
    fixture.becomes(None, BAD, OK).await;
    fixture.becomes(OK, OK, OK).await;
    let asked: Vec<_> = fixture.script.seen.lock().unwrap().iter().map(|seen| seen.cmd[0].clone()).collect();
    assert_eq!(asked, ["flip", "flip", "ok"]);
    fixture.running("two");
    let found = fixture.results.borrow().containers["c"].clone();
    assert_eq!((found.container_id.as_str(), found.startup), ("two", None), "another instance starts anew");
}

#[tokio::test]
async fn what_cannot_be_tried_is_tried_three_times_and_counts_for_nothing() {
    let mut fixture = Fixture::new(
        json!({"startupProbe": {"exec": {"command": ["gone"]}, "failureThreshold": 1, "periodSeconds": 60}}),
    );
    fixture.running("one");
    let mut events = fixture.recorder.listen();
    events.recv().await.unwrap();
    assert_eq!(fixture.events(), ["Unhealthy Startup probe errored and resulted in unknown state: no connection"]);
    assert_eq!(fixture.script.seen.lock().unwrap().len(), 3);
    fixture.becomes(None, None, None).await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_a_failure() {
    let mut fixture =
        Fixture::new(json!({"startupProbe": {"exec": {"command": ["stuck", "x"]}, "failureThreshold": 1}}));
    fixture.running("one");
    fixture.becomes(BAD, None, None).await;
    assert_eq!(fixture.events(), ["Unhealthy Startup probe failed: command timed out: \"stuck x\" timed out after 1s"]);
}

#[tokio::test]
async fn a_port_that_accepts_is_enough() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = |port: u16| json!({"startupProbe": {"tcpSocket": {"port": port}, "failureThreshold": 1}});
    let mut fixture = Fixture::new(probe(port));
    fixture.running("one");
    fixture.becomes(OK, None, None).await;
    drop(listener);
    let mut fixture = Fixture::new(probe(port));
    fixture.running("one");
    fixture.becomes(BAD, None, None).await;
    let text = format!("Unhealthy Startup probe failed: dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(fixture.events(), [text]);
}

#[tokio::test]
async fn a_pod_that_ends_is_probed_for_readiness_only() {
    let mut fixture = Fixture::new(json!({
        "readinessProbe": {"exec": {"command": ["ok"]}}, "livenessProbe": {"exec": {"command": ["bad"]}, "periodSeconds": 1, "failureThreshold": 1}}));
    fixture.running("one");
    fixture.becomes(None, OK, OK).await;
    fixture.probes.terminating(&uid());
    fixture.becomes(None, OK, None).await;
    assert_eq!(fixture.probes.pods()[&uid()].containers[0].due().map(|(_, kind)| kind), Some(ProbeKind::Readiness));
    fixture.probes.forget(&uid());
    assert!(fixture.results.changed().await.is_err(), "the channel ends with the pod");
}

#[tokio::test]
async fn another_agent_goes_on_where_this_one_was() {
    let mut fixture = Fixture::new(
        json!({"readinessProbe": {"exec": {"command": ["ok"]}}, "startupProbe": {"exec": {"command": ["ok"]}}}),
    );
    fixture.running("one");
    fixture.becomes(OK, OK, None).await;
    let saved = serde_json::to_value(fixture.probes.save(&uid()).unwrap()).unwrap();
    let next = Probes::new(fixture.script.clone(), Http::new().unwrap(), Recorder::default());
    let results = next.track(&fixture.pod, &uid(), Some(serde_json::from_value(saved).unwrap()));
    assert_eq!(**results.borrow(), **fixture.results.borrow());
    let running = Running { container: "c", id: "one", since: Timestamp::now(), restored: true, pod_ip: None };
    next.running(&uid(), &running);
    assert_eq!(**results.borrow(), **fixture.results.borrow(), "nothing flaps");
}

//! Workloads and static pods by whole agents: Deployments behind a Service, StatefulSets in order, Jobs and CronJobs,
//! the folder and the URL of static pods, each with kills in between.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

/// Generous: other suites use the same two cores.
const SOON: Duration = Duration::from_secs(60);

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn name(pod: &Value) -> String {
    pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn container_ids(pods: &[Value]) -> BTreeMap<String, String> {
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned();
    pods.iter().map(|pod| (name(pod), id(pod))).collect()
}

fn workload(agent: &Agent, kind: &str, name: &str) -> Result<Option<Value>> {
    let list: Value = serde_json::from_str(&agent.print(&["workloads", "-o", "json"])?)?;
    let rows = list["workloads"].as_array().cloned().unwrap_or_default();
    Ok(rows.into_iter().find(|row| row["kind"] == kind && row["name"] == name))
}

fn wait_for_status(agent: &mut Agent, kind: &str, name: &str, status: &str) -> Result<Value> {
    agent.wait(&format!("{kind} {name} {status}"), SOON, |agent| {
        Ok(workload(agent, kind, name)?.filter(|row| row["status"] == status))
    })
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

fn web(word: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n  clusterIP: 10.96.0.60\n  selector: {{app: web}}\n  \
         ports: [{{port: 80, targetPort: 8080}}]\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  \
         replicas: 3\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: web\n        image: busybox\n        \
         command: [sh, -c, 'mkdir /www; echo {word} > /www/index.html; exec httpd -f -p 8080 -h /www']\n        \
         readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}\n"
    )
}

/// All pods of the Deployment, ready and of one template other than `not`.
fn rolled_out(agent: &Agent, not: &BTreeMap<String, String>) -> Result<Option<Vec<Value>>> {
    let pods: Vec<_> = agent.pods()?.into_iter().filter(|pod| name(pod).starts_with("web-")).collect();
    let fresh = pods.iter().all(|pod| ready(pod) && !not.contains_key(&name(pod)));
    Ok((pods.len() == 3 && fresh).then_some(pods))
}

fn ask(agent: &Agent) -> Result<String> {
    let ask = "exec 3<>/dev/tcp/10.96.0.60/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let output = agent.place().command("timeout").args(["5", "bash", "-c", ask]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_deployment_serves_survives_its_agent_and_rolls() -> Result<()> {
    let mut agent = Agent::run(&[("web.yaml", &web("one"))])?;
    let pods = agent.wait("three ready pods", SOON, |agent| rolled_out(agent, &BTreeMap::new()))?;
    agent.wait("the Service's answer", SOON, |agent| Ok(ask(agent)?.ends_with("one\n").then_some(())))?;
    let first = container_ids(&pods);
    let owner = &pods[0]["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "ReplicaSet" && owner["controller"] == true, "{owner}");

    agent.kill()?;
    agent.start()?;
    let again = agent.wait("the same pods", SOON, |agent| rolled_out(agent, &BTreeMap::new()))?;
    ensure!(container_ids(&again) == first, "{again:?}");

    agent.write("web.yaml", &web("two"))?;
    agent.wait("a pod of the new template", SOON, |agent| {
        Ok(agent.pods()?.iter().any(|pod| !first.contains_key(&name(pod))).then_some(()))
    })?;
    agent.kill()?;
    agent.start()?;
    let second = agent.wait("three pods of the new template", SOON, |agent| rolled_out(agent, &first))?;
    agent.wait("the Service's new answer", SOON, |agent| Ok(ask(agent)?.ends_with("two\n").then_some(())))?;
    let hashes: BTreeSet<_> =
        second.iter().map(|pod| pod["metadata"]["labels"]["pod-template-hash"].as_str()).collect();
    ensure!(hashes.len() == 1, "{hashes:?}");
    let row = workload(&agent, "Deployment", "web")?.context("a row")?;
    ensure!(row["ready"] == 3 && row["upToDate"] == 3 && row["wanted"] == 3, "{row}");
    ensure!(agent.print(&["workloads"])?.contains("Deployment/default/web"));

    agent.remove("web.yaml")?;
    agent.wait("the end of all pods", SOON, |agent| Ok(agent.pods()?.is_empty().then_some(())))?;
    ends_clean(agent)
}

fn stateful(word: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: dbs\n  replicas: 3\n  \
         selector: {{matchLabels: {{app: db}}}}\n  template:\n    metadata: {{labels: {{app: db}}}}\n    spec:\n      \
         terminationGracePeriodSeconds: 1\n      containers:\n      - name: db\n        image: busybox\n        \
         command: [sh, -c, 'hostname; echo {word} >> /data/words; cat /data/words; touch /tmp/ready; exec sleep 1000000']\n        \
         volumeMounts: [{{name: data, mountPath: /data}}]\n        \
         readinessProbe: {{exec: {{command: [cat, /tmp/ready]}}, initialDelaySeconds: 1, periodSeconds: 1}}\n  \
         volumeClaimTemplates:\n  - metadata: {{name: data}}\n    spec: {{accessModes: [ReadWriteOnce], \
         resources: {{requests: {{storage: 1Mi}}}}}}\n"
    )
}

/// All three, ready, with these words in their logs: what their claims hold.
fn three(agent: &Agent, word: &str) -> Result<Option<Vec<Value>>> {
    let mut pods: Vec<_> = agent.pods()?.into_iter().filter(ready).collect();
    pods.sort_by_key(name);
    for pod in &pods {
        let log = agent.print(&["logs", &name(pod)]).unwrap_or_default();
        if log != format!("{}\n{word}\n", name(pod)) {
            return Ok(None);
        }
    }
    Ok((pods.len() == 3).then_some(pods))
}

#[test]
fn a_stateful_set_begins_in_order_and_renews_in_reverse() -> Result<()> {
    let mut agent = Agent::run(&[("db.yaml", &stateful("one"))])?;
    let pods = agent.wait("three ready pods", SOON, |agent| three(agent, "one"))?;
    ensure!(pods.iter().map(name).collect::<Vec<_>>() == ["db-0", "db-1", "db-2"]);
    for pair in pods.windows(2) {
        let conditions = pair[0]["status"]["conditions"].as_array().context("conditions")?;
        let since = conditions.iter().find(|condition| condition["type"] == "Ready").context("Ready")?;
        // RFC 3339 in UTC: later is greater.
        let (since, start) = (since["lastTransitionTime"].as_str(), pair[1]["status"]["startTime"].as_str());
        ensure!(since.is_some() && since <= start, "{} began at {start:?}, before {since:?}", name(&pair[1]));
    }
    agent.write("db.yaml", &stateful("two"))?;
    agent.wait("the last pod's successor", SOON, |agent| {
        let last = agent.pod("db-2")?;
        Ok(last.is_some_and(|pod| pod["metadata"]["uid"] != pods[2]["metadata"]["uid"]).then_some(()))
    })?;
    let first = agent.pod("db-0")?.context("db-0")?;
    ensure!(first["metadata"]["uid"] == pods[0]["metadata"]["uid"], "the first is the last one to be renewed");
    agent.kill()?;
    agent.start()?;
    agent.wait("three renewed pods", SOON, |agent| three(agent, "one\ntwo"))?;
    ends_clean(agent)
}

fn job(name: &str, more: &str, command: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  {more}\n  template:\n    spec:\n      \
         restartPolicy: Never\n      terminationGracePeriodSeconds: 1\n      containers:\n      - {{name: c, image: busybox, \
         command: [sh, -c, '{command}']}}\n"
    )
}

#[test]
fn a_job_completes_every_index_once_and_does_not_run_again() -> Result<()> {
    let text = job(
        "work",
        "completions: 3\n  parallelism: 2\n  completionMode: Indexed",
        "echo $JOB_COMPLETION_INDEX $(hostname); sleep 1",
    );
    let mut agent = Agent::run(&[("work.yaml", &text)])?;
    agent.wait("its first pods", SOON, |agent| Ok((!agent.pods()?.is_empty()).then_some(())))?;
    agent.kill()?;
    agent.start()?;
    let row = wait_for_status(&mut agent, "Job", "work", "Complete")?;
    ensure!(row["ready"] == 3 && row["active"] == 0, "{row}");
    let logs = |agent: &Agent| -> Result<Vec<String>> {
        let mut logs =
            agent.pods()?.iter().map(|pod| agent.print(&["logs", &name(pod)])).collect::<Result<Vec<_>>>()?;
        logs.sort();
        Ok(logs)
    };
    let written = logs(&agent)?;
    ensure!(written == ["0 work-0\n", "1 work-1\n", "2 work-2\n"], "{written:?}");
    let before = container_ids(&agent.pods()?);
    agent.kill()?;
    agent.start()?;
    agent.wait("the finished pods", SOON, |agent| Ok((agent.pods()?.len() == 3).then_some(())))?;
    wait_for_status(&mut agent, "Job", "work", "Complete")?;
    ensure!(container_ids(&agent.pods()?) == before, "it ran again");
    // Ctrl-C takes its pods away, but not that it has run.
    agent.interrupt(Duration::from_secs(60))?;
    agent.start()?;
    wait_for_status(&mut agent, "Job", "work", "Complete")?;
    ensure!(agent.pods()?.is_empty(), "it ran again: {}", agent.print(&["ps"])?);
    ends_clean(agent)
}

#[test]
fn a_failing_job_is_tried_again_later_and_then_given_up() -> Result<()> {
    let mut agent = Agent::run(&[("bad.yaml", &job("bad", "backoffLimit: 1", "exit 3"))])?;
    let failed =
        |count: i64| move |agent: &Agent| Ok(workload(agent, "Job", "bad")?.filter(|row| row["failed"] == count));
    let row = agent.wait("the first failure", SOON, failed(1))?;
    ensure!(row["status"] == "Running", "{row}");
    agent.kill()?;
    agent.start()?;
    wait_for_status(&mut agent, "Job", "bad", "Failed: BackoffLimitExceeded")?;
    let pods = agent.pods()?;
    ensure!(pods.len() == 2 && pods.iter().all(|pod| pod["status"]["phase"] == "Failed"), "{pods:?}");
    let ended = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"].to_string();
    let began = |pod: &Value| pod["status"]["startTime"].to_string();
    let (mut first, mut second) = (&pods[0], &pods[1]);
    if began(first) > began(second) {
        (first, second) = (second, first);
    }
    ensure!(ended(first) < began(second), "no back-off: {} and {}", ended(first), began(second));
    let events = agent.print(&["events"])?;
    ensure!(events.contains("Job has reached the specified backoff limit"), "{events}");
    ends_clean(agent)
}

#[test]
fn a_cron_job_starts_jobs_and_keeps_the_newest() -> Result<()> {
    let cron = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: tick}\nspec:\n  schedule: '@every 3s'\n  \
                successfulJobsHistoryLimit: 1\n  jobTemplate:\n    spec:\n      template:\n        spec:\n          \
                restartPolicy: Never\n          containers: [{name: c, image: busybox, command: [echo, tock]}]\n";
    let mut agent = Agent::run(&[("tick.yaml", cron)])?;
    let complete = |agent: &Agent| -> Result<Option<String>> {
        let pods = agent.pods()?;
        let done = pods.iter().find(|pod| pod["status"]["phase"] == "Succeeded");
        Ok(done.map(|pod| pod["metadata"]["labels"]["job-name"].as_str().unwrap_or_default().to_owned()))
    };
    let first = agent.wait("a first tick", SOON, complete)?;
    agent.kill()?;
    agent.start()?;
    let next = agent.wait("another tick", SOON, |agent| Ok(complete(agent)?.filter(|job| *job != first)))?;
    ensure!(next.starts_with("tick-"), "{next}");
    agent
        .wait("the end of the first one", SOON, |agent| Ok(workload(agent, "Job", &first)?.is_none().then_some(())))?;
    let row = workload(&agent, "CronJob", "tick")?.context("a row")?;
    ensure!(row["lastSchedule"].is_string(), "{row}");
    ends_clean(agent)
}

fn pod(name: &str, word: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: main\n    image: busybox\n    command: [sh, -c, 'echo {word}; exec sleep 1000000']\n"
    )
}

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

#[test]
fn static_pods_come_from_a_folder_beside_the_manifests() -> Result<()> {
    let mut agent = Agent::prepared(&[("a.yaml", &pod("plain", "a"))])?;
    let folder = agent.place().path("static");
    std::fs::create_dir_all(folder.join(".git"))?;
    std::fs::write(folder.join("first"), pod("first", "one"))?;
    std::fs::write(folder.join(".hidden.yaml"), pod("hidden", "no"))?;
    std::fs::write(folder.join(".git/deep.yaml"), pod("deep", "no"))?;
    agent.flag(format!("--pod-manifest-path={}", folder.display()));
    agent.start()?;
    agent.wait_for_pod("plain", SOON, runs)?;
    let first = agent.wait_for_pod("first-test-node", SOON, runs)?;
    let annotations = &first["metadata"]["annotations"];
    ensure!(annotations["kubernetes.io/config.source"] == "file", "{annotations}");
    ensure!(annotations["kubernetes.io/config.hash"] == first["metadata"]["uid"], "{annotations}");
    agent.kill()?;
    std::fs::write(folder.join("part"), pod("second", "two"))?;
    agent.start()?;
    agent.wait_for_pod("second-test-node", SOON, runs)?;
    let again = agent.wait_for_pod("first-test-node", SOON, runs)?;
    ensure!(container_ids(&[again]) == container_ids(&[first]));
    std::fs::remove_file(folder.join("first"))?;
    agent.wait("the first one's end", SOON, |agent| Ok(agent.pod("first-test-node")?.is_none().then_some(())))?;
    ensure!(agent.pods()?.len() == 2);
    ends_clean(agent)
}

/// What the server below answers: status line and body; nothing where it does not listen to anyone.
type Answer = Arc<Mutex<Option<(&'static str, String)>>>;

/// An HTTP server inside the agent's network namespace.
fn serve(agent: &Agent) -> Result<Answer> {
    let answer = Answer::default();
    let namespace = std::fs::File::open(format!("/run/netns/{}", agent.place().name))?;
    let said = Arc::clone(&answer);
    let (told, ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let listener = nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(TcpListener::bind("127.0.0.1:8099")?));
        let _ = told.send(listener.as_ref().map(drop).map_err(ToString::to_string));
        for stream in listener.iter().flat_map(TcpListener::incoming).flatten() {
            respond(stream, &said);
        }
    });
    ready.recv()?.map_err(anyhow::Error::msg)?;
    Ok(answer)
}

fn respond(mut stream: TcpStream, said: &Answer) {
    let mut request = [0; 4096];
    let asked = stream.read(&mut request).unwrap_or(0);
    let asked = String::from_utf8_lossy(&request[..asked]).to_lowercase();
    let answer = said.lock().ok().and_then(|said| said.clone());
    // Whoever goes away before the answer is the agent's to explain.
    if let Some((status, body)) = answer.filter(|_| asked.contains("x-token: hush")) {
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    }
}

fn say(answer: &Answer, status: &'static str, body: String) {
    if let Ok(mut said) = answer.lock() {
        *said = Some((status, body));
    }
}

#[test]
fn static_pods_from_a_url_outlive_their_server() -> Result<()> {
    let mut agent = Agent::prepared(&[])?;
    let server = serve(&agent)?;
    agent.flag("--manifest-url=http://127.0.0.1:8099/pods".to_owned());
    agent.flag("--manifest-url-header=X-Token: hush".to_owned());
    agent.flag("--http-check-frequency=1".to_owned());
    say(&server, "200 OK", pod("far", "one"));
    agent.start()?;
    let first = agent.wait_for_pod("far-test-node", SOON, runs)?;
    ensure!(first["metadata"]["annotations"]["kubernetes.io/config.source"] == "http", "{first}");

    say(&server, "500 Oops", String::new());
    agent.wait("the complaint", SOON, |agent| Ok(agent.print(&["events"])?.contains("answers 500").then_some(())))?;
    say(&server, "200 OK", "kind: [nonsense".to_owned());
    agent.kill()?;
    agent.start()?;
    let again = agent.wait_for_pod("far-test-node", SOON, runs)?;
    ensure!(container_ids(&[again]) == container_ids(&[first]), "it was restarted");

    let item = |name: &str| {
        format!(
            "- metadata: {{name: {name}}}\n  spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: busybox, command: [sleep, '1000000']}}]}}\n"
        )
    };
    say(&server, "200 OK", format!("apiVersion: v1\nkind: PodList\nitems:\n{}{}", item("near"), item("nearer")));
    agent.wait_for_pod("near-test-node", SOON, runs)?;
    agent.wait_for_pod("nearer-test-node", SOON, runs)?;
    agent.wait("the first one's end", SOON, |agent| Ok(agent.pod("far-test-node")?.is_none().then_some(())))?;
    ensure!(!agent.log().contains("hush"), "a header is no one's to read");
    ends_clean(agent)
}

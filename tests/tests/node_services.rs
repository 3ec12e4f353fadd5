//! Services of an agent on its own: what `longshore services` says of them, and packets that prove it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(30);

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "while true; do echo hello | nc -l -p 8080; done"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.77
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30077}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.96.0.78, selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: names}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
"#;

fn services(agent: &Agent) -> Result<Vec<Value>> {
    let listed: Value = serde_json::from_str(&agent.print(&["services", "-o", "json"])?)?;
    listed["services"].as_array().cloned().context("a list of services")
}

/// The service of that name, once `is_there` says so.
fn wait_for(agent: &Agent, name: &str, is_there: impl Fn(&Value) -> bool) -> Result<Value> {
    let by = Instant::now() + SOON;
    loop {
        let found = services(agent)?.into_iter().find(|service| service["name"]["name"] == name);
        if let Some(found) = found.as_ref().filter(|service| is_there(service)) {
            return Ok(found.clone());
        }
        ensure!(Instant::now() < by, "{name} is {found:?}\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn services_are_listed_with_what_came_for_them() -> Result<()> {
    let mut agent = Agent::run(&[("all.yaml", MANIFESTS)])?;
    let web = wait_for(&agent, "web", |web| web["ports"][0]["ready"] == 1)?;
    ensure!(web["type"] == "NodePort" && web["ports"][0]["endpoints"] == 1, "{web}");
    ensure!(web["ports"][0]["addresses"] == serde_json::json!(["10.96.0.77:80", "*:30077"]), "{web}");
    let by = Instant::now() + SOON;
    // The pod is running before its nc listens, and between two connections nobody does.
    loop {
        let answer = agent.place().command("busybox").args(["nc", "-w", "2", "10.96.0.77", "80"]).output()?;
        if answer.stdout == b"hello\n" {
            break;
        }
        ensure!(Instant::now() < by, "the service does not answer: {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let packets = |service: &Value| service["ports"][0]["packets"].as_u64();
    let web = wait_for(&agent, "web", |web| packets(web).is_some_and(|count| count > 0))?;
    ensure!(web["ports"][0]["bytes"].as_u64() >= Some(40), "{web}");
    let nobody = wait_for(&agent, "nobody", |_| true)?;
    ensure!(nobody["ports"][0]["endpoints"] == 0, "{nobody}");
    let names = wait_for(&agent, "names", |_| true)?;
    ensure!(names["ports"] == serde_json::json!([]), "a headless Service has no rules: {names}");
    let table = agent.print(&["services"])?;
    let line = table.lines().find(|line| line.contains("default/web:http")).context("a line for web")?;
    ensure!(line.contains("10.96.0.77:80,*:30077/tcp") && line.contains("1/1"), "{table}");

    agent.remove("all.yaml")?;
    let by = Instant::now() + SOON;
    while !services(&agent)?.is_empty() {
        ensure!(Instant::now() < by, "services stay listed");
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(agent.print(&["services"])? == "No services.\n");
    agent.interrupt(SOON)?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

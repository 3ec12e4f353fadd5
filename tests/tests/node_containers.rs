//! How containers are made, seen from inside and from the host: ids, gates, classes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::agent::Agent;

const SOON: Duration = Duration::from_secs(60);

fn runs(pod: &Value) -> bool {
    let all = pod["status"]["containerStatuses"].as_array();
    all.is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["state"]["running"].is_object()))
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// `mark` in its command line makes its processes findable.
fn with_own_ids(name: &str, mark: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 1
  volumes:
  - {{name: data, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory}}}}
  - {{name: cfg, configMap: {{name: cfg}}}}
  - {{name: host, hostPath: {{path: /tmp/longshore-examples/{name}, type: DirectoryOrCreate}}}}
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "while true; do nc -l -p 8080 -e echo served; done; true {mark}"]
    volumeMounts: &mounts
    - {{name: data, mountPath: /data}}
    - {{name: memory, mountPath: /memory}}
    - {{name: cfg, mountPath: /cfg}}
    - {{name: host, mountPath: /host}}
  - name: user
    image: busybox
    securityContext: {{runAsUser: 1000, runAsGroup: 1001}}
    command: [sh, -c, "echo mine > /data/of-user; exec sleep 1000000"]
    volumeMounts: *mounts
"#
    )
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cfg}\ndata: {key: value}\n";

/// What root inside sees and does, and what must come of it.
const INSIDE: [(&str, &str); 13] = [
    ("id -u", "0"),
    ("cat /cfg/key", "value"),
    ("echo a > /data/f && stat -c %u:%g /data/f", "0:0"),
    ("echo a > /memory/f && stat -c %u:%g /memory/f", "0:0"),
    ("echo a > /host/f && stat -c %u:%g /host/f", "0:0"),
    ("echo a > /made && stat -c %u:%g /made /bin/busybox", "0:0\n0:0"),
    ("chown 1000:1001 /made && stat -c %u:%g /made /data/of-user", "1000:1001\n1000:1001"),
    ("echo a > /dev/shm/f && stat -c %u /dev/shm/f /dev/shm", "0\n0"),
    ("stat -c %u /etc/resolv.conf /etc/hosts /etc/hostname", "0\n0\n0"),
    ("stat -c %u /proc/self/ /dev/pts /dev", "0\n0\n0"),
    ("echo lost > /dev/null && head -c 3 /dev/zero | wc -c", "3"),
    ("ip -o link show eth0 | wc -l", "1"),
    ("cat /proc/sys/kernel/hostname", "first"),
];

/// The first line of `/proc/PID/uid_map` of a process with `mark` in its command line, and its host user.
fn seen_from_host(agent: &Agent, mark: &str) -> Result<(i32, u32, u32)> {
    let found = agent.place().processes().into_iter().find(|(_, line)| line.contains(mark));
    let (pid, _) = found.with_context(|| format!("a process with {mark}"))?;
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let numbers: Vec<u32> = map.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [0, host, 65_536] = numbers[..] else { anyhow::bail!("uid_map is {map:?}") };
    Ok((pid, host, std::fs::metadata(format!("/proc/{pid}"))?.uid()))
}

#[test]
fn root_of_a_pod_with_ids_of_its_own_is_nobody_on_the_host() -> Result<()> {
    let (first, second) = (with_own_ids("first", "mark-one"), with_own_ids("second", "mark-two"));
    let mut agent = Agent::run(&[("a.yaml", CONFIG), ("b.yaml", &first), ("c.yaml", &second)])?;
    let before = agent.wait_for_pod("first", SOON, runs)?;
    let other = agent.wait_for_pod("second", SOON, runs)?;

    let (_, base, user) = seen_from_host(&agent, "mark-one")?;
    let (_, base_of_other, _) = seen_from_host(&agent, "mark-two")?;
    ensure!(base >= 65_536 && user == base, "root inside is {user} on the host, its range begins at {base}");
    ensure!(base.abs_diff(base_of_other) >= 65_536, "ranges {base} and {base_of_other} overlap");
    for (command, want) in INSIDE {
        let said = agent.print(&["exec", "first", "-c", "main", "--", "sh", "-c", command])?;
        ensure!(said.trim() == want, "{command} says {said:?}, not {want:?}");
    }
    ensure!(agent.print(&["exec", "first", "-c", "user", "--", "id", "-u"])?.trim() == "1000");
    // Volumes hold what the container sees, as those of every other pod do; its own files hold the host's ids.
    ensure!(std::fs::metadata(agent.place().path("host/first/f"))?.uid() == 0);
    let owners = owners_of_made(&agent)?;
    ensure!(owners == BTreeSet::from([base + 1_000]), "its own file belongs to {owners:?} on the host");

    let ip = other["status"]["podIP"].as_str().context("an address")?;
    let served =
        agent.print(&["exec", "first", "-c", "main", "--", "sh", "-c", &format!("nc {ip} 8080 </dev/null")])?;
    ensure!(served.trim() == "served", "{served:?}");

    agent.kill()?;
    agent.start()?;
    let after = agent.wait_for_pod("first", SOON, runs)?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    ensure!(id(&before) == id(&after), "it was restarted");
    ensure!(seen_from_host(&agent, "mark-one")?.1 == base, "its range changed");
    ensure!(agent.print(&["exec", "first", "-c", "main", "--", "cat", "/data/f"])?.trim() == "a");
    ends_clean(agent)
}

/// Owners of every file `made` in writable layers below the agent's root.
fn owners_of_made(agent: &Agent) -> Result<BTreeSet<u32>> {
    let mut owners = BTreeSet::new();
    let mut folders = vec![agent.place().path("root")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let kind = entry.file_type()?;
            if entry.file_name() == "made" && folder.ends_with("upper") {
                owners.insert(entry.metadata()?.uid());
            }
            if kind.is_dir() && entry.file_name() != "root" && entry.file_name() != "layers" {
                folders.push(entry.path());
            }
        }
    }
    Ok(owners)
}

#[test]
fn last_words_of_a_pod_with_ids_of_its_own_are_heard() -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: brief}\nspec:\n  hostUsers: false\n  restartPolicy: Never\n  \
               containers:\n  - name: main\n    image: busybox\n    command: [sh, -c, 'echo out; echo words > \
               /dev/termination-log; exit 3']\n";
    let mut agent = Agent::run(&[("a.yaml", pod)])?;
    let ended = agent.wait_for_pod("brief", SOON, |pod| pod["status"]["phase"] == "Failed")?;
    let state = &ended["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(state["exitCode"] == 3 && state["message"] == "words\n", "{state}");
    ensure!(agent.print(&["logs", "brief"])? == "out\n");
    ends_clean(agent)
}

#[test]
fn a_gated_pod_waits_until_its_gate_is_taken_away() -> Result<()> {
    let pod = |gates: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: gated}}\nspec:\n  {gates}\n  runtimeClassName: longshore\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox\n    command: [sleep, \
             '1000000']\n"
        )
    };
    let mut agent = Agent::run(&[("a.yaml", &pod("schedulingGates: [{name: example.com/wait}]"))])?;
    let gated = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let scheduled = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "PodScheduled"));
        scheduled.is_some_and(|condition| condition["status"] == "False" && condition["reason"] == "SchedulingGated")
    };
    let waiting = agent.wait_for_pod("gated", SOON, gated)?;
    ensure!(waiting["status"]["phase"] == "Pending" && waiting["status"]["podIP"].is_null(), "{}", waiting["status"]);
    agent.write("a.yaml", &pod("schedulingGates: []"))?;
    agent.wait_for_pod("gated", SOON, runs)?;
    ends_clean(agent)
}

const MADE: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: made}
spec:
  terminationGracePeriodSeconds: 1
  hostname: h
  subdomain: s
  setHostnameAsFQDN: true
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [x.example], options: [{name: ndots, value: "2"}, {name: rotate}]}
  hostAliases: [{ip: 192.0.2.7, hostnames: [a.example, b.example]}]
  securityContext:
    runAsUser: 1000
    runAsGroup: 1001
    fsGroup: 2000
    supplementalGroups: [3000]
    supplementalGroupsPolicy: Strict
    sysctls: [{name: net/ipv4/ip_unprivileged_port_start, value: "80"}]
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - name: writes
    image: busybox
    command: [sh, -c, "echo \"  A='one two' # said\" > /v/env"]
    volumeMounts: [{name: v, mountPath: /v}]
  containers:
  - name: main
    image: busybox
    command: [sleep, "1000000"]
    env:
    - {name: A, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: A}}}
    - {name: B, valueFrom: {fileKeyRef: {volumeName: v, path: env, key: B, optional: true}}}
    - {name: C, value: "$(A)!"}
    volumeMounts: [{name: v, mountPath: /v}]
"#;

#[test]
fn a_container_is_what_its_manifest_says() -> Result<()> {
    let pod = |name: &str, context: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  securityContext: {context}\n  containers:\n  \
             - name: main\n    image: busybox\n    command: [sleep, '1000000']\n"
        )
    };
    let root = pod("root", "{runAsNonRoot: true}");
    let unsafe_one = pod("unsafe", "{sysctls: [{name: kernel.msgmax, value: '9000'}]}");
    let mut agent = Agent::run(&[("a.yaml", MADE), ("b.yaml", &root), ("c.yaml", &unsafe_one)])?;
    agent.wait_for_pod("made", SOON, runs)?;
    for (command, want) in [
        ("hostname", "h.s.default.svc.cluster.local"),
        ("cat /etc/resolv.conf", "search x.example\nnameserver 192.0.2.53\noptions ndots:2 rotate"),
        ("tail -n 1 /etc/hosts", "192.0.2.7\ta.example\tb.example"),
        ("grep h.s.default /etc/hosts | cut -f 2-", "h.s.default.svc.cluster.local\th"),
        ("id -u; id -g; id -G", "1000\n1001\n1001 2000 3000"),
        ("stat -c %g:%a /v; touch /v/f; stat -c %u:%g /v/f", "2000:2777\n1000:2000"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "80"),
        ("echo \"$A,$C,${B-none}\"", "one two,one two!,none"),
    ] {
        let said = agent.print(&["exec", "made", "--", "sh", "-c", command])?;
        ensure!(said.trim() == want, "{command} says {said:?}, not {want:?}");
    }
    agent.wait_for_pod("root", SOON, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let text = waiting["message"].as_str().unwrap_or_default();
        waiting["reason"] == "CreateContainerConfigError"
            && text.starts_with("container has runAsNonRoot and image will run as root (pod: \"root_default(")
    })?;
    agent.wait_for_pod("unsafe", SOON, |pod| {
        let text = "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        pod["status"]["phase"] == "Failed"
            && pod["status"]["reason"] == "SysctlForbidden"
            && pod["status"]["message"] == text
    })?;
    ends_clean(agent)
}

//! What one test plays with: a node, its neighbour, pods.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use cni::{Attachment, Bridge, HostPort, NetworkConfig, Protocol, SandboxId};
use tempfile::TempDir;
use tests::pod_network::{Netns, Wire, can_run};

pub(crate) const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// What one test plays with.
pub(crate) struct World {
    pub wire: Wire,
    pub directory: TempDir,
}

/// A pod and its place in the network.
pub(crate) struct Pod {
    pub id: SandboxId,
    pub netns: Netns,
    pub at: Attachment,
}

impl World {
    pub(crate) fn config(&self, instance: &str, bridge: &str, pod_cidr: &str) -> NetworkConfig {
        NetworkConfig {
            bridge: bridge.to_owned(),
            pod_cidr: pod_cidr.parse().expect("a network"),
            no_masquerade: Vec::new(),
            leases: self.directory.path().join(instance),
            mtu: None,
            instance: instance.parse().expect("an instance"),
        }
    }

    pub(crate) fn usual(&self) -> NetworkConfig {
        self.config("one", "longshore0", "10.88.0.0/24")
    }

    pub(crate) async fn open(&self) -> Result<Bridge> {
        Ok(Bridge::open(self.usual()).await?)
    }

    /// What an agent could leave behind on the node, in words.
    pub(crate) fn traces(&self) -> Result<Vec<String>> {
        let links = self.wire.node.ip("-o link show")?;
        let names = links.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
        let mut traces: Vec<_> = names.filter(|name| !["lo", "wan"].contains(&name.as_str())).collect();
        let rules = self.wire.node.command("iptables-save", &[])?;
        traces.extend(rules.lines().filter(|line| line.contains("LONGSHORE")).map(str::to_owned));
        traces.extend(files(self.directory.path())?);
        Ok(traces)
    }
}

pub(crate) fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            names.extend(files(&entry.path())?);
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a test's body on a runtime inside the node's network namespace.
pub(crate) fn on_a_node(body: impl AsyncFnOnce(&World) -> Result<()> + Send) {
    if !can_run() {
        return;
    }
    let world = World { wire: Wire::new().expect("a wire"), directory: tempfile::tempdir().expect("a directory") };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(body(&world))
    };
    let done: Result<()> = world.wire.node.run(run).and_then(|done| done);
    if let Err(error) = done {
        let rules = world.wire.node.command("iptables-save", &["-c"]).unwrap_or_default();
        let links = world.wire.node.ip("address show").unwrap_or_default();
        panic!("{error:?}\n{links}\n{rules}");
    }
}

pub(crate) fn id(name: &str) -> SandboxId {
    name.parse().expect("an id")
}

pub(crate) fn port(host_ip: &str, host_port: u16, protocol: Protocol, container_port: u16) -> HostPort {
    HostPort { host_ip: host_ip.parse().ok(), host_port, protocol, container_port }
}

pub(crate) async fn attach(bridge: &Bridge, name: &str, ports: &[HostPort]) -> Result<Pod> {
    let netns = Netns::bare()?;
    let at = bridge.attach(&id(name), netns.fd()?, ports).await?;
    Ok(Pod { id: id(name), netns, at })
}

impl Pod {
    pub(crate) fn address(&self) -> String {
        self.at.ips[0].to_string()
    }
}

pub(crate) fn said(answer: Result<String>, expected: impl AsRef<str>, who: &str) -> Result<()> {
    let answer = answer.with_context(|| format!("{who} hears nothing"))?;
    ensure!(answer == expected.as_ref(), "{who} hears {answer:?} instead of {:?}", expected.as_ref());
    Ok(())
}

/// Both settings of br_netfilter where the kernel has it; else the one that there is.
pub(crate) fn bridge_netfilter_settings(node: &Netns) -> Vec<&'static str> {
    if node.sysctl(BRIDGE_NETFILTER).is_ok() { vec!["0", "1"] } else { vec!["absent"] }
}

pub(crate) fn set_bridge_netfilter(node: &Netns, setting: &str) -> Result<()> {
    if setting == "absent" { Ok(()) } else { node.set_sysctl(BRIDGE_NETFILTER, setting) }
}

//! Looks at this machine for what `join::obstacles` judges.

use std::net::TcpListener;
use std::path::Path;

use anyhow::Context;

use crate::config::kubelet::{self, KubeletConfiguration, Server};
use crate::join::{Facts, Layout};
use crate::node::facts;

/// Where systemd-resolved keeps the servers that it asks itself; pods cannot ask it.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What can be looked at before the cluster was asked.
pub(super) fn facts(node: &str, layout: &Layout) -> Facts {
    let machine = facts::Facts::probe();
    let problems = facts::problems(&machine);
    Facts {
        root: machine.root,
        node_name: node.to_owned(),
        kubelets: kubelets(),
        strangers: layout.strangers(),
        // Told by `root` already.
        machine: problems.iter().filter(|_| machine.root).map(ToString::to_string).collect(),
        ..Facts::default()
    }
}

/// What depends on the configuration.
pub(super) fn late_facts(server: &Server, node: &str) -> Facts {
    let ports = [Some(server.listen), server.healthz, server.read_only];
    let ports = ports.into_iter().flatten().filter(|_| server.enabled);
    let taken = |address: &std::net::SocketAddr| TcpListener::bind(address).is_err();
    Facts {
        root: true,
        node_name: node.to_owned(),
        taken_ports: ports.filter(taken).map(|address| address.port()).collect(),
        swap: facts::has_swap(),
        ..Facts::default()
    }
}

fn kubelets() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let kubelet = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim_end() == "kubelet").then_some(pid)
    };
    processes.filter_map(kubelet).collect()
}

/// The configuration as the agent will read it.
pub(super) fn configuration(text: &str) -> anyhow::Result<KubeletConfiguration> {
    let loaded = kubelet::load_text("kubelet-config", text);
    Ok(loaded.context("the cluster's configuration of its kubelets does not fit")?.configuration)
}

/// As kubeadm does it: pods get the servers behind systemd-resolved, which only listens on this machine's loopback.
pub(super) fn with_resolver(text: String) -> String {
    let flow = text.trim_start().starts_with('{');
    match !flow && !text.contains("\nresolvConf:") && Path::new(RESOLVED).exists() {
        true => format!("{}\nresolvConf: {RESOLVED}\n", text.trim_end()),
        false => text,
    }
}

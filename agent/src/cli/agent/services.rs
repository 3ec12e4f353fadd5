//! Services on a node of a cluster: the work of a kube-proxy.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use netfilter::LocalTraffic;

use crate::api::{Client, Kubeconfig};
use crate::config::Config;
use crate::proxy;

#[derive(Args, Debug)]
pub(super) struct ServiceArgs {
    /// How Services are programmed; off leaves them to a kube-proxy or another program.
    #[arg(long, default_value = "iptables", value_parser = ["iptables", "nftables", "off"])]
    proxy_mode: String,
    /// Credentials for reading Services and EndpointSlices (ClusterRole system:node-proxier); the node's own where it is
    /// not given, which need that role too.
    #[arg(long, value_name = "FILE")]
    proxy_kubeconfig: Option<PathBuf>,
    /// Where the cluster's pods get their addresses from: what comes from elsewhere to a Service is masqueraded. This
    /// node's own pods' range where it is not given.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// On which of the node's addresses node ports answer: ranges, or the word primary. All where it is not given.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Where the proxy's /healthz and /livez answer.
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDRESS:PORT")]
    proxy_healthz_bind_address: SocketAddr,
    /// Where the proxy's /metrics answer.
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS:PORT")]
    proxy_metrics_bind_address: SocketAddr,
}

impl ServiceArgs {
    /// `None` when Services are another program's.
    pub(super) fn settings(&self, config: &Config, turns: proxy::Turns) -> anyhow::Result<Option<proxy::Settings>> {
        let mode = match self.proxy_mode.as_str() {
            "off" => return Ok(None),
            "nftables" => proxy::Mode::Nftables,
            _ => proxy::Mode::Iptables,
        };
        let local = match self.cluster_cidr.as_slice() {
            [] => vec![LocalTraffic::Cidr(config.network.pod_cidr)],
            given => given.iter().copied().map(LocalTraffic::Cidr).collect(),
        };
        Ok(Some(proxy::Settings {
            node_ips: config.network.node_ips.clone(),
            mode,
            local_traffic: local,
            node_ports: proxy::NodePorts::parse(&self.nodeport_addresses).context("--nodeport-addresses")?,
            conntrack: Some(proxy::Conntrack::default()),
            healthz: Some(self.proxy_healthz_bind_address),
            metrics: Some(self.proxy_metrics_bind_address),
            turns,
            on_its_own: false,
            ..proxy::Settings::new(&config.node_name)
        }))
    }

    /// Who reads Services and endpoints.
    pub(super) fn client(&self, node: &Client) -> anyhow::Result<Client> {
        match &self.proxy_kubeconfig {
            Some(file) => Ok(Client::new(Kubeconfig::load(file)?)?),
            None => Ok(node.clone()),
        }
    }
}

//! What the node itself adds to the rules.

use crate::{Family, InterfaceName};
use ipnet::IpNet;
use std::net::IpAddr;

/// How packets of this node's own pods are recognised.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LocalTraffic {
    /// They are not.
    #[default]
    Unknown,
    /// By their source address: the cluster's or this node's pod range.
    Cidr(IpNet),
    /// By the bridge they come from.
    Bridge(InterfaceName),
    /// By the beginning of the name of the interface they come from.
    InterfacePrefix(InterfaceName),
}

/// On which of the node's own addresses node ports answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// On all of them.
    #[default]
    All,
    /// On these only.
    Only(Vec<IpAddr>),
}

/// Settings of the node, for one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// This node's name, for node hints.
    pub node: String,
    /// This node's zone, for zone hints.
    pub zone: Option<String>,
    /// This node's own addresses, to see whether source ranges let the node in.
    pub node_ips: Vec<IpAddr>,
    /// Which bit of the packet mark says "masquerade": 0 to 31, 14 by default. Higher values mean 31.
    pub masquerade_bit: u8,
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// How pods' own packets are recognised.
    pub local_traffic: LocalTraffic,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Node ports answer on 127.0.0.1 too (IPv4 only). Needs the sysctl `route_localnet`.
    pub localhost_node_ports: bool,
    /// Masquerade with random source ports: iptables has known how since 1.6.2.
    pub random_fully: bool,
    /// The kernel's connection tracking takes packets outside the TCP window for good ones, so invalid
    /// ones must not be dropped (sysctl `nf_conntrack_tcp_be_liberal`).
    pub conntrack_liberal: bool,
    /// The nfacct counters exist. A rule that names a missing one would be refused.
    pub nfacct: bool,
    /// From where the cluster takes its cluster IPs. Only the nftables back end looks at it: packets for
    /// addresses in there that no service has are dropped.
    pub service_ranges: Vec<IpNet>,
    /// Above this many endpoints the rules of endpoints carry no comments. Upstream's figure is 1000.
    pub large_cluster_threshold: usize,
}

impl Default for NodeConfig {
    /// Upstream's defaults, for a node without a name, a zone or addresses.
    fn default() -> Self {
        Self {
            node: String::new(),
            zone: None,
            node_ips: Vec::new(),
            masquerade_bit: 14,
            masquerade_all: false,
            local_traffic: LocalTraffic::Unknown,
            node_port_addresses: NodePortAddresses::All,
            localhost_node_ports: true,
            random_fully: true,
            conntrack_liberal: false,
            nfacct: false,
            service_ranges: Vec::new(),
            large_cluster_threshold: 1000,
        }
    }
}

impl NodeConfig {
    /// The bit of the packet mark as a number.
    pub fn mark(&self) -> u32 {
        1 << self.masquerade_bit.min(31)
    }

    /// Whether node ports answer on localhost: never for IPv6, which has nothing like `route_localnet`,
    /// and never where the selected addresses leave loopback out.
    pub fn serves_localhost(&self, family: Family) -> bool {
        let selected = match &self.node_port_addresses {
            NodePortAddresses::All => true,
            NodePortAddresses::Only(addresses) => addresses.iter().any(|ip| ip.is_ipv4() && ip.is_loopback()),
        };
        self.localhost_node_ports && family == Family::V4 && selected
    }

    /// How packets of this node's own pods are recognised, in the notation of iptables. A range of the
    /// other family recognises none.
    pub(crate) fn local_traffic_match(&self, family: Family) -> Option<String> {
        match &self.local_traffic {
            LocalTraffic::Cidr(range) => family.has_net(range).then(|| format!("-s {}", range.trunc())),
            LocalTraffic::Bridge(interface) => Some(format!("-i {}", interface.as_str())),
            LocalTraffic::InterfacePrefix(prefix) => Some(format!("-i {}+", prefix.as_str())),
            LocalTraffic::Unknown => None,
        }
    }

    pub(crate) fn has_address_in(&self, range: &IpNet) -> bool {
        self.node_ips.iter().any(|ip| range.contains(ip))
    }
}

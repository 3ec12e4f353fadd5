//! What the proxy is told once, and what rules need to know of the node at each moment.

use std::net::IpAddr;
use std::net::SocketAddr;

use ipnet::IpNet;
use netfilter::{Family, LocalTraffic, NodeConfig, NodePortAddresses};

use super::kernel::Turns;
use super::rows::range;
use super::snapshot::NodeFacts;
use super::sysctls::Conntrack;

/// How rules get into the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In the chains of kube-proxy's iptables mode, by whichever iptables this machine uses.
    #[default]
    Iptables,
    /// In the table of kube-proxy's nftables mode.
    Nftables,
}

impl Mode {
    /// As kube-proxy names it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// What the proxy must know of the node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name: endpoints of this name are here.
    pub node_name: String,
    /// The node's own addresses, its primary one of each family first.
    pub node_ips: Vec<IpAddr>,
    /// How rules get into the kernel.
    pub mode: Mode,
    /// How packets of this node's pods are recognised; the first that fits is taken for each family.
    pub local_traffic: Vec<LocalTraffic>,
    /// Where cluster IPs come from, where that is known.
    pub service_ranges: Vec<IpNet>,
    /// On which of the node's addresses node ports answer.
    pub node_ports: NodePorts,
    /// Node ports answer on 127.0.0.1 too. It sets the sysctl `route_localnet`, and so opens the node's loopback to
    /// whoever is on the same wire, but for the rule that closes it again.
    pub localhost_node_ports: bool,
    /// Which bit of the packet mark says "masquerade".
    pub masquerade_bit: u8,
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// Connection tracking as kube-proxy sets it; `None` leaves the node as it is.
    pub conntrack: Option<Conntrack>,
    /// Where `/healthz` and `/livez` answer.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` answers.
    pub metrics: Option<SocketAddr>,
    /// Shared with whoever else in this agent writes packet rules.
    pub turns: Turns,
    /// Nothing is touched before there is a Service, and everything is removed in the end: for a node on its own. In a
    /// cluster rules stay when the agent ends, so that Services work until the next one starts.
    pub on_its_own: bool,
}

impl Settings {
    /// A node of its own with this name; everything else as kube-proxy has it by default.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            mode: Mode::Iptables,
            local_traffic: Vec::new(),
            service_ranges: Vec::new(),
            node_ports: NodePorts::All,
            localhost_node_ports: false,
            masquerade_bit: 14,
            masquerade_all: false,
            conntrack: None,
            healthz: None,
            metrics: None,
            turns: Turns::default(),
            on_its_own: true,
        }
    }

    /// What rules of a family depend on. `addresses` are those of the node's interfaces now.
    pub(super) fn node_config(&self, family: Family, facts: &NodeFacts, addresses: &[IpAddr]) -> NodeConfig {
        NodeConfig {
            node: self.node_name.clone(),
            zone: facts.zone.clone(),
            node_ips: self.node_ips.iter().copied().filter(|ip| family.has(*ip)).collect(),
            masquerade_bit: self.masquerade_bit,
            masquerade_all: self.masquerade_all,
            local_traffic: self.local_traffic.iter().find(|local| fits(local, family)).cloned().unwrap_or_default(),
            node_port_addresses: self.node_port_addresses(family, addresses),
            localhost_node_ports: self.localhost_node_ports,
            conntrack_liberal: super::sysctls::is_liberal(),
            service_ranges: self.service_ranges.iter().copied().filter(|range| family.has_net(range)).collect(),
            ..NodeConfig::default()
        }
    }

    /// Where node ports of a family answer, with these addresses on the node's interfaces.
    pub(super) fn node_port_addresses(&self, family: Family, addresses: &[IpAddr]) -> NodePortAddresses {
        self.node_ports.chosen(family, &self.node_ips, addresses)
    }
}

fn fits(local: &LocalTraffic, family: Family) -> bool {
    match local {
        LocalTraffic::Cidr(range) => family.has_net(range),
        LocalTraffic::Bridge(_) | LocalTraffic::InterfacePrefix(_) => true,
        LocalTraffic::Unknown => false,
    }
}

/// On which of the node's addresses node ports answer (`--nodeport-addresses`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePorts {
    /// On all of them.
    All,
    /// On the node's primary address of each family.
    Primary,
    /// On those in one of these ranges.
    In(Vec<IpNet>),
}

/// A value that is neither a list of ranges nor `primary`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a range of addresses such as 192.0.2.0/24; \"primary\" stands alone")]
pub struct BadNodePorts(String);

impl NodePorts {
    /// Reads ranges, or the word `primary` alone. None at all means every address.
    ///
    /// # Errors
    /// The first that is neither.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Self, BadNodePorts> {
        match words {
            [] => Ok(Self::All),
            [word] if word.as_ref() == "primary" => Ok(Self::Primary),
            _ => {
                let read = |word: &S| range(word.as_ref()).ok_or_else(|| BadNodePorts(word.as_ref().to_owned()));
                Ok(Self::In(words.iter().map(read).collect::<Result<_, _>>()?))
            }
        }
    }

    /// No range of a family means all of its addresses, and so does one that holds everything: upstream's rule.
    fn chosen(&self, family: Family, own: &[IpAddr], addresses: &[IpAddr]) -> NodePortAddresses {
        let ranges: Vec<_> = match self {
            Self::All => Vec::new(),
            Self::Primary => {
                let own = own.iter().find(|ip| family.has(**ip) && !ip.is_loopback());
                return own.map_or(NodePortAddresses::All, |ip| NodePortAddresses::Only(vec![*ip]));
            }
            Self::In(ranges) => ranges.iter().filter(|range| family.has_net(range)).collect(),
        };
        if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
            return NodePortAddresses::All;
        }
        let mut chosen: Vec<_> =
            addresses.iter().copied().filter(|ip| ranges.iter().any(|range| range.contains(ip))).collect();
        chosen.sort_unstable();
        chosen.dedup();
        NodePortAddresses::Only(chosen)
    }
}

/// The addresses of this machine's interfaces, as the kernel lists those that are its own.
pub(super) fn own_addresses() -> Vec<IpAddr> {
    // Of the calling thread: tests give threads namespaces of their own.
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let mut addresses = v4_addresses(&read("fib_trie"));
    addresses.extend(v6_addresses(&read("if_inet6")));
    addresses
}

/// `|-- 192.0.2.10` with `/32 host LOCAL` behind it.
fn v4_addresses(trie: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<IpAddr>().ok();
        } else if line == "/32 host LOCAL" {
            addresses.extend(last);
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// 32 hexadecimal digits at the beginning of each line.
fn v6_addresses(listing: &str) -> Vec<IpAddr> {
    let words = listing.lines().filter_map(|line| line.get(..32));
    words.filter_map(|digits| u128::from_str_radix(digits, 16).ok()).map(|bits| IpAddr::V6(bits.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_answer_where_they_are_told_to() {
        let own: Vec<IpAddr> = ["192.0.2.10", "fd00::10"].map(|ip| ip.parse().unwrap()).into();
        let all: Vec<IpAddr> =
            ["127.0.0.1", "192.0.2.10", "10.0.0.1", "::1", "fd00::10"].map(|ip| ip.parse().unwrap()).into();
        let chosen = |words: &[&str], family| match NodePorts::parse(words).unwrap().chosen(family, &own, &all) {
            NodePortAddresses::All => "all".to_owned(),
            NodePortAddresses::Only(only) => format!("{only:?}"),
        };
        assert_eq!(chosen(&[], Family::V4), "all");
        assert_eq!(chosen(&["primary"], Family::V4), "[192.0.2.10]");
        assert_eq!(chosen(&["primary"], Family::V6), "[fd00::10]");
        assert_eq!(chosen(&["192.0.2.0/24", "127.0.0.0/8"], Family::V4), "[127.0.0.1, 192.0.2.10]");
        assert_eq!(chosen(&["192.0.2.0/24"], Family::V6), "all");
        assert_eq!(chosen(&["0.0.0.0/0"], Family::V4), "all");
        assert_eq!(chosen(&["198.51.100.0/24"], Family::V4), "[]");
        for bad in [vec!["primary", "10.0.0.0/8"], vec!["10.0.0.1"], vec!["web"]] {
            assert!(NodePorts::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_kernels_own_lists_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 2 0 2\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 127.255.255.255\n        /32 link BROADCAST\n     |-- 192.0.2.10\n        /32 host LOCAL\n";
        assert_eq!(v4_addresses(trie), ["127.0.0.1", "192.0.2.10"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let v6 = "fd000000000000000000000000000010 02 40 00 80     eth0\nshort\n";
        assert_eq!(v6_addresses(v6), ["fd00::10".parse::<IpAddr>().unwrap()]);
        assert!(own_addresses().iter().all(|ip| !ip.is_unspecified()));
    }
}

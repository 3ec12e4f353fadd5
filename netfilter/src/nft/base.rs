//! What no service changes: chains that the kernel calls, and those that look packets up.

use super::object::{Chain, Element, Object, ip};
use crate::{Family, LocalTraffic, NodeConfig, NodePortAddresses};

pub(super) const MARK: &str = "mark-for-masquerade";
pub(super) const REJECT: &str = "reject-chain";

/// Base chains: name, hook, and to which chains they lead. Priorities are dstnat (-100) - 10, filter (0),
/// dstnat and srcnat (100).
const HOOKS: [(&str, &str, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "type filter hook prerouting priority -110 ;",
        &["ct state new jump firewall-check"],
    ),
    ("filter-output-pre-dnat", "type filter hook output priority -110 ;", &["ct state new jump firewall-check"]),
    (
        "filter-input",
        "type filter hook input priority 0 ;",
        &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
    ),
    (
        "filter-forward",
        "type filter hook forward priority 0 ;",
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    (
        "filter-output",
        "type filter hook output priority 0 ;",
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    ("nat-prerouting", "type nat hook prerouting priority -100 ;", &["jump services"]),
    ("nat-output", "type nat hook output priority -100 ;", &["jump services"]),
    ("nat-postrouting", "type nat hook postrouting priority 100 ;", &["jump masquerading"]),
];

/// Chains that are always there, those that lead to others last.
pub(super) fn chains(family: Family, node: &NodeConfig) -> Vec<Chain> {
    let (ip, mark) = (ip(family), node.mark());
    let place = format!("{ip} daddr . meta l4proto . th dport");
    let node_ports = node_port_match(family, node);
    let mut chains = vec![
        Chain::new(MARK, vec![format!("meta mark set meta mark or {mark:#x}")]),
        Chain::new(REJECT, vec!["reject".to_owned()]),
        Chain::new("masquerading", masquerading(ip, mark)),
        Chain::new("firewall-check", vec![format!("{place} vmap @firewall-ips")]),
        Chain::new("service-endpoints-check", vec![format!("{place} vmap @no-endpoint-services")]),
        Chain::new(
            "nodeport-endpoints-check",
            vec![format!("{node_ports} meta l4proto . th dport vmap @no-endpoint-nodeports")],
        ),
        Chain::new("cluster-ips-check", cluster_ips_check(family, node)),
        Chain::new("services", services(family, node, &place, &node_ports)),
    ];
    chains.extend(HOOKS.map(|(name, hook, rules)| {
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        Chain { hook: Some(hook), ..Chain::new(name, rules) }
    }));
    chains
}

/// Elements that depend on the node alone.
pub(super) fn elements(family: Family, node: &NodeConfig) -> Vec<Element> {
    let NodePortAddresses::Only(addresses) = &node.node_port_addresses else { return Vec::new() };
    let usable = addresses.iter().filter(|ip| family.has(**ip) && !ip.is_loopback());
    let element = |key: String| Element { object: Object::NodePortIps, key: key.into(), verdict: None };
    usable.map(|ip| element(ip.to_string())).collect()
}

/// How packets of this node's own pods are recognised, and how all others are.
pub(super) fn local_traffic_match(family: Family, node: &NodeConfig) -> Option<[String; 2]> {
    let both = |what: String, value: String| [format!("{what} {value}"), format!("{what} != {value}")];
    match &node.local_traffic {
        LocalTraffic::Unknown => None,
        LocalTraffic::Cidr(range) => {
            family.has_net(range).then(|| both(format!("{} saddr", ip(family)), range.trunc().to_string()))
        }
        LocalTraffic::Bridge(name) => Some(both("iifname".to_owned(), format!("\"{}\"", name.as_str()))),
        LocalTraffic::InterfacePrefix(name) => Some(both("iifname".to_owned(), format!("\"{}*\"", name.as_str()))),
    }
}

fn masquerading(ip: &str, mark: u32) -> Vec<String> {
    vec![
        // Cleared, so that the packet is not masqueraded again after a tunnel has wrapped it.
        format!("meta mark and {mark:#x} != 0 meta mark set meta mark xor {mark:#x} masquerade fully-random"),
        format!(
            "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random"
        ),
    ]
}

fn services(family: Family, node: &NodeConfig, place: &str, node_ports: &str) -> Vec<String> {
    let ip = ip(family);
    let others = match local_traffic_match(family, node) {
        _ if node.masquerade_all => Some(String::new()),
        Some([_, others]) => Some(format!("{others} ")),
        None => None,
    };
    let masquerade = others.map(|others| format!("{ip} daddr @cluster-ips {others}jump {MARK}"));
    let look_up =
        [format!("{place} vmap @service-ips"), format!("{node_ports} meta l4proto . th dport vmap @service-nodeports")];
    masquerade.into_iter().chain(look_up).collect()
}

/// Never loopback: packets from 127.0.0.1 cannot leave the node under that address.
fn node_port_match(family: Family, node: &NodeConfig) -> String {
    let (ip, loopback) = match family {
        Family::V4 => ("ip", "127.0.0.0/8"),
        Family::V6 => ("ip6", "::1"),
    };
    match &node.node_port_addresses {
        NodePortAddresses::All => format!("fib daddr type local {ip} daddr != {loopback}"),
        NodePortAddresses::Only(_) => format!("{ip} daddr @nodeport-ips"),
    }
}

/// What no service took: other ports of cluster IPs are refused, addresses that no service has are lost.
fn cluster_ips_check(family: Family, node: &NodeConfig) -> Vec<String> {
    let ip = ip(family);
    let mut rules = vec![format!("{ip} daddr @cluster-ips reject")];
    let ranges = node.service_ranges.iter().filter(|range| family.has_net(range));
    rules.extend(ranges.map(|range| format!("{ip} daddr {} drop", range.trunc())));
    rules
}

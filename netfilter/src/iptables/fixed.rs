//! Rules that are there without any service.

use super::{Chain, Rule, Table};
use crate::{Family, NodeConfig, NodePortAddresses};
use std::net::IpAddr;

pub(crate) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
const TAIL: &str = "kubernetes service nodeports; NOTE: this must be the last rule in this chain";

/// The chains that no service changes, with their tables.
pub(super) fn chains(family: Family, node: &NodeConfig) -> Vec<(Table, Chain)> {
    let mut chains = vec![
        (Table::Nat, Chain { name: "KUBE-POSTROUTING".into(), rules: postrouting(node) }),
        (Table::Nat, Chain { name: MARK_MASQ.into(), rules: vec![mark_masquerade(node)] }),
        (Table::Filter, Chain { name: "KUBE-FORWARD".into(), rules: forward(node) }),
    ];
    if node.serves_localhost(family) {
        // With route_localnet on, neighbours could reach 127.0.0.1 of this node (CVE-2020-8558).
        chains.push((Table::Filter, Chain { name: "KUBE-FIREWALL".into(), rules: vec![block_localnet()] }));
    }
    chains
}

/// The last rules of nat KUBE-SERVICES: to the node ports.
pub(super) fn tail(family: Family, node: &NodeConfig) -> Vec<Rule> {
    let rule = |destination: String| Rule::comment(TAIL).matching(&destination).jump("KUBE-NODEPORTS");
    let localhost = node.serves_localhost(family);
    match &node.node_port_addresses {
        NodePortAddresses::All => {
            let except = match family {
                Family::V6 => " ! -d ::1/128",
                Family::V4 if !localhost => " ! -d 127.0.0.0/8",
                Family::V4 => "",
            };
            vec![rule(format!("-m addrtype --dst-type LOCAL{except}"))]
        }
        NodePortAddresses::Only(addresses) => {
            let usable = |ip: &&IpAddr| family.has(**ip) && (localhost || !ip.is_loopback());
            addresses.iter().filter(usable).map(|ip| rule(format!("-d {ip}"))).collect()
        }
    }
}

fn postrouting(node: &NodeConfig) -> Vec<Rule> {
    let mark = mark(node);
    let random = if node.random_fully { " --random-fully" } else { "" };
    vec![
        Rule::bare().with(format_args!("-m mark ! --mark {mark}/{mark}")).jump("RETURN"),
        // Cleared, so that the packet is not masqueraded again after a tunnel has wrapped it.
        Rule::bare().jump(format_args!("MARK --xor-mark {mark}")),
        Rule::comment("kubernetes service traffic requiring SNAT").jump(format_args!("MASQUERADE{random}")),
    ]
}

fn mark_masquerade(node: &NodeConfig) -> Rule {
    Rule::bare().jump(format_args!("MARK --or-mark {}", mark(node)))
}

fn forward(node: &NodeConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !node.conntrack_liberal {
        let count = if node.nfacct { "-m nfacct --nfacct-name ct_state_invalid_dropped_pkts" } else { "" };
        rules.push(Rule::bare().matching("-m conntrack --ctstate INVALID").matching(count).jump("DROP"));
    }
    let mark = mark(node);
    let marked = format!("-m mark --mark {mark}/{mark}");
    rules.push(Rule::comment("kubernetes forwarding rules").matching(&marked).jump("ACCEPT"));
    let known = "-m conntrack --ctstate RELATED,ESTABLISHED";
    rules.push(Rule::comment("kubernetes forwarding conntrack rule").matching(known).jump("ACCEPT"));
    rules
}

/// The same rule that the kubelet writes, so that both may.
pub(crate) fn block_localnet() -> Rule {
    Rule::comment("block incoming localnet connections")
        .matching("-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT")
        .jump("DROP")
}

fn mark(node: &NodeConfig) -> String {
    format!("{:#010x}", node.mark())
}

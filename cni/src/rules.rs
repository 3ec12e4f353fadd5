//! Packet rules as values: configuration and leases in, text for `iptables-restore` out.
//!
//! All rules stand in chains of our own, named by the instance and always written whole, so that the rules are a function
//! of the leases. The built-in chains get one jump each; jumps are appended, so that what an administrator or a network
//! policy put there first decides first. Only the loopback guard goes first: it must not be passed by.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::{config::NetworkConfig, ids::Instance, leases::Lease, peers::Peer, ports::HostPort};

/// One jump from a built-in chain into a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Jump {
    pub(crate) from: &'static str,
    pub(crate) to: String,
    matches: String,
    first: bool,
}

/// One of our chains with all its rules, each without the leading `-A <chain>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    rules: Vec<String>,
}

/// Our part of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) chains: Vec<Chain>,
    pub(crate) jumps: Vec<Jump>,
}

/// What to do about the jumps in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jumps<'a> {
    /// The transaction fails, and changes nothing, when one is missing.
    Check,
    /// These are missing and are added: (table, from, to).
    Add(&'a [(String, String, String)]),
}

/// Everything that should be in the kernel.
pub(crate) fn ruleset(
    config: &NetworkConfig,
    leases: &BTreeMap<Ipv4Addr, Lease>,
    peers: &BTreeSet<Peer>,
) -> Vec<Table> {
    let mut tables = vec![nat(config, leases, peers), filter(config, peers)];
    if needs_loopback(leases) {
        tables.insert(0, loopback_guard(config));
    }
    tables
}

/// The part of [`ruleset`] that a change of host ports changes. The guard's table is left out once it is known to stand.
pub(crate) fn port_rules_only(tables: Vec<Table>, is_guarded: bool) -> Vec<Table> {
    tables.into_iter().filter(|table| table.name == "nat" || (table.name == "raw" && !is_guarded)).collect()
}

/// Every table that may ever hold something of ours.
pub(crate) fn every_table(config: &NetworkConfig) -> Vec<Table> {
    vec![loopback_guard(config), nat(config, &BTreeMap::new(), &BTreeSet::new()), filter(config, &BTreeSet::new())]
}

/// Whether some pod's port must answer on 127.0.0.0/8 of the node.
pub(crate) fn needs_loopback(leases: &BTreeMap<Ipv4Addr, Lease>) -> bool {
    leases.values().flat_map(|lease| &lease.ports).any(HostPort::covers_loopback)
}

/// `route_localnet` lets pods reach the node's 127.0.0.0/8 (CVE-2020-8558). Nothing that arrives on the bridge may carry
/// such an address: answers to the node's own connections arrive with the bridge's address, before it is translated back.
fn loopback_guard(config: &NetworkConfig) -> Table {
    let (name, bridge) = (chain_name(&config.instance, "LOOP"), &config.bridge);
    let rules = ["-s", "-d"]
        .map(|side| format!("-i {bridge} {side} 127.0.0.0/8 {} -j DROP", comment(config, "loopback guard")));
    let jump = jump(config, "PREROUTING", &name, "", true);
    Table { name: "raw", chains: vec![Chain { name, rules: rules.into() }], jumps: vec![jump] }
}

fn nat(config: &NetworkConfig, leases: &BTreeMap<Ipv4Addr, Lease>, peers: &BTreeSet<Peer>) -> Table {
    let (ports, masquerade) = (chain_name(&config.instance, "PORT"), chain_name(&config.instance, "MASQ"));
    let jumps = vec![
        jump(config, "PREROUTING", &ports, "-m addrtype --dst-type LOCAL ", false),
        jump(config, "OUTPUT", &ports, "-m addrtype --dst-type LOCAL ", false),
        jump(config, "POSTROUTING", &masquerade, "", false),
    ];
    let chains = vec![
        Chain { name: ports, rules: port_rules(config, leases) },
        Chain { name: masquerade, rules: masquerade_rules(config, leases, peers) },
    ];
    Table { name: "nat", chains, jumps }
}

fn port_rules(config: &NetworkConfig, leases: &BTreeMap<Ipv4Addr, Lease>) -> Vec<String> {
    let mut rules = Vec::new();
    for (address, lease) in leases {
        for port in &lease.ports {
            let bound = port.bound_to().map_or_else(String::new, |host| format!("-d {host}/32 "));
            let (protocol, comment) = (port.protocol.keyword(), comment(config, lease.sandbox.as_str()));
            let (outer, inner) = (port.host_port, port.container_port);
            rules.push(format!(
                "{bound}-p {protocol} -m {protocol} --dport {outer} {comment} -j DNAT --to-destination {address}:{inner}"
            ));
        }
    }
    rules
}

fn masquerade_rules(config: &NetworkConfig, leases: &BTreeMap<Ipv4Addr, Lease>, peers: &BTreeSet<Peer>) -> Vec<String> {
    let pods = config.pod_cidr;
    let mut rules = Vec::new();
    if needs_loopback(leases) {
        // The pod could not answer 127.0.0.1 otherwise.
        rules.push(format!("-s 127.0.0.0/8 -d {pods} {} -j MASQUERADE", comment(config, "host ports on localhost")));
    }
    // A pod that reaches itself by a translated address would see its own address as the peer and never answer the node.
    for (address, lease) in leases.iter().filter(|(_, lease)| !lease.ports.is_empty()) {
        let comment = comment(config, lease.sandbox.as_str());
        rules.push(format!("-s {address}/32 -d {address}/32 -m conntrack --ctstate DNAT {comment} -j MASQUERADE"));
    }
    rules.push(format!("! -s {pods} -j RETURN"));
    let inside = [pods].into_iter().chain(known_by_address(config, peers)).chain([multicast()]);
    rules.extend(inside.map(|net| format!("-d {net} -j RETURN")));
    // Ports are chosen at random so that two connections in the same instant do not lose the race for one.
    rules.push(format!("{} -j MASQUERADE --random-fully", comment(config, "leaves the pod network")));
    rules
}

/// For nodes whose FORWARD policy is DROP. `DNAT` are connections that a service or host port sent here.
fn filter(config: &NetworkConfig, peers: &BTreeSet<Peer>) -> Table {
    let (name, bridge) = (chain_name(&config.instance, "FWD"), &config.bridge);
    let mut rules = vec![
        format!("-i {bridge} -s {} -j ACCEPT", config.pod_cidr),
        format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"),
    ];
    // The other nodes themselves too: what runs on them without a network of its own reaches every pod.
    let nodes = Ipv4Net::aggregate(&peers.iter().map(|peer| Ipv4Net::from(peer.node)).collect());
    let from = known_by_address(config, peers).into_iter().chain(nodes);
    rules.extend(from.map(|net| format!("-o {bridge} -s {net} -j ACCEPT")));
    let jump = jump(config, "FORWARD", &name, "", false);
    Table { name: "filter", chains: vec![Chain { name, rules }], jumps: vec![jump] }
}

/// Networks whose pods see ours by their own addresses; neighbouring ranges as one, so that a large cluster is a few rules.
fn known_by_address(config: &NetworkConfig, peers: &BTreeSet<Peer>) -> Vec<Ipv4Net> {
    let pods = peers.iter().map(|peer| peer.pods).collect();
    config.no_masquerade.iter().copied().chain(Ipv4Net::aggregate(&pods)).collect()
}

fn multicast() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)
}

/// At most 10 + 12 + 5 bytes; the kernel allows 28.
fn chain_name(instance: &Instance, suffix: &str) -> String {
    format!("LONGSHORE-{instance}-{suffix}")
}

fn comment(config: &NetworkConfig, about: &str) -> String {
    format!("-m comment --comment \"longshore {}: {about}\"", config.instance)
}

fn jump(config: &NetworkConfig, from: &'static str, to: &str, matches: &str, first: bool) -> Jump {
    Jump { from, to: to.to_owned(), matches: format!("{matches}{}", comment(config, "pod network")), first }
}

impl Jump {
    /// The rule without its chain.
    pub(crate) fn rule(&self) -> String {
        format!("{} -j {}", self.matches, self.to)
    }

    fn add(&self) -> String {
        let verb = if self.first { "-I" } else { "-A" };
        format!("{verb} {} {}", self.from, self.rule())
    }
}

/// The input of one `iptables-restore --noflush`. Naming a chain empties it, in the same step that fills it.
pub(crate) fn transaction(tables: &[Table], jumps: Jumps<'_>) -> String {
    let mut text = String::new();
    for table in tables {
        _ = writeln!(text, "*{}", table.name);
        for chain in &table.chains {
            _ = writeln!(text, ":{} - [0:0]", chain.name);
        }
        for chain in &table.chains {
            for rule in &chain.rules {
                _ = writeln!(text, "-A {} {rule}", chain.name);
            }
        }
        for jump in &table.jumps {
            match jumps {
                Jumps::Check => _ = writeln!(text, "-C {} {}", jump.from, jump.rule()),
                Jumps::Add(missing)
                    if missing.iter().any(|(name, from, to)| {
                        (name.as_str(), from.as_str(), to.as_str()) == (table.name, jump.from, jump.to.as_str())
                    }) =>
                {
                    _ = writeln!(text, "{}", jump.add())
                }
                Jumps::Add(_) => (),
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The input that removes the chains of these tables; the jumps must be gone.
pub(crate) fn removal(tables: &[Table]) -> String {
    let mut text = String::new();
    for table in tables {
        _ = writeln!(text, "*{}", table.name);
        for chain in &table.chains {
            _ = writeln!(text, ":{} - [0:0]\n-X {}", chain.name, chain.name);
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Which of our chains and jumps are in the kernel, from the output of `iptables-save`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// (table, chain)
    chains: Vec<(String, String)>,
    /// (table, from, to)
    jumps: Vec<(String, String, String)>,
}

impl Present {
    /// Reads what `iptables-save` printed. Jumps are known by where they lead: the rest of the line is written
    /// differently by different versions.
    pub(crate) fn read(saved: &str) -> Self {
        let (mut present, mut table) = (Self::default(), "");
        for line in saved.lines() {
            let mut words = line.split_ascii_whitespace();
            match (words.next(), words.next()) {
                (Some(word), _) if word.starts_with('*') => table = &word[1..],
                (Some(word), _) if word.starts_with(':') => {
                    present.chains.push((table.to_owned(), word[1..].to_owned()))
                }
                (Some("-A"), Some(from)) => {
                    let target = line.rsplit_once(" -j ").map_or("", |(_, target)| target.trim());
                    present.jumps.push((table.to_owned(), from.to_owned(), target.to_owned()));
                }
                _ => (),
            }
        }
        present.jumps.retain(|(_, _, to)| to.starts_with("LONGSHORE-"));
        present
    }

    /// The jumps that should be there and are not.
    pub(crate) fn missing(&self, tables: &[Table]) -> Vec<(String, String, String)> {
        let wanted = tables.iter().flat_map(|table| {
            table.jumps.iter().map(|jump| (table.name.to_owned(), jump.from.to_owned(), jump.to.clone()))
        });
        wanted.filter(|jump| !self.jumps.contains(jump)).collect()
    }

    /// The tables, reduced to what is there.
    pub(crate) fn of(&self, tables: Vec<Table>) -> Vec<Table> {
        let reduce = |mut table: Table| {
            let name = table.name.to_owned();
            table.chains.retain(|chain| self.chains.contains(&(name.clone(), chain.name.clone())));
            table.jumps.retain(|jump| self.jumps.contains(&(name.clone(), jump.from.to_owned(), jump.to.clone())));
            table
        };
        tables.into_iter().map(reduce).filter(|table| !table.chains.is_empty() || !table.jumps.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests;

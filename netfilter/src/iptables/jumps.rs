//! Jumps from the kernel's own chains into ours.
//!
//! They are not part of a ruleset: other programs own those chains too, so each jump is looked for and
//! put in front if it is missing, one by one.

use super::{Rule, Table, Tables};
use std::fmt;

/// One jump from a built-in chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// The table of both chains.
    pub table: Table,
    /// The built-in chain.
    pub from: &'static str,
    /// Our chain.
    pub to: &'static str,
    /// Only for the first packet of a connection.
    pub only_new: bool,
    /// The comment, empty for none.
    pub comment: &'static str,
}

/// Every jump, in the order in which they are put in front: the last one ends up first.
pub const JUMPS: [Jump; 14] = [
    filter_new("INPUT", "KUBE-EXTERNAL-SERVICES", "kubernetes externally-visible service portals"),
    filter_new("FORWARD", "KUBE-EXTERNAL-SERVICES", "kubernetes externally-visible service portals"),
    filter("INPUT", "KUBE-NODEPORTS", "kubernetes health check service ports"),
    filter_new("FORWARD", "KUBE-SERVICES", "kubernetes service portals"),
    filter_new("OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    filter("FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    filter_new("INPUT", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall"),
    filter_new("OUTPUT", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall"),
    filter_new("FORWARD", "KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall"),
    nat("OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    nat("PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
    nat("POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    filter("INPUT", "KUBE-FIREWALL", ""),
    filter("OUTPUT", "KUBE-FIREWALL", ""),
];

/// The kubelet's own jumps, in the order in which it puts them in front.
pub const KUBELET_JUMPS: [Jump; 2] = [filter("OUTPUT", "KUBE-FIREWALL", ""), filter("INPUT", "KUBE-FIREWALL", "")];

const fn filter(from: &'static str, to: &'static str, comment: &'static str) -> Jump {
    Jump { table: Table::Filter, from, to, only_new: false, comment }
}

const fn filter_new(from: &'static str, to: &'static str, comment: &'static str) -> Jump {
    Jump { table: Table::Filter, from, to, only_new: true, comment }
}

const fn nat(from: &'static str, to: &'static str, comment: &'static str) -> Jump {
    Jump { table: Table::Nat, from, to, only_new: false, comment }
}

impl Jump {
    /// The jump as a rule of the chain it leads from.
    pub fn rule(&self) -> Rule {
        Rule::bare().matching(&self.to_string()).without_target()
    }

    /// Those of [`JUMPS`] that a listing lacks, in order.
    pub fn missing_from(tables: &Tables) -> Vec<Jump> {
        let is_there = |jump: &Jump| {
            let rules = tables.rules(jump.table, jump.from).unwrap_or_default();
            jump.rule().saved(tables.family()).is_ok_and(|saved| rules.contains(&saved))
        };
        JUMPS.into_iter().filter(|jump| !is_there(jump)).collect()
    }

    /// Whether it belongs to the proxy alone. The kubelet has jumps to `KUBE-FIREWALL` too, so cleaning
    /// up leaves those.
    pub fn is_ours_alone(&self) -> bool {
        self.to != "KUBE-FIREWALL"
    }
}

impl fmt::Display for Jump {
    /// Everything that stands behind `-C CHAIN ` or `-I CHAIN `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.only_new {
            f.write_str("-m conntrack --ctstate NEW ")?;
        }
        if !self.comment.is_empty() {
            write!(f, "-m comment --comment \"{}\" ", self.comment)?;
        }
        write!(f, "-j {}", self.to)
    }
}

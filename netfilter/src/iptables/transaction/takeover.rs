//! From whatever is in the kernel to a ruleset, or to nothing.

use super::between::SERVICES_PER_SECTION;
use super::{CHAINS_PER_SECTION, Op, Section, Transaction};
use crate::ServicePortName;
use crate::iptables::tables::{Tables, built_in};
use crate::iptables::{Chain, Dispatch, Rule, Ruleset, Table};
use std::collections::HashSet;

/// How the chains of single service ports and endpoints begin.
const PER_SERVICE: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-"];

impl Transaction {
    /// What leads from `found` to `new`, whoever wrote what was found: kube-proxy, an earlier run, or
    /// somebody's hand. Chains that already are as they should be stay untouched; chains of services that
    /// are no more go. Nothing stops working on the way.
    pub fn takeover(found: &Tables, new: &Ruleset) -> Self {
        let own = || new.services.values().flat_map(|rules| rules.chains());
        // A service's chains lead to each other, so none is cut in two.
        let services: Vec<_> = new.services.iter().collect();
        let differing = services.chunks(SERVICES_PER_SECTION).map(|services| {
            let own = services.iter().flat_map(|(name, rules)| rules.chains().iter().map(|chain| (Some(*name), chain)));
            let differing = own.filter(|(_, chain)| !is_as_wanted(found, Table::Nat, chain, new));
            written(Table::Nat, &differing.collect::<Vec<_>>())
        });
        let names: HashSet<_> = own().map(|chain| &*chain.name).collect();
        let stale: Vec<_> =
            found.chains(Table::Nat).filter(|name| is_per_service(name) && !names.contains(name)).collect();
        let mut sections = vec![fixed(found, Table::Filter, new), missing_filter_rules(found, new)];
        sections.push(fixed(found, Table::Nat, new));
        sections.extend(differing);
        sections.push(differing_dispatch(found, Table::Nat, new));
        sections.extend(emptied(Table::Nat, &stale));
        sections.extend(removed(Table::Nat, &stale));
        sections.push(differing_dispatch(found, Table::Filter, new));
        Self::new(new.family(), sections)
    }

    /// What removes everything that belongs to the proxy, jumps first. KUBE-FIREWALL with its jumps and
    /// the kubelet's own chains stay.
    pub fn cleanup(found: &Tables) -> Self {
        Self::removing(found, is_ours)
    }

    /// The same with KUBE-FIREWALL, unless a kubelet has left its canary: nobody else needs it on a node whose loopback is
    /// closed.
    pub fn cleanup_with_firewall(found: &Tables) -> Self {
        let has_kubelet = found.chains(Table::Mangle).any(|name| name == "KUBE-KUBELET-CANARY");
        let is_firewall = |table, name: &str| table == Table::Filter && name == "KUBE-FIREWALL" && !has_kubelet;
        Self::removing(found, |table, name| is_ours(table, name) || is_firewall(table, name))
    }

    /// The same with KUBE-FIREWALL and what else a kubelet makes, where no other kubelet needs it.
    pub fn cleanup_with_kubelet(found: &Tables) -> Self {
        Self::removing(found, |table, name| is_ours(table, name) || is_kubelets(table, name))
    }

    fn removing(found: &Tables, is_gone: impl Fn(Table, &str) -> bool) -> Self {
        let mut sections = Vec::new();
        for table in [Table::Filter, Table::Nat, Table::Mangle] {
            let ours: Vec<_> = found.chains(table).filter(|name| is_gone(table, name)).collect();
            let (own, shared): (Vec<&str>, Vec<&str>) = ours.iter().copied().partition(|name| is_per_service(name));
            sections.push(jumps_removed(found, table, &ours));
            // The shared chains lead to the others, so they lose their rules first and go last.
            sections.extend(emptied(table, &shared));
            sections.extend(emptied(table, &own));
            sections.extend(removed(table, &own));
            sections.extend(removed(table, &shared));
        }
        Self::new(found.family(), sections)
    }
}

fn is_shared(table: Table, name: &str) -> bool {
    Dispatch::ALL.iter().any(|chain| chain.table() == table && chain.chain() == name)
}

fn is_per_service(name: &str) -> bool {
    PER_SERVICE.iter().any(|prefix| name.starts_with(prefix))
}

fn is_ours(table: Table, name: &str) -> bool {
    match (table, name) {
        (_, "KUBE-PROXY-CANARY")
        | (Table::Nat, "KUBE-POSTROUTING" | "KUBE-MARK-MASQ")
        | (Table::Filter, "KUBE-FORWARD") => true,
        (Table::Nat, _) => is_shared(table, name) || is_per_service(name),
        _ => is_shared(table, name),
    }
}

fn is_kubelets(table: Table, name: &str) -> bool {
    matches!(
        (table, name),
        (_, "KUBE-KUBELET-CANARY") | (Table::Filter, "KUBE-FIREWALL") | (Table::Mangle, "KUBE-IPTABLES-HINT")
    )
}

fn printed(chain: &Chain, new: &Ruleset) -> Option<Vec<String>> {
    chain.rules.iter().map(|rule| rule.saved(new.family()).ok()).collect()
}

fn is_as_wanted(found: &Tables, table: Table, chain: &Chain, new: &Ruleset) -> bool {
    let printed = printed(chain, new);
    printed.is_some() && found.rules(table, &chain.name) == printed.as_deref()
}

/// Rules of a shared chain may stand in any order, but for those at the end of nat KUBE-SERVICES.
fn has_same_rules(found: &Tables, table: Table, chain: &Chain, new: &Ruleset) -> bool {
    let (Some(mut wanted), Some(there)) = (printed(chain, new), found.rules(table, &chain.name)) else { return false };
    let mut there = there.to_vec();
    let tail = if table == Table::Nat && &*chain.name == Dispatch::NatServices.chain() { new.tail_length() } else { 0 };
    if wanted.len() != there.len() || wanted.iter().rev().take(tail).ne(there.iter().rev().take(tail)) {
        return false;
    }
    wanted.sort_unstable();
    there.sort_unstable();
    wanted == there
}

fn fixed(found: &Tables, table: Table, new: &Ruleset) -> Section {
    let fixed = new.base.iter().flat_map(|base| &base.fixed).filter(|(of, _)| *of == table);
    let differing = fixed.filter(|(_, chain)| !is_as_wanted(found, table, chain, new));
    written(table, &differing.map(|(_, chain)| (None, chain)).collect::<Vec<_>>())
}

fn written(table: Table, chains: &[(Option<&ServicePortName>, &Chain)]) -> Section {
    let mut section = Section::new(table);
    chains.iter().for_each(|(owner, chain)| section.write(&chain.name, &chain.rules, *owner));
    section
}

/// Shared chains with other rules than they should have. Missing ones of filter are already written.
fn differing_dispatch(found: &Tables, table: Table, new: &Ruleset) -> Section {
    let mut section = Section::new(table);
    for dispatch in Dispatch::ALL.into_iter().filter(|dispatch| dispatch.table() == table) {
        let is_written = table == Table::Filter && found.rules(table, dispatch.chain()).is_none();
        if !is_written && !has_same_rules(found, table, &new.dispatch(dispatch), new) {
            new.write_dispatch(dispatch, &mut section);
        }
    }
    section
}

/// REJECT and DROP that are not there yet, before nat stops leading their packets elsewhere. Missing
/// chains are made on the way.
fn missing_filter_rules(found: &Tables, new: &Ruleset) -> Section {
    let mut section = Section::new(Table::Filter);
    for dispatch in Dispatch::ALL.into_iter().filter(|dispatch| dispatch.table() == Table::Filter) {
        let Some(there) = found.rules(Table::Filter, dispatch.chain()) else {
            new.write_dispatch(dispatch, &mut section);
            continue;
        };
        let there: HashSet<_> = there.iter().collect();
        for (name, rules) in &new.services {
            let is_missing = |rule: &&Rule| rule.saved(new.family()).map_or(true, |saved| !there.contains(&saved));
            for rule in rules.rules_in(dispatch).filter(is_missing) {
                section.edit(Op::Insert(dispatch.chain().into(), rule.clone()), Some(name));
            }
        }
    }
    section
}

/// Which stale chain refers to which is not known, so all are emptied before the first is removed.
fn emptied(table: Table, chains: &[&str]) -> Vec<Section> {
    let emptied = chains.chunks(CHAINS_PER_SECTION).map(|chunk| {
        let mut section = Section::new(table);
        section.chains.extend(chunk.iter().map(|name| ((*name).into(), None)));
        section
    });
    emptied.collect()
}

fn removed(table: Table, chains: &[&str]) -> Vec<Section> {
    let removed = chains.chunks(CHAINS_PER_SECTION).map(|chunk| {
        let mut section = Section::new(table);
        chunk.iter().for_each(|name| section.edit(Op::DeleteChain((*name).into()), None));
        section
    });
    removed.collect()
}

/// Rules of built-in chains that lead to ours, whatever they match.
fn jumps_removed(found: &Tables, table: Table, ours: &[&str]) -> Section {
    let mut section = Section::new(table);
    for chain in built_in(table) {
        let rules = found.rules(table, chain).unwrap_or_default();
        let leads_to_us = |rule: &&String| rule.rsplit_once("-j ").is_some_and(|(_, target)| ours.contains(&target));
        for rule in rules.iter().filter(leads_to_us) {
            section.edit(Op::Delete((*chain).into(), Rule::bare().matching(rule).without_target()), None);
        }
    }
    section
}

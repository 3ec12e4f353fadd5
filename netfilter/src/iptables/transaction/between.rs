//! From one ruleset to the next.
//!
//! Between two sections packets flow, so their order matters. What a service needs is there before
//! anything leads to it, and nothing leads to a chain when it goes. REJECT and DROP in the filter table
//! come before nat stops rewriting and go after nat has begun: a packet for a service address that
//! neither table knows would leave the node, and its UDP connection would stick to that path. As long as
//! few services change, all of nat is one section and changes in one instant.

use super::{Op, Section, Transaction};
use crate::ServicePortName;
use crate::iptables::ruleset::Ruleset;
use crate::iptables::service::ServiceRules;
use crate::iptables::{Chain, ChainName, Dispatch, JUMPS, Rule, Table};
use crate::walk::{Differing, differing};
use std::collections::HashSet;

/// See [`CHAINS_PER_SECTION`](super::CHAINS_PER_SECTION); a service of two endpoints has three chains.
pub(super) const SERVICES_PER_SECTION: usize = 250;

/// Taking one rule out of a chain of 5,000 costs 0.1 s, writing them all 0.4 s, and each further rule
/// taken out costs a search: beyond this many the chain is written anew.
const MOST_DELETIONS: usize = 64;

impl Transaction {
    /// What leads from `old` to `new`, both of one address family.
    ///
    /// It fails in the kernel if `old` is not what is there; [`Transaction::takeover`] starts from what is.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        let changed = changed_services(old, new);
        let Dispatched { early, nat, late } = match &new.base {
            Some(_) => Dispatched::between(old, new, &changed),
            None => Dispatched::emptied(old),
        };
        let mut sections = vec![fixed(old, new, Table::Filter), early, fixed(old, new, Table::Nat)];
        sections.extend(changed.chunks(SERVICES_PER_SECTION).map(written_chains));
        sections.push(nat);
        sections.extend(changed.chunks(SERVICES_PER_SECTION).map(stale_chains));
        sections.push(late);
        sections.extend(new.base.is_none().then(|| without_base(old)).into_iter().flatten());
        Self::new(new.family(), sections)
    }

    /// Everything, with the jumps from built-in chains, for tables that hold nothing yet.
    pub fn from_nothing(new: &Ruleset) -> Self {
        let mut transaction = Self::between(&Ruleset::empty(new.family()), new);
        for table in [Table::Filter, Table::Nat] {
            let mut section = Section::new(table);
            let firewall = table == Table::Filter && !new.serves_localhost();
            section.chains.extend(firewall.then(|| ("KUBE-FIREWALL".into(), None)));
            for jump in JUMPS.iter().filter(|jump| jump.table == table) {
                section.edit(Op::Insert(jump.from.into(), jump.rule()), None);
            }
            transaction.sections.push(section);
        }
        transaction
    }
}

/// A service port whose rules differ: before and after.
struct Changed<'a> {
    name: &'a ServicePortName,
    old: Option<&'a ServiceRules>,
    new: Option<&'a ServiceRules>,
}

fn changed_services<'a>(old: &'a Ruleset, new: &'a Ruleset) -> Vec<Changed<'a>> {
    let changed = differing(&old.services, &new.services).into_iter();
    changed.map(|Differing { key: name, old, new }| Changed { name, old, new }).collect()
}

fn chains(rules: Option<&ServiceRules>) -> &[Chain] {
    rules.map_or(&[], ServiceRules::chains)
}

fn written_chains(services: &[Changed<'_>]) -> Section {
    let mut section = Section::new(Table::Nat);
    for Changed { name, old, new } in services {
        let old = chains(*old);
        for chain in chains(*new).iter().filter(|chain| !old.contains(chain)) {
            section.write(&chain.name, &chain.rules, Some(name));
        }
    }
    section
}

fn stale_chains(services: &[Changed<'_>]) -> Section {
    let mut section = Section::new(Table::Nat);
    for Changed { name, old, new } in services {
        let kept: HashSet<&ChainName> = chains(*new).iter().map(|chain| &chain.name).collect();
        for chain in chains(*old).iter().filter(|chain| !kept.contains(&chain.name)) {
            section.remove(&chain.name, Some(name));
        }
    }
    section
}

/// What depends on the node alone, where it differs. KUBE-FIREWALL is the kubelet's too: once written it
/// stays.
fn fixed(old: &Ruleset, new: &Ruleset, table: Table) -> Section {
    let mut section = Section::new(table);
    let before = old.base.as_ref().map(|base| base.fixed.as_slice()).unwrap_or_default();
    let now = new.base.as_ref().map(|base| base.fixed.as_slice()).unwrap_or_default();
    for (_, chain) in now.iter().filter(|entry| entry.0 == table && !before.contains(entry)) {
        section.write(&chain.name, &chain.rules, None);
    }
    section
}

/// The shared chains: filter rules that come, all nat rules, filter rules that go.
struct Dispatched {
    early: Section,
    nat: Section,
    late: Section,
}

impl Dispatched {
    fn nothing() -> Self {
        Self { early: Section::new(Table::Filter), nat: Section::new(Table::Nat), late: Section::new(Table::Filter) }
    }

    fn between(old: &Ruleset, new: &Ruleset, changed: &[Changed<'_>]) -> Self {
        let mut sections = Self::nothing();
        for chain in Dispatch::ALL {
            let diff = Difference::of(old, new, changed, chain);
            match chain.table() {
                Table::Nat if diff.is_large() => new.write_dispatch(chain, &mut sections.nat),
                Table::Nat => {
                    diff.delete(&mut sections.nat);
                    diff.insert(&mut sections.nat);
                }
                _ if old.base.is_none() => new.write_dispatch(chain, &mut sections.early),
                _ => {
                    diff.insert(&mut sections.early);
                    sections.remove_late(&diff, new);
                }
            }
        }
        sections
    }

    fn remove_late(&mut self, diff: &Difference<'_>, new: &Ruleset) {
        if diff.is_large() { new.write_dispatch(diff.chain, &mut self.late) } else { diff.delete(&mut self.late) }
    }

    /// The shared chains of nat lose their rules, so that service chains can go.
    fn emptied(old: &Ruleset) -> Self {
        let mut sections = Self::nothing();
        if old.base.is_some() {
            let chains = [Dispatch::NatServices, Dispatch::NatNodePorts];
            sections.nat.chains.extend(chains.map(|chain| (chain.chain().into(), None)));
        }
        sections
    }
}

/// What one shared chain loses and gains.
struct Difference<'a> {
    chain: Dispatch,
    gone: Vec<(&'a Rule, &'a ServicePortName)>,
    /// In the order in which they stand.
    come: Vec<(&'a Rule, &'a ServicePortName)>,
    /// The chain is not there yet, or its last rules are others now: it has to be written as a whole.
    whole: bool,
}

impl<'a> Difference<'a> {
    fn of(old: &Ruleset, new: &Ruleset, changed: &'a [Changed<'a>], chain: Dispatch) -> Self {
        let mut diff = Self {
            chain,
            gone: Vec::new(),
            come: Vec::new(),
            whole: old.base.is_none() || tails_differ(old, new, chain),
        };
        for Changed { name, old, new } in changed {
            let rules = |rules: Option<&'a ServiceRules>| -> Vec<_> {
                rules.into_iter().flat_map(|rules| rules.rules_in(chain)).collect()
            };
            let (old, new) = (rules(*old), rules(*new));
            diff.gone.extend(subtract(&old, &new).into_iter().map(|rule| (rule, *name)));
            diff.come.extend(subtract(&new, &old).into_iter().map(|rule| (rule, *name)));
        }
        diff
    }

    fn is_large(&self) -> bool {
        self.whole || self.gone.len() > MOST_DELETIONS
    }

    fn delete(&self, section: &mut Section) {
        for (rule, owner) in &self.gone {
            section.edit(Op::Delete(self.chain.chain().into(), (*rule).clone()), Some(owner));
        }
    }

    /// In front, last one first: they end up in their order, and before the last rule of the chain.
    fn insert(&self, section: &mut Section) {
        for (rule, owner) in self.come.iter().rev() {
            section.edit(Op::Insert(self.chain.chain().into(), (*rule).clone()), Some(owner));
        }
    }
}

/// The rules of `from` that are not in `other`, counting repetitions.
fn subtract<'a>(from: &[&'a Rule], other: &[&'a Rule]) -> Vec<&'a Rule> {
    let mut other = other.to_vec();
    let mut left = Vec::new();
    for rule in from {
        match other.iter().position(|candidate| candidate == rule) {
            Some(index) => drop(other.swap_remove(index)),
            None => left.push(*rule),
        }
    }
    left
}

fn tails_differ(old: &Ruleset, new: &Ruleset, chain: Dispatch) -> bool {
    let tail = |ruleset: &Ruleset| ruleset.base.as_ref().map(|base| base.tail.clone());
    chain == Dispatch::NatServices && tail(old) != tail(new)
}

/// The shared and fixed chains go, all but KUBE-FIREWALL. The jumps to them must be gone already.
fn without_base(old: &Ruleset) -> [Section; 2] {
    let mut sections = [Section::new(Table::Filter), Section::new(Table::Nat)];
    let Some(base) = &old.base else { return sections };
    let shared = Dispatch::ALL.map(|chain| (chain.table(), chain.chain().into()));
    let fixed = base.fixed.iter().map(|(table, chain)| (*table, chain.name.clone()));
    for (table, chain) in shared.into_iter().chain(fixed).filter(|(_, chain)| &**chain != "KUBE-FIREWALL") {
        let section = sections.iter_mut().find(|section| section.table == table);
        section.into_iter().for_each(|section| section.remove(&chain, None));
    }
    sections
}

impl Ruleset {
    pub(super) fn write_dispatch(&self, chain: Dispatch, section: &mut Section) {
        section.chains.push((chain.chain().into(), None));
        for (name, rules) in &self.services {
            for rule in rules.rules_in(chain) {
                section.edit(Op::Append(chain.chain().into(), rule.clone()), Some(name));
            }
        }
        let tail = self.base.iter().flat_map(|base| &base.tail).filter(|_| chain == Dispatch::NatServices);
        for rule in tail {
            section.edit(Op::Append(chain.chain().into(), rule.clone()), None);
        }
    }

    /// Whether node ports answer on 127.0.0.1, so that somebody has to guard it: see
    /// [`NodeConfig::localhost_node_ports`](crate::NodeConfig::localhost_node_ports).
    pub fn serves_localhost(&self) -> bool {
        let has_rule = |(_, chain): &(Table, Chain)| &*chain.name == "KUBE-FIREWALL";
        self.base.as_ref().is_some_and(|base| base.fixed.iter().any(has_rule))
    }
}

//! From one ruleset to the next.
//!
//! Everything of one service port is in one batch, so each changes in one instant. Chains that are no
//! more are emptied there and removed by a batch of their own.

use super::{Batch, Command, SERVICES_PER_BATCH, Transaction};
use crate::ServicePortName;
use crate::nft::object::{Chain, Element, Object};
use crate::nft::ruleset::Ruleset;
use crate::nft::service::ServiceRules;
use crate::walk::{Differing, differing};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashSet};

impl Transaction {
    /// What leads from `old` to `new`, both of one address family.
    ///
    /// It fails in the kernel if `old` is not what is there; [`Transaction::takeover`] starts from what is.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        if new.base.is_none() {
            let mut batch = Batch::default();
            old.base.iter().for_each(|_| batch.push(Command::DeleteTable, None));
            return Self::new(new.family(), [batch]);
        }
        let changes = Changes::of(old, new);
        let mut batches: Vec<_> = changes.services.chunks(SERVICES_PER_BATCH).map(|_| Batch::default()).collect();
        if batches.is_empty() {
            batches.push(Batch::default());
        }
        base(old, new, &mut batches[0]);
        let mut deleted = HashSet::new();
        for (batch, services) in batches.iter_mut().zip(changes.services.chunks(SERVICES_PER_BATCH)) {
            changes.write(services, batch, &mut deleted);
        }
        batches.extend(changes.services.chunks(SERVICES_PER_BATCH).map(stale_chains));
        Self::new(new.family(), batches)
    }
}

/// What depends on the node alone, where it differs.
fn base(old: &Ruleset, new: &Ruleset, batch: &mut Batch) {
    let Some(base) = &new.base else { return };
    let before = old.base.as_ref();
    if before.is_none() {
        batch.push(Command::AddTable, None);
        Object::ALL.iter().for_each(|object| batch.push(Command::AddObject(*object), None));
    }
    let known = before.map(|before| before.chains.as_slice()).unwrap_or_default();
    let changed: Vec<_> = base.chains.iter().filter(|chain| !known.contains(chain)).collect();
    batch.declare(changed.iter().copied(), None);
    batch.flush(changed.iter().copied(), None);
    batch.fill(changed, None);
    let there = before.map(|before| before.elements.as_slice()).unwrap_or_default();
    for element in there.iter().filter(|element| !base.elements.contains(element)) {
        batch.push(Command::DeleteElement(element.clone()), None);
    }
    for element in base.elements.iter().filter(|element| !there.contains(element)) {
        batch.push(Command::AddElement(element.clone()), None);
    }
}

type Key<'a> = (Object, &'a str);

/// A service port whose rules differ: before and after.
struct Changed<'a> {
    name: &'a ServicePortName,
    old: Option<&'a ServiceRules>,
    new: Option<&'a ServiceRules>,
}

struct Changes<'a> {
    services: Vec<Changed<'a>>,
    /// The elements of all of them before and after: one may take over another's address.
    before: BTreeMap<Key<'a>, &'a Element>,
    after: BTreeMap<Key<'a>, &'a Element>,
    ruleset: &'a Ruleset,
    /// All elements of shared sets after the change; looked at only when one may go.
    shared: OnceCell<HashSet<Key<'a>>>,
}

impl<'a> Changes<'a> {
    fn of(old: &'a Ruleset, new: &'a Ruleset) -> Self {
        let changed = differing(&old.services, &new.services).into_iter();
        let services: Vec<_> = changed.map(|Differing { key: name, old, new }| Changed { name, old, new }).collect();
        let before = services.iter().flat_map(|service| elements(service.old)).map(|e| (key(e), e)).collect();
        let after = services.iter().flat_map(|service| elements(service.new)).map(|e| (key(e), e)).collect();
        Self { services, before, after, ruleset: new, shared: OnceCell::new() }
    }

    fn write(&self, services: &[Changed<'a>], batch: &mut Batch, deleted: &mut HashSet<Key<'a>>) {
        for service in services {
            for element in self.gone(service).filter(|element| deleted.insert(key(element))) {
                batch.push(Command::DeleteElement(element.clone()), Some(service.name));
            }
        }
        // Chains are emptied before the sets that they name are removed.
        for Changed { name, old, new } in services {
            batch.flush(missing(chains(*old), chains(*new)), Some(name));
            sets(*old, *new, batch, name);
            batch.declare(missing(chains(*new), chains(*old)), Some(name));
        }
        for Changed { name, old, new } in services {
            batch.fill(missing(chains(*new), chains(*old)), Some(name));
        }
        for service in services {
            for element in elements(service.new).filter(|element| self.before.get(&key(element)) != Some(element)) {
                batch.push(Command::AddElement((*element).clone()), Some(service.name));
            }
        }
    }

    /// Elements of a service that nobody has after the change, and those of others that make room for its
    /// own.
    fn gone<'s>(&'s self, service: &'s Changed<'a>) -> impl Iterator<Item = &'a Element> + 's {
        let left = elements(service.old).filter(|element| !self.after.contains_key(&key(element)));
        let left = left.filter(|element| !element.object.is_shared() || !self.shared().contains(&key(element)));
        let in_the_way = elements(service.new).filter_map(|element| {
            let before = self.before.get(&key(element)).copied();
            before.filter(|before| *before != element)
        });
        left.chain(in_the_way)
    }

    fn shared(&self) -> &HashSet<Key<'a>> {
        let collect = || {
            let all = self.ruleset.services.values().flat_map(|rules| &rules.elements);
            all.filter(|element| element.object.is_shared()).map(key).collect()
        };
        self.shared.get_or_init(collect)
    }
}

fn key(element: &Element) -> Key<'_> {
    (element.object, &element.key)
}

fn elements(rules: Option<&ServiceRules>) -> impl Iterator<Item = &Element> {
    rules.into_iter().flat_map(|rules| &rules.elements)
}

fn chains(rules: Option<&ServiceRules>) -> &[Chain] {
    rules.map_or(&[], |rules| &rules.chains)
}

/// Chains that `other` lacks or has with other rules.
fn missing<'a>(chains: &'a [Chain], other: &'a [Chain]) -> impl Iterator<Item = &'a Chain> {
    chains.iter().filter(|chain| !other.contains(chain))
}

fn sets(old: Option<&ServiceRules>, new: Option<&ServiceRules>, batch: &mut Batch, owner: &ServicePortName) {
    let sets = |rules: Option<&ServiceRules>| rules.map(|rules| rules.sets.clone()).unwrap_or_default();
    let (old, new) = (sets(old), sets(new));
    for set in old.iter().filter(|set| !new.contains(set)) {
        batch.push(Command::DeleteSet(set.name.clone()), Some(owner));
    }
    for set in new.into_iter().filter(|set| !old.contains(set)) {
        batch.push(Command::AddSet(set), Some(owner));
    }
}

fn stale_chains(services: &[Changed<'_>]) -> Batch {
    let mut batch = Batch { is_cleanup: true, ..Batch::default() };
    for Changed { name, old, new } in services {
        let kept: HashSet<_> = chains(*new).iter().map(|chain| &chain.name).collect();
        for chain in chains(*old).iter().filter(|chain| !kept.contains(&chain.name)) {
            batch.push(Command::DeleteChain(chain.name.clone()), Some(name));
        }
    }
    batch
}

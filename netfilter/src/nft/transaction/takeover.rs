//! From what an earlier run or kube-proxy left to a ruleset.

use super::{Batch, Command, SERVICES_PER_BATCH, Transaction};
use crate::Family;
use crate::nft::found::Found;
use crate::nft::object::Object;
use crate::nft::ruleset::Ruleset;
use std::collections::HashSet;

impl Transaction {
    /// Writes everything into a table that is already there. Service chains come first; then, in one
    /// instant, all that leads to them; then what nobody needs goes. Connections keep their endpoints, and
    /// clients their affinity.
    ///
    /// The kernel refuses if sets of the same name are of another kind; [`Transaction::replacing`] works
    /// then too.
    pub fn takeover(found: &Found, new: &Ruleset) -> Self {
        let mut batches = vec![declared(new)];
        let services: Vec<_> = new.services.iter().collect();
        for chunk in services.chunks(SERVICES_PER_BATCH) {
            let mut batch = Batch::default();
            for (name, rules) in chunk {
                batch.declare(&rules.chains, Some(name));
                rules.sets.iter().for_each(|set| batch.push(Command::AddSet(set.clone()), Some(name)));
            }
            chunk.iter().for_each(|(name, rules)| batch.flush(&rules.chains, Some(name)));
            chunk.iter().for_each(|(name, rules)| batch.fill(&rules.chains, Some(name)));
            batches.push(batch);
        }
        batches.push(led_to(new));
        batches.push(emptied(found, new));
        batches.push(removed(found, new));
        Self::new(new.family(), batches)
    }

    /// Removes whatever table is there and makes the new one in the same instant. Costs more than
    /// [`Transaction::takeover`], and clients lose their affinity.
    pub fn replacing(new: &Ruleset) -> Self {
        let mut batch = Batch::default();
        // Added first, so that there is one to delete.
        batch.push(Command::AddTable, None);
        batch.push(Command::DeleteTable, None);
        for made in Self::between(&Ruleset::empty(new.family()), new).batches {
            batch.commands.extend(made.commands);
        }
        Self::new(new.family(), [batch])
    }

    /// Removes the table, if there is one.
    pub fn cleanup(family: Family) -> Self {
        let mut batch = Batch::default();
        batch.push(Command::AddTable, None);
        batch.push(Command::DeleteTable, None);
        Self::new(family, [batch])
    }
}

fn declared(new: &Ruleset) -> Batch {
    let mut batch = Batch::default();
    batch.push(Command::AddTable, None);
    Object::ALL.iter().for_each(|object| batch.push(Command::AddObject(*object), None));
    // Without their hooks nothing would call them, so base chains come with the rest that leads to services.
    batch.declare(new.base.iter().flat_map(|base| &base.chains).filter(|chain| chain.hook.is_none()), None);
    batch
}

fn led_to(new: &Ruleset) -> Batch {
    let mut batch = Batch::default();
    if let Some(base) = &new.base {
        batch.declare(&base.chains, None);
        batch.flush(&base.chains, None);
        batch.fill(&base.chains, None);
        Object::ALL.iter().for_each(|object| batch.push(Command::FlushObject(*object), None));
        base.elements.iter().for_each(|element| batch.push(Command::AddElement(element.clone()), None));
    }
    for (name, rules) in &new.services {
        rules.elements.iter().for_each(|element| batch.push(Command::AddElement(element.clone()), Some(name)));
    }
    batch
}

fn stale_chains<'a>(found: &'a Found, new: &Ruleset) -> Vec<&'a String> {
    let wanted: HashSet<_> = new.chains().map(|chain| &*chain.name).collect();
    found.chains.iter().filter(|name| !wanted.contains(name.as_str())).collect()
}

fn emptied(found: &Found, new: &Ruleset) -> Batch {
    let mut batch = Batch::default();
    stale_chains(found, new).into_iter().for_each(|name| batch.push(Command::FlushChain(name.as_str().into()), None));
    batch
}

fn removed(found: &Found, new: &Ruleset) -> Batch {
    let mut batch = Batch { is_cleanup: true, ..Batch::default() };
    let sets = new.services.values().flat_map(|rules| rules.sets.iter().map(|set| &*set.name));
    let wanted: HashSet<_> = sets.chain(Object::ALL.iter().map(|object| object.name())).collect();
    stale_chains(found, new).into_iter().for_each(|name| batch.push(Command::DeleteChain(name.as_str().into()), None));
    for name in found.sets.iter().filter(|name| !wanted.contains(name.as_str())) {
        batch.push(Command::DeleteSet(name.as_str().into()), None);
    }
    batch
}

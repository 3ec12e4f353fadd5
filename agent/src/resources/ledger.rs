//! What every pod of this node was granted: a resize may take what is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::names::PodUid;

/// Granted cpu (thousandths) and memory (bytes) of every pod. Clones share one ledger.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<BTreeMap<PodUid, (u64, u64)>>>);

impl Ledger {
    /// The pod has this much.
    pub fn hold(&self, uid: &PodUid, granted: (u64, u64)) {
        self.with(|pods| pods.insert(uid.clone(), granted));
    }

    /// The pod has nothing any more.
    pub fn release(&self, uid: &PodUid) {
        self.with(|pods| pods.remove(uid));
    }

    /// What all other pods have.
    pub fn others(&self, uid: &PodUid) -> (u64, u64) {
        self.with(|pods| {
            let others = pods.iter().filter(|(other, _)| *other != uid).map(|(_, granted)| granted);
            others.fold((0_u64, 0_u64), |(cpu, memory), granted| {
                (cpu.saturating_add(granted.0), memory.saturating_add(granted.1))
            })
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<PodUid, (u64, u64)>) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

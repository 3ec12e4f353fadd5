//! What every pod of this node was granted: a resize may take what is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::names::PodUid;

/// Cpu (thousandths) and memory (bytes).
type Granted = (u64, u64);

/// What every pod was granted. Clones share one ledger.
#[derive(Clone, Default)]
pub struct Ledger {
    pods: Arc<Mutex<BTreeMap<PodUid, Granted>>>,
    /// Changes when a pod has less than before.
    freed: watch::Sender<()>,
}

impl Ledger {
    /// The pod has this much.
    pub fn hold(&self, uid: &PodUid, granted: Granted) {
        let former = self.with(|pods| pods.insert(uid.clone(), granted)).unwrap_or_default();
        if granted.0 < former.0 || granted.1 < former.1 {
            self.freed.send_replace(());
        }
    }

    /// The pod has nothing any more.
    pub fn release(&self, uid: &PodUid) {
        if self.with(|pods| pods.remove(uid)).is_some() {
            self.freed.send_replace(());
        }
    }

    /// Hears of every pod that has less than before, or nothing any more.
    pub fn listen(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }

    /// What all other pods have.
    pub fn others(&self, uid: &PodUid) -> Granted {
        self.with(|pods| {
            let others = pods.iter().filter(|(other, _)| *other != uid).map(|(_, granted)| granted);
            others.fold((0_u64, 0_u64), |(cpu, memory), granted| {
                (cpu.saturating_add(granted.0), memory.saturating_add(granted.1))
            })
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<PodUid, Granted>) -> T) -> T {
        use_it(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_room_hears_of_ends_and_shrinks_alone() {
        let uid = |name: &str| PodUid::try_from(name.to_owned()).unwrap();
        let ledger = Ledger::default();
        let mut listen = ledger.listen();
        let mut heard = || {
            let heard = listen.has_changed().unwrap();
            listen.mark_unchanged();
            heard
        };
        ledger.hold(&uid("a"), (1_000, 64));
        ledger.hold(&uid("b"), (500, 64));
        ledger.hold(&uid("b"), (700, 64));
        assert!(!heard(), "growth leaves nothing");
        ledger.hold(&uid("b"), (700, 32));
        assert!(heard());
        assert_eq!(ledger.others(&uid("b")), (1_000, 64));
        ledger.release(&uid("a"));
        assert!(heard());
        ledger.release(&uid("a"));
        assert!(!heard());
        assert_eq!(ledger.others(&uid("b")), (0, 0));
    }
}

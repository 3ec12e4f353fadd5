//! Removing links, those that are asked for at the same time in one step.
//!
//! The kernel waits for every processor when a link goes: some 20 ms for one, and not much more for fifty of a group, all
//! the while holding the lock that every other change of links needs.

use std::{
    collections::BTreeSet,
    sync::{Mutex as StdMutex, MutexGuard, PoisonError},
};

use tokio::sync::Mutex;

use crate::{error::NetworkError, ids::Instance, names, netlink::Links};

#[derive(Debug)]
pub(crate) struct Removal {
    links: Links,
    /// Link group that only links about to be removed are ever in.
    group: u32,
    /// Asked for by callers that still wait.
    pending: StdMutex<BTreeSet<String>>,
    /// Who has it removes all that is pending.
    turn: Mutex<()>,
}

impl Removal {
    pub(crate) fn new(links: Links, instance: &Instance) -> Self {
        let group = names::removal_group(instance);
        Self { links, group, pending: StdMutex::default(), turn: Mutex::default() }
    }

    /// Fine when the link does not exist.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        self.pending().insert(name.to_owned());
        let _wish = Wish { removal: self, name };
        let _turn = self.turn.lock().await;
        let batch = self.pending().clone();
        if !batch.contains(name) {
            return Ok(());
        }
        match self.remove_all(&batch).await {
            Ok(()) => {
                self.pending().retain(|name| !batch.contains(name));
                Ok(())
            }
            // Another caller's link may be at fault; that one hears of it in its own turn.
            Err(_) => self.links.remove_link(name).await,
        }
    }

    /// As [`Removal::remove`] for several.
    pub(crate) async fn remove_all(&self, names: &BTreeSet<String>) -> Result<(), NetworkError> {
        if names.len() < 2 {
            return match names.first() {
                Some(name) => self.links.remove_link(name).await,
                None => Ok(()),
            };
        }
        for name in names {
            self.links.set_group(name, self.group).await?;
        }
        self.links.remove_group(self.group).await
    }

    fn pending(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits. When it gives up, nobody else may act on its wish: the name may be in use again by then.
struct Wish<'a> {
    removal: &'a Removal,
    name: &'a str,
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.removal.pending().remove(self.name);
    }
}

//! Who may be created: one at a time for each name, and never a name that stays taken by nobody.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Names that are taken, by what exists or by what is being made.
#[derive(Debug)]
pub(crate) struct Names<N, T> {
    slots: Arc<Mutex<HashMap<N, Slot<T>>>>,
}

#[derive(Debug)]
enum Slot<T> {
    Making(watch::Receiver<Option<T>>),
    Made(T),
}

/// What became of asking for a name.
#[derive(Debug)]
pub(crate) enum Claim<N: Hash + Eq, T: Clone> {
    /// It is the caller's, who now makes the thing.
    Mine(Reservation<N, T>),
    /// Somebody makes it right now.
    Making(Pending<T>),
    /// It exists.
    Made(T),
}

/// A name held while its thing is being made. Dropped, it is free again, also by a panic or a cancelled task.
#[derive(Debug)]
pub(crate) struct Reservation<N: Hash + Eq, T: Clone> {
    names: Names<N, T>,
    name: Option<N>,
    done: watch::Sender<Option<T>>,
}

/// Somebody else's creation.
#[derive(Debug)]
pub(crate) struct Pending<T>(watch::Receiver<Option<T>>);

impl<N, T> Clone for Names<N, T> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone() }
    }
}

impl<N, T> Default for Names<N, T> {
    fn default() -> Self {
        Self { slots: Arc::default() }
    }
}

impl<N: Hash + Eq + Clone, T: Clone> Names<N, T> {
    /// Asks for `name`.
    pub(crate) fn claim(&self, name: &N) -> Claim<N, T> {
        let mut slots = self.lock();
        match slots.get(name) {
            Some(Slot::Made(thing)) => Claim::Made(thing.clone()),
            Some(Slot::Making(done)) => Claim::Making(Pending(done.clone())),
            None => {
                let (done, waiting) = watch::channel(None);
                slots.insert(name.clone(), Slot::Making(waiting));
                Claim::Mine(Reservation { names: self.clone(), name: Some(name.clone()), done })
            }
        }
    }

    /// Notes what was found to exist.
    pub(crate) fn adopt(&self, name: N, thing: T) {
        self.lock().insert(name, Slot::Made(thing));
    }

    /// Gives `name` back if it still belongs to what `is_it` recognises.
    pub(crate) fn release(&self, name: &N, is_it: impl FnOnce(&T) -> bool) {
        let mut slots = self.lock();
        if matches!(slots.get(name), Some(Slot::Made(thing)) if is_it(thing)) {
            slots.remove(name);
        }
    }
}

impl<N: Hash + Eq, T> Names<N, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<N, Slot<T>>> {
        // Nothing in here can panic half-way through a change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Hash + Eq, T: Clone> Reservation<N, T> {
    /// The thing is made: the name is its own from now on.
    pub(crate) fn keep(mut self, thing: T) {
        if let Some(name) = self.name.take() {
            self.names.lock().insert(name, Slot::Made(thing.clone()));
        }
        self.done.send_replace(Some(thing));
    }
}

impl<N: Hash + Eq, T: Clone> Drop for Reservation<N, T> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.names.lock().remove(&name);
        }
    }
}

impl<T: Clone> Pending<T> {
    /// Waits for the end: the thing, or `None` when it was not made after all.
    pub(crate) async fn made(mut self) -> Option<T> {
        match self.0.wait_for(Option::is_some).await {
            Ok(thing) => thing.clone(),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pods = Names<&'static str, u32>;

    #[tokio::test]
    async fn a_creation_that_was_given_up_frees_its_name() {
        let names = Pods::default();
        let Claim::Mine(mine) = names.claim(&"web") else { panic!("taken") };
        let Claim::Making(pending) = names.claim(&"web") else { panic!("not being made") };
        drop(mine);
        assert_eq!(pending.made().await, None);
        assert!(matches!(names.claim(&"web"), Claim::Mine(_)));
    }

    #[tokio::test]
    async fn who_comes_second_finds_what_the_first_made() {
        let names = Pods::default();
        let Claim::Mine(mine) = names.claim(&"web") else { panic!("taken") };
        let Claim::Making(pending) = names.claim(&"web") else { panic!("not being made") };
        mine.keep(7);
        assert_eq!(pending.made().await, Some(7));
        assert!(matches!(names.claim(&"web"), Claim::Made(7)));
    }

    #[test]
    fn only_its_owner_can_give_a_name_back() {
        let names = Pods::default();
        names.adopt("web", 7);
        names.release(&"web", |thing| *thing == 8);
        assert!(matches!(names.claim(&"web"), Claim::Made(7)));
        names.release(&"web", |thing| *thing == 7);
        assert!(matches!(names.claim(&"web"), Claim::Mine(_)));
    }
}

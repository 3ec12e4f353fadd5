//! Which pulls run at the moment, for whoever wants to show how far they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::images::PullProgress;

/// Pulls that run, in the order of their beginning.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    last: u64,
    pulls: BTreeMap<u64, (String, PullProgress)>,
}

/// Takes a pull off the list when it is dropped: at its end, or when its caller gave up.
#[derive(Debug)]
pub(crate) struct Listed {
    list: Arc<Mutex<Running>>,
    number: u64,
}

impl Pulls {
    /// Lists a pull that begins.
    pub(crate) fn list(&self, name: &str, progress: &PullProgress) -> Listed {
        let mut running = lock(&self.0);
        running.last += 1;
        let number = running.last;
        running.pulls.insert(number, (name.to_owned(), progress.clone()));
        Listed { list: self.0.clone(), number }
    }

    /// Name and progress of each.
    pub(crate) fn all(&self) -> Vec<(String, PullProgress)> {
        lock(&self.0).pulls.values().cloned().collect()
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.list).pulls.remove(&self.number);
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_listed_as_long_as_it_runs() {
        let pulls = Pulls::default();
        let (first, second) = (PullProgress::default(), PullProgress::default());
        let one = pulls.list("busybox", &first);
        let _two = pulls.list("alpine", &second);
        drop(one);
        assert_eq!(pulls.all().iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["alpine"]);
    }
}

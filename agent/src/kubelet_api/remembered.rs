//! Answers of the API server that count for a while: bounded, and none of them is believed for longer than it was given.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Answers by what was asked.
pub(super) struct Remembered<K, V> {
    most: usize,
    answers: Mutex<BTreeMap<K, (Instant, V)>>,
}

impl<K: Ord + Clone, V: Clone> Remembered<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, answers: Mutex::new(BTreeMap::new()) }
    }

    fn answers(&self) -> MutexGuard<'_, BTreeMap<K, (Instant, V)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.answers().get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    /// Makes room by forgetting what ends first.
    pub(super) fn put(&self, key: K, value: V, until: Instant, now: Instant) {
        let mut answers = self.answers();
        if answers.len() >= self.most {
            answers.retain(|_, (until, _)| now < *until);
        }
        while answers.len() >= self.most {
            let soonest = answers.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
            let Some(soonest) = soonest else { break };
            answers.remove(&soonest);
        }
        answers.insert(key, (until, value));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_counts_until_its_time_and_there_are_never_too_many() {
        let (answers, now) = (Remembered::new(2), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        answers.put("a", 1, at(10), now);
        answers.put("b", 2, at(5), now);
        assert_eq!((answers.get(&"a", at(9)), answers.get(&"a", at(10))), (Some(1), None));
        answers.put("c", 3, at(20), now);
        assert_eq!((answers.get(&"a", now), answers.get(&"b", now), answers.get(&"c", now)), (Some(1), None, Some(3)));
        answers.put("d", 4, at(30), at(15));
        assert_eq!((answers.get(&"c", at(15)), answers.get(&"d", at(15))), (Some(3), Some(4)));
    }
}

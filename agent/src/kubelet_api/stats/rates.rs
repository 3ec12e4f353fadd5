//! Rates from counters: against the last look, whoever asked then. Nothing is measured in between.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Looks that are closer together than this say little.
const SHORTEST: i64 = 1_000_000_000;

/// The last look at each counter.
#[derive(Debug, Default)]
pub(in super::super) struct Rates(Mutex<HashMap<String, Last>>);

#[derive(Clone, Copy, Debug)]
struct Last {
    at_ns: i64,
    used_ns: u64,
    rate: Option<u64>,
}

/// One look at many counters: what it does not see is forgotten with it.
pub(super) struct Look<'a> {
    rates: &'a Rates,
    seen: HashMap<String, Last>,
    before: HashMap<String, Last>,
}

impl Rates {
    pub(super) fn look(&self) -> Look<'_> {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Look { rates: self, seen: HashMap::new(), before }
    }
}

impl Look<'_> {
    /// Nanoseconds of processor time a second, from the second look on.
    pub(super) fn rate(&mut self, counter: String, at_ns: i64, used_ns: u64) -> Option<u64> {
        let fresh = Last { at_ns, used_ns, rate: None };
        let last = match self.before.get(&counter) {
            // A counter that fell is another one's.
            None => fresh,
            Some(last) if used_ns < last.used_ns => fresh,
            Some(last) if at_ns.saturating_sub(last.at_ns) < SHORTEST => *last,
            Some(last) => {
                let (more, time) = (u128::from(used_ns - last.used_ns), at_ns.abs_diff(last.at_ns));
                let rate = u64::try_from(more * 1_000_000_000 / u128::from(time)).ok();
                Last { rate, ..fresh }
            }
        };
        self.seen.insert(counter, last);
        last.rate
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        *self.rates.0.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_known_from_the_second_look_and_a_quick_third_one_repeats_it() {
        let (rates, second) = (Rates::default(), 1_000_000_000);
        let look = |at: i64, used: u64| rates.look().rate("c".to_owned(), at, used);
        assert_eq!(look(0, 0), None);
        assert_eq!(look(10 * second, 5_000_000_000), Some(500_000_000));
        assert_eq!(look(10 * second + 1, 6_000_000_000), Some(500_000_000));
        assert_eq!(look(20 * second, 5_000_000_000), Some(0));
        assert_eq!(look(30 * second, 1), None, "it began anew");
        drop(rates.look());
        assert_eq!(look(40 * second, 2), None, "it was forgotten");
    }
}

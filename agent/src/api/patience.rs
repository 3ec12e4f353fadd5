//! How long to wait before something is tried again: longer each time, never all at once.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Delays that double from `first` to `most`, each shortened at random by up to a third: nodes that lost the same server
/// do not come back in step.
#[derive(Clone, Debug)]
pub struct Patience {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Patience {
    /// From `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait now.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.most);
        delay - delay.mul_f64(random_part() / 3.0)
    }

    /// It worked: the next failure waits as the first one did.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// From 0 to 1. `RandomState` is seeded by the kernel, and each one differs from the last.
pub(crate) fn random_part() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 40;
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    let part = random as f64;
    part / f64::from(1 << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_success() {
        let mut patience = Patience::new(Duration::from_secs(1), Duration::from_secs(5));
        let bounds = [(0.66, 1.0), (1.33, 2.0), (2.66, 4.0), (3.33, 5.0), (3.33, 5.0)];
        for (least, most) in bounds {
            let delay = patience.delay().as_secs_f64();
            assert!((least..=most).contains(&delay), "{delay} is not between {least} and {most}");
        }
        patience.reset();
        assert!(patience.delay() <= Duration::from_secs(1));
    }
}

//! When everything is looked at again, so that no two programs fight. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// After the fourth repair in a row, doubled each time, and the most.
const PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Rules that were taken away again within this time are somebody's doing.
const CALM: Duration = Duration::from_secs(60);
/// Looking at everything may use this part of the time at most: a tenth.
const SHARE: u32 = 10;
/// Everything is looked at so often even if nobody seems to have written.
const ANYWAY: Duration = Duration::from_secs(3_600);

/// When the next look may be, and how often there was something to put right.
pub(super) struct Repairs {
    not_before: Instant,
    last: Option<Instant>,
    in_a_row: u32,
    anyway: Instant,
}

impl Repairs {
    pub(super) fn new(now: Instant) -> Self {
        Self { not_before: now, last: None, in_a_row: 0, anyway: now + ANYWAY }
    }

    /// Whether everything is to be looked at although nobody seems to have written.
    pub(super) fn are_overdue(&self, now: Instant) -> bool {
        now >= self.anyway
    }

    /// Whether a look may be taken.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        now >= self.not_before
    }

    /// After a look that took so long. Says how many times in a row there was something.
    pub(super) fn done(&mut self, repaired: bool, took: Duration, now: Instant) -> u32 {
        if self.last.is_none_or(|last| now.duration_since(last) > CALM) {
            self.in_a_row = 0;
        }
        if repaired {
            self.last = Some(now);
            self.in_a_row += 1;
        }
        // The first three times at once: a firewall that is reloaded writes in several steps.
        let pause = if self.in_a_row > 3 { PAUSE[0] * (1 << (self.in_a_row - 3).min(5)) } else { Duration::ZERO };
        self.not_before = now + pause.min(PAUSE[1]).max(took * SHARE);
        self.anyway = now + ANYWAY;
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fights_is_met_more_and_more_seldom() {
        let start = Instant::now();
        let (mut repairs, mut now, mut pauses) = (Repairs::new(start), start, Vec::new());
        for _ in 0..10 {
            repairs.done(true, Duration::from_millis(10), now);
            pauses.push(repairs.not_before.duration_since(now).as_millis());
            now = repairs.not_before;
        }
        assert_eq!(pauses, [100, 100, 100, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(repairs.done(true, Duration::ZERO, now + CALM * 2), 1, "a quiet minute later all is as new");
    }

    #[test]
    fn looking_at_much_is_done_seldom() {
        let mut repairs = Repairs::new(Instant::now());
        let now = Instant::now();
        repairs.done(false, Duration::from_secs(1), now);
        assert_eq!(repairs.not_before.duration_since(now), Duration::from_secs(10));
        assert!(!repairs.may_begin(now + Duration::from_secs(9)) && repairs.may_begin(now + Duration::from_secs(10)));
        assert!(!repairs.are_overdue(now) && repairs.are_overdue(now + ANYWAY));
    }
}

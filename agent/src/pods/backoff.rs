//! Delays that double: restarts of crashing containers, and failed pulls.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// First and longest delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The first delay.
    pub first: Duration,
    /// No delay is longer.
    pub max: Duration,
}

/// How long the next try has to wait after the last failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// What the delay is about: another key (a changed image, say) starts afresh.
    pub key: String,
    /// The delay, in milliseconds.
    delay_ms: u64,
    /// When the delay was last raised.
    raised: Timestamp,
}

impl Backoff {
    /// The delay.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    /// Good behaviour for twice the longest delay is rewarded with a fresh start.
    fn is_expired(&self, failed: Timestamp, limits: Limits) -> bool {
        failed.duration_since(self.raised) > signed(limits.max.saturating_mul(2))
    }
}

/// When a next try may begin after a failure at `failed`; `None` for at once.
pub fn not_before(
    entry: Option<&Backoff>,
    key: &str,
    failed: Timestamp,
    now: Timestamp,
    limits: Limits,
) -> Option<Timestamp> {
    // A failure in the future means that the clock was set back, nobody knows how far: better once too early than a
    // day too late.
    let entry = entry.filter(|entry| entry.key == key && !entry.is_expired(failed, limits) && failed <= now)?;
    let until = failed.saturating_add(signed(entry.delay())).unwrap_or(Timestamp::MAX);
    (now < until).then_some(until)
}

/// The entry after one more try that begins at `now` because of a failure at `failed`.
pub fn raise(entry: Option<&Backoff>, key: &str, failed: Timestamp, now: Timestamp, limits: Limits) -> Backoff {
    let old = entry.filter(|entry| entry.key == key && !entry.is_expired(failed, limits));
    let delay = old.map_or(limits.first, |old| old.delay().saturating_mul(2)).min(limits.max);
    Backoff { key: key.to_owned(), delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), raised: now }
}

/// A duration for arithmetic with timestamps; what is longer than those reach is as good as for ever.
pub fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// A delay as the kubelet writes it: `10s`, `2m40s`, `500ms`.
pub fn shown(delay: Duration) -> String {
    let (minutes, seconds, millis) = (delay.as_secs() / 60, delay.as_secs() % 60, delay.subsec_millis());
    match (minutes, seconds, millis) {
        (0, 0, millis) => format!("{millis}ms"),
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, millis) => format!("{}s", trim(seconds, millis)),
        (minutes, seconds, 0) => format!("{minutes}m{seconds}s"),
        (minutes, seconds, millis) => format!("{minutes}m{}s", trim(seconds, millis)),
    }
}

fn trim(seconds: u64, millis: u32) -> String {
    format!("{seconds}.{millis:03}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KUBELET: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_then_it_doubles_to_five_minutes() {
        let (mut entry, mut now, mut waits) = (None, at(1_000), Vec::new());
        for _ in 0..8 {
            let failed = now;
            let start = not_before(entry.as_ref(), "k", failed, now, KUBELET).unwrap_or(now);
            waits.push(start.duration_since(failed).as_secs());
            entry = Some(raise(entry.as_ref(), "k", failed, start, KUBELET));
            now = start;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_or_another_image_start_afresh() {
        let entry = raise(None, "k", at(0), at(0), KUBELET);
        let entry = raise(Some(&entry), "k", at(10), at(10), KUBELET);
        assert_eq!(entry.delay(), Duration::from_secs(20));
        assert_eq!(not_before(Some(&entry), "k", at(700), at(700), KUBELET), None);
        assert_eq!(raise(Some(&entry), "k", at(700), at(700), KUBELET).delay(), KUBELET.first);
        assert_eq!(not_before(Some(&entry), "other", at(20), at(20), KUBELET), None);
    }

    #[test]
    fn delays_are_written_as_go_writes_them() {
        let shown = |millis| shown(Duration::from_millis(millis));
        assert_eq!([shown(10_000), shown(160_000), shown(500), shown(1_500)], ["10s", "2m40s", "500ms", "1.5s"]);
    }

    proptest! {
        #[test]
        fn no_clock_makes_a_container_wait_longer_than_its_delay(failed in 0i64..2_000, now in 0i64..2_000, raised in 0i64..2_000) {
            let entry = raise(None, "k", at(raised), at(raised), KUBELET);
            if let Some(until) = not_before(Some(&entry), "k", at(failed), at(now), KUBELET) {
                prop_assert!(until > at(now));
                prop_assert!(until.duration_since(at(now)) <= signed(entry.delay()));
            }
        }
    }
}

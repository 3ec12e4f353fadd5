//! Which images go, and when: the kubelet's rules (`pkg/kubelet/images/image_gc_manager.go`). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::kubelet;
use crate::resources::pressure::Level;

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// It stays: it is pinned, or was put here by a person, and no registry is known to have it.
    pub stays: bool,
}

#[derive(Clone, Debug)]
struct Record {
    size: u64,
    stays: bool,
    seen: Instant,
    /// `None` where it was not used since it was first seen.
    used: Option<Instant>,
    in_use: bool,
}

/// What is known of the images: since when each is here, and when it was last used.
#[derive(Clone, Debug, Default)]
pub struct Records(BTreeMap<String, Record>);

impl Records {
    /// Takes in what is here now, and which of it containers use.
    pub fn note(&mut self, found: Vec<Found>, in_use: &BTreeSet<String>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for Found { id, size, stays } in found {
            let old = before.remove(&id);
            let is_used = in_use.contains(&id);
            let used = if is_used { Some(now) } else { old.as_ref().and_then(|old| old.used) };
            let seen = old.map_or(now, |old| old.seen);
            self.0.insert(id, Record { size, stays, seen, used, in_use: is_used });
        }
    }

    /// Images that may go, with their sizes: the one that was not used for longest first, of those the one that has been
    /// here longest. One that came just now is about to be used.
    pub fn unused(&self, policy: &kubelet::Images, now: Instant) -> Vec<(String, u64)> {
        let is_old = |record: &Record| now.saturating_duration_since(record.seen) >= policy.min_age;
        let mut all: Vec<_> = self.free().filter(|(_, record)| is_old(record)).collect();
        all.sort_by_key(|(id, record)| (record.used, record.seen, (*id).clone()));
        all.into_iter().map(|(id, record)| (id.clone(), record.size)).collect()
    }

    /// Images that nobody has used for longer than is allowed. What was used before the agent began is not known: they
    /// are counted only when it has run for so long itself.
    pub fn outlived(&self, policy: &kubelet::Images, began: Instant, now: Instant) -> Vec<String> {
        let Some(most) = policy.max_age else { return Vec::new() };
        if now.saturating_duration_since(began) <= most {
            return Vec::new();
        }
        let is_over = |record: &Record| record.used.is_none_or(|used| now.saturating_duration_since(used) > most);
        self.free().filter(|(_, record)| is_over(record)).map(|(id, _)| id.clone()).collect()
    }

    fn free(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.0.iter().filter(|(_, record)| !record.in_use && !record.stays)
    }
}

/// A file system that is fuller than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How full, in hundredths.
    pub percent: u64,
    /// Bytes that have to go.
    pub excess: u64,
    capacity: u64,
}

/// Whether the file system of the images is too full.
pub fn full(policy: &kubelet::Images, level: Level) -> Option<Full> {
    let Level { available, capacity } = level;
    let hundredth = |part: u64, of: u64| u64::try_from(u128::from(of) * u128::from(part) / 100).unwrap_or(of);
    let free = u128::from(available.min(capacity)) * 100 / u128::from(capacity.max(1));
    let percent = 100 - u64::try_from(free).unwrap_or(100);
    let left = hundredth(100 - u64::from(policy.low_percent), capacity);
    let is_full = policy.high_percent < 100 && percent >= u64::from(policy.high_percent);
    is_full.then(|| Full { percent, excess: left.saturating_sub(available), capacity })
}

impl Full {
    /// The kubelet's words when only this much could be freed.
    pub fn failure(&self, freed: u64) -> String {
        format!(
            "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space \
             by deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, \
             logs, volumes, or other data.",
            self.percent,
            size(self.capacity)
        )
    }
}

fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(unit, shift)| format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
    )
}

/// How often it is looked whether images have to go.
pub const EVERY: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> kubelet::Images {
        kubelet::Images { high_percent: 85, low_percent: 80, ..kubelet::Images::KEPT }
    }

    fn found(names: &[&str]) -> Vec<Found> {
        names.iter().map(|id| Found { id: (*id).into(), size: 7, stays: *id == "pinned" }).collect()
    }

    fn at(begin: Instant, minutes: u64) -> Instant {
        begin + Duration::from_secs(60 * minutes)
    }

    fn names(all: &[(String, u64)]) -> String {
        all.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_new_used_and_pinned_images_stay() {
        let (begin, mut records) = (Instant::now(), Records::default());
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        records.note(found(&["a", "b", "pinned", "used"]), &used(&["a", "used"]), begin);
        records.note(found(&["a", "b", "c", "pinned", "used"]), &used(&["used"]), at(begin, 5));
        assert_eq!(names(&records.unused(&policy(), at(begin, 6))), "b a");
        assert_eq!(names(&records.unused(&policy(), at(begin, 7))), "b c a", "never used goes before used once");
        records.note(found(&["a"]), &used(&[]), at(begin, 8));
        assert_eq!(names(&records.unused(&policy(), at(begin, 8))), "a", "what is gone is forgotten");
    }

    #[test]
    fn an_age_counts_only_when_the_agent_has_run_as_long() {
        let (begin, mut records) = (Instant::now(), Records::default());
        let policy = kubelet::Images { max_age: Some(Duration::from_secs(600)), ..policy() };
        records.note(found(&["a", "b", "pinned"]), &["b".to_owned()].into(), at(begin, 5));
        records.note(found(&["a", "b", "pinned"]), &BTreeSet::new(), at(begin, 6));
        let outlived = |minute| records.outlived(&policy, begin, at(begin, minute));
        assert!(outlived(10).is_empty());
        assert_eq!(outlived(11), ["a"]);
        assert_eq!(outlived(16), ["a", "b"]);
        assert!(records.outlived(&super::tests::policy(), begin, at(begin, 999)).is_empty(), "no age was set");
    }

    #[test]
    fn a_full_disk_is_emptied_down_to_the_low_mark() {
        let level = |available| Level { available, capacity: 1_000 };
        assert_eq!(full(&policy(), level(160)), None);
        let over = full(&policy(), level(150)).unwrap();
        assert_eq!((over.percent, over.excess), (85, 50));
        assert_eq!(full(&kubelet::Images::KEPT, level(0)), None, "100 turns it off");
        let full = full(&policy(), Level { available: 0, capacity: 3 << 30 }).unwrap();
        assert!(full.failure(12).starts_with(
            "Insufficient free disk space on the node's image filesystem (100% of 3.0 GiB used). Failed to free sufficient space by deleting unused images (freed 12 bytes). Investigate"
        ), "{}", full.failure(12));
    }
}

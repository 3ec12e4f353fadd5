//! Which of many events are worth telling, and which of them are one: client-go's correlator as one pure step.
//!
//! An event that says what another said before counts up there. From the tenth different message with one reason about
//! one object within ten minutes on, they become one. Each object may cause 25 events of a type at once, and one more
//! every five minutes (`client-go/tools/record/events_cache.go`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::{SignedDuration, Timestamp};

use super::{About, Event, EventType};

/// From this many different messages on, they are combined.
const SIMILAR: usize = 10;
/// How long after the last of them a group of similar messages is forgotten.
const INTERVAL: SignedDuration = SignedDuration::from_secs(600);
/// What an object may cause at once.
const BURST: f64 = 25.0;
/// How long it takes until it may cause one more.
const REFILL_SECONDS: f64 = 300.0;
/// How many objects, groups and events are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 4_096;

/// What makes two events the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

/// What is remembered of former events.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    groups: Remembered<Group>,
    known: Remembered<Known>,
    budgets: Remembered<Budget>,
}

#[derive(Debug)]
struct Group {
    messages: BTreeSet<u64>,
    last: Timestamp,
}

#[derive(Debug)]
struct Known {
    count: u32,
    first: Timestamp,
}

#[derive(Debug)]
struct Budget {
    left: f64,
    at: Timestamp,
}

impl Correlator {
    /// The event as it is to be told: counted, perhaps combined with others of its key; `None` where its object has
    /// caused too many.
    pub(super) fn correlate(&mut self, event: Event) -> Option<(Key, Event)> {
        let (object, now) = (object(&event.about), event.last);
        let group = hash(&(object, warns(&event), &event.reason));
        let (key, message) = if self.combines(group, hash(&event.message), now) {
            (group, format!("(combined from similar events): {}", event.message))
        } else {
            (hash(&(group, field(&event.about), &event.message)), event.message)
        };
        let known = self.known.entry(key, || Known { count: 0, first: now });
        known.count = known.count.saturating_add(1);
        let event = Event { message, count: known.count, first: known.first, ..event };
        self.spend(hash(&(object, warns(&event))), now).then_some((Key(key), event))
    }

    fn combines(&mut self, key: u64, message: u64, now: Timestamp) -> bool {
        let group = self.groups.entry(key, || Group { messages: BTreeSet::new(), last: now });
        if now.duration_since(group.last) > INTERVAL {
            group.messages.clear();
        }
        group.last = now;
        group.messages.insert(message);
        let many = group.messages.len() >= SIMILAR;
        if many {
            // It must not grow; which one goes makes no difference.
            group.messages.pop_first();
        }
        many
    }

    fn spend(&mut self, key: u64, now: Timestamp) -> bool {
        let budget = self.budgets.entry(key, || Budget { left: BURST, at: now });
        // A clock that went back refills nothing.
        let seconds = now.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.left = (budget.left + seconds / REFILL_SECONDS).min(BURST);
        budget.at = now;
        let may = budget.left >= 1.0;
        if may {
            budget.left -= 1.0;
        }
        may
    }
}

/// Whom the event is about: containers of one pod share its budget.
fn object(about: &About) -> u64 {
    match about {
        About::Pod { name, uid, .. } => hash(&("Pod", name, uid)),
        About::Node => hash(&"Node"),
        About::Manifest { file } => hash(&("Manifest", file)),
    }
}

fn field(about: &About) -> Option<&str> {
    match about {
        About::Pod { field, .. } => field.as_deref(),
        _ => None,
    }
}

fn warns(event: &Event) -> bool {
    event.kind == EventType::Warning
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets what was added first.
#[derive(Debug)]
struct Remembered<V> {
    map: BTreeMap<u64, V>,
    order: VecDeque<u64>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<V> Remembered<V> {
    fn entry(&mut self, key: u64, fresh: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() == REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.map.entry(key).or_insert_with(fresh)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::{ObjectName, PodUid};

    fn event(pod: &str, field: Option<&str>, reason: &str, message: &str, second: i64) -> Event {
        let now = Timestamp::from_second(second).unwrap();
        let about = About::Pod {
            name: ObjectName::new("default", pod),
            uid: PodUid::try_from(format!("u-{pod}")).unwrap(),
            field: field.map(str::to_owned),
        };
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Event { about, kind: EventType::Warning, reason, message, count: 1, first: now, last: now }
    }

    fn told(correlator: &mut Correlator, event: Event) -> String {
        correlator.correlate(event).map_or("-".into(), |(_, event)| format!("x{} {}", event.count, event.message))
    }

    #[test]
    fn the_same_words_about_the_same_container_count_up() {
        let mut correlator = Correlator::default();
        let mut say = |field, second| told(&mut correlator, event("web", Some(field), "BackOff", "again", second));
        assert_eq!(
            [say("a", 0), say("a", 1), say("b", 2), say("a", 3)],
            ["x1 again", "x2 again", "x1 again", "x3 again"]
        );
    }

    #[test]
    fn the_tenth_different_message_combines_and_ten_quiet_minutes_end_that() {
        let mut correlator = Correlator::default();
        let mut say =
            |n: i32, second| told(&mut correlator, event("web", None, "Unhealthy", &format!("try {n}"), second));
        let lines: Vec<_> = (1..=12).map(|n| say(n, n.into())).collect();
        assert_eq!(lines[8], "x1 try 9");
        assert_eq!(lines[9], "x1 (combined from similar events): try 10");
        assert_eq!(lines[11], "x3 (combined from similar events): try 12");
        assert_eq!(say(13, 612), "x4 (combined from similar events): try 13");
        assert_eq!(say(14, 1_213), "x1 try 14");
    }

    #[test]
    fn one_object_may_say_25_things_and_then_one_each_five_minutes() {
        let mut correlator = Correlator::default();
        let mut say = |pod: &str, second| told(&mut correlator, event(pod, None, "BackOff", "again", second));
        for n in 1..=25 {
            assert_eq!(say("web", 0), format!("x{n} again"));
        }
        assert_eq!(say("web", 299), "-");
        assert_eq!(say("other", 299), "x1 again");
        // What was held back is counted.
        assert_eq!(say("web", 300), "x27 again");
        assert_eq!(say("web", 301), "-");
    }

    proptest! {
        #[test]
        fn nobody_says_more_than_the_budget_whatever_the_clock_does(times in prop::collection::vec(0i64..3_000, 1..200)) {
            let mut correlator = Correlator::default();
            let passed = times.iter().filter(|second| {
                correlator.correlate(event("web", None, "X", &second.to_string(), **second)).is_some()
            });
            // Each step forwards refills; steps back give nothing, so that the sum of the steps bounds it.
            let passed = passed.count();
            let forwards: i64 = times.windows(2).map(|pair| (pair[1] - pair[0]).max(0)).sum();
            prop_assert!(passed <= 25 + usize::try_from(forwards / 300).unwrap() + 1);
        }
    }
}

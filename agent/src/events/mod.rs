//! What happened on this node, in the kubelet's words: kept for a while, told to whoever listens.
//!
//! `correlate` decides (pure) what is told, what counts up and what is one too many, as client-go does for the kubelet.

mod correlate;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use self::correlate::{Correlator, Key};
use crate::names::{ObjectName, PodUid};

/// How many events are kept: an hour of a node whose hundred pods restart every few minutes.
const KEPT: usize = 2_000;

/// Normal or Warning, as in `v1.Event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// Things go their way.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// One event; equal ones are counted instead of repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What it is about.
    pub about: About,
    /// Normal or Warning.
    pub kind: EventType,
    /// The kubelet's reason, such as `BackOff` (see `pod-lifecycle`, section 20).
    pub reason: String,
    /// The kubelet's message.
    pub message: String,
    /// How often it was seen.
    pub count: u32,
    /// First seen.
    pub first: Timestamp,
    /// Last seen.
    pub last: Timestamp,
}

/// The object of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum About {
    /// A pod or one of its containers.
    Pod {
        /// Namespace and name.
        name: ObjectName,
        /// Uid.
        uid: PodUid,
        /// `spec.containers{name}` and the like, where one container is meant.
        field: Option<String>,
    },
    /// The node.
    Node,
    /// A manifest: file name and document.
    Manifest {
        /// Path as given.
        file: String,
    },
}

/// Takes events from everywhere; clones share one record.
#[derive(Clone)]
pub struct Recorder {
    kept: Arc<Mutex<Kept>>,
    live: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Kept {
    events: VecDeque<(Key, Event)>,
    correlator: Correlator,
}

impl Default for Recorder {
    fn default() -> Self {
        // A listener that falls this far behind skips; `recent` still has what it missed.
        let (live, _) = broadcast::channel(1_024);
        Self { kept: Arc::default(), live }
    }
}

impl Recorder {
    /// Records one event at `now`; the same reason and message about the same object count up instead. An object that
    /// causes too many is not heard for a while.
    pub fn record(&self, about: About, kind: EventType, reason: &str, message: impl Into<String>, now: Timestamp) {
        let event =
            Event { about, kind, reason: reason.to_owned(), message: message.into(), count: 1, first: now, last: now };
        if let Some(told) = self.keep(event) {
            // Nobody listening is fine.
            let _ = self.live.send(told);
        }
    }

    fn keep(&self, event: Event) -> Option<Event> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, event) = kept.correlator.correlate(event)?;
        if let Some(at) = kept.events.iter().rposition(|(old, _)| *old == key) {
            kept.events.remove(at);
        }
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back((key, event.clone()));
        Some(event)
    }

    /// What is kept, oldest first.
    pub fn recent(&self) -> Vec<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.events.iter().map(|(_, event)| event.clone()).collect()
    }

    /// Events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_repeats_is_counted() {
        let recorder = Recorder::default();
        for second in 0..3 {
            let now = Timestamp::from_second(second).unwrap();
            recorder.record(About::Node, EventType::Normal, "Starting", "Starting.", now);
        }
        let recent = recorder.recent();
        assert_eq!(recent.len(), 1);
        assert_eq!((recent[0].count, recent[0].first.as_second(), recent[0].last.as_second()), (3, 0, 2));
    }

    #[test]
    fn the_oldest_event_goes_when_the_record_is_full() {
        let recorder = Recorder::default();
        for n in 0..=KEPT {
            let about = About::Manifest { file: n.to_string() };
            recorder.record(about, EventType::Normal, "Tick", n.to_string(), Timestamp::UNIX_EPOCH);
        }
        let recent = recorder.recent();
        assert_eq!(recent.len(), KEPT);
        assert_eq!(recent[0].message, "1");
    }
}

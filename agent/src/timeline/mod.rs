//! What was tried for each pod, when, how long it took and how it came out: bounded, for `longshore explain`.
//!
//! [`Timeline`] is plain data; [`explain`] joins one with a pod's view and its events. `pods` tells what begins and ends,
//! and after each plan what is awaited. What it tried is written down with whatever else is remembered of a pod: the next run of
//! the agent goes on with it, but for what was tried in the last moment before a kill.

mod explain;
mod figures;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::metrics::Figures;
use crate::names::PodUid;

pub(crate) use explain::title;
pub use explain::{ContainerLine, Explanation, Known, explain};

/// The first steps of a pod stay: they are its start. Six for a pod of one container, two more for each other one.
const FIRST: usize = 16;
/// Of all later ones the newest stay: five restarts with everything around them.
const LAST: usize = 24;
/// Messages quote what registries and runtimes say; more of it is in the events and in the log.
const LONGEST: usize = 1_024;

/// A kind of step, as far as people tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Directories and volumes are made and mounted.
    Volumes,
    /// Volumes' contents follow changed objects.
    Refresh,
    /// An image is made sure of: looked for, and pulled where it has to be.
    Image,
    /// The sandbox is made, with its network.
    Sandbox,
    /// A sandbox is stopped to make room for another one.
    StopSandbox,
    /// A container is made and started, and its postStart hook run.
    Container,
    /// Cpu and memory of running containers are changed.
    Resize,
    /// A preStop hook is run.
    PreStop,
    /// A container is stopped.
    Stop,
    /// Something is given back for good.
    GiveBack,
}

const ALL: [Work; 10] = [
    Work::Volumes,
    Work::Refresh,
    Work::Image,
    Work::Sandbox,
    Work::StopSandbox,
    Work::Container,
    Work::Resize,
    Work::PreStop,
    Work::Stop,
    Work::GiveBack,
];

impl Work {
    /// As it is written everywhere.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Refresh => "refresh",
            Self::Image => "image",
            Self::Sandbox => "sandbox",
            Self::StopSandbox => "stop_sandbox",
            Self::Container => "container",
            Self::Resize => "resize",
            Self::PreStop => "pre_stop",
            Self::Stop => "stop",
            Self::GiveBack => "give_back",
        }
    }
}

/// How a step came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should.
    Done,
    /// It failed; what is tried again shows under what is awaited.
    Failed {
        /// As in a status, such as `ErrImagePull`.
        reason: String,
        /// In the words of whoever refused.
        message: String,
    },
    /// Given up, because the pod ends or because of a newer wish.
    CutOff,
}

impl Outcome {
    /// A failure; the message is cut to what a timeline may hold.
    pub fn failed(reason: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self::Failed { reason: reason.into(), message }
    }
}

/// One step; the same step with the same outcome several times in a row is one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What kind of step.
    pub work: Work,
    /// The container, or what is given back.
    pub of: Option<String>,
    /// When the first of them began.
    pub first: Timestamp,
    /// When the last of them began.
    pub began: Timestamp,
    /// When the last of them ended; `None` while it is under way.
    pub ended: Option<Timestamp>,
    /// How it came out; `None` while it is under way.
    pub outcome: Option<Outcome>,
    /// How often in a row.
    pub times: u32,
    /// Which job it is, while it is under way.
    #[serde(skip)]
    key: String,
}

/// Something that has to happen before the pod is where it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// What is waited for, such as `container main`.
    pub of: String,
    /// Why, for a person.
    pub why: String,
    /// Until then at the latest, where that is known.
    pub until: Option<Timestamp>,
}

impl Wait {
    /// A wait with or without an end that is known.
    pub fn new(of: impl Into<String>, why: impl Into<String>, until: Option<Timestamp>) -> Self {
        Self { of: of.into(), why: why.into(), until }
    }
}

/// What of a timeline outlives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    /// When the pod was first wanted.
    pub since: Option<Timestamp>,
    /// What was tried, oldest first.
    pub entries: VecDeque<Entry>,
    /// How many between the first and the last were forgotten.
    pub forgotten: u64,
}

/// One pod's steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// When the agent began with the pod; this run of it, where nothing is known of a former one.
    pub since: Timestamp,
    /// The pod was left by a former run of the agent.
    pub adopted: bool,
    /// What was tried, oldest first.
    pub entries: VecDeque<Entry>,
    /// How many between the first and the last were forgotten.
    pub forgotten: u64,
    /// What is awaited since the last plan.
    pub waits: Vec<Wait>,
}

impl Timeline {
    /// Nothing was tried yet.
    pub fn new(since: Timestamp, adopted: bool) -> Self {
        Self { since, adopted, entries: VecDeque::new(), forgotten: 0, waits: Vec::new() }
    }

    /// Goes on with what a former run of the agent knew. What was under way then was cut off, at the latest now.
    pub fn adopt(past: Past, now: Timestamp) -> Self {
        let Past { since, mut entries, forgotten } = past;
        for open in entries.iter_mut().filter(|entry| entry.outcome.is_none()) {
            (open.outcome, open.ended) = (Some(Outcome::CutOff), Some(now));
        }
        Self { entries, forgotten, ..Self::new(since.unwrap_or(now), true) }
    }

    /// What should outlive the agent.
    pub fn past(&self) -> Past {
        Past { since: Some(self.since), entries: self.entries.clone(), forgotten: self.forgotten }
    }

    /// A step begins. `key` tells jobs apart: the former one of the same key is over.
    pub fn begin(&mut self, key: String, work: Work, of: Option<String>, now: Timestamp) {
        self.end(&key, Outcome::CutOff, now);
        if self.entries.len() == FIRST + LAST {
            self.entries.remove(FIRST);
            self.forgotten += 1;
        }
        let entry = Entry { work, of, first: now, began: now, ended: None, outcome: None, times: 1, key };
        self.entries.push_back(entry);
    }

    /// The step of that key ended, and is answered as it was; nothing happens where none is under way.
    pub fn end(&mut self, key: &str, outcome: Outcome, now: Timestamp) -> Option<Entry> {
        let open = |entry: &Entry| entry.outcome.is_none() && entry.key == key;
        let at = self.entries.iter().rposition(open)?;
        let entry = self.entries.get_mut(at)?;
        entry.ended = Some(now);
        entry.outcome = Some(outcome);
        entry.key = String::new();
        let ended = entry.clone();
        self.fold(at);
        Some(ended)
    }

    /// What a start that took so long was spent on: kinds of steps with their microseconds. Steps of one kind that ran at
    /// the same time are added up.
    pub fn phases(&self, started_in: Duration) -> Vec<(Work, u64)> {
        let length = jiff::SignedDuration::try_from(started_in).unwrap_or(jiff::SignedDuration::MAX);
        let until = self.since.saturating_add(length).unwrap_or(Timestamp::MAX);
        let of = |work: Work| {
            let all = self.entries.iter().filter(|entry| entry.work == work && entry.first <= until);
            let took = all.filter_map(|entry| u64::try_from(entry.ended?.duration_since(entry.began).as_micros()).ok());
            (work, took.sum::<u64>())
        };
        let kinds = [Work::Volumes, Work::Image, Work::Sandbox, Work::Container];
        kinds.into_iter().map(of).filter(|(_, took)| *took > 0).collect()
    }

    /// How long the images of the start took: each moment once, however many were made sure of at the same time.
    fn images(&self) -> Duration {
        let mut spans: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.work == Work::Image)
            .filter_map(|entry| Some((entry.began, entry.ended?)))
            .collect();
        spans.sort_unstable();
        let (mut all, mut until) = (Duration::ZERO, Timestamp::MIN);
        for (began, ended) in spans {
            all += Duration::try_from(ended.duration_since(began.max(until))).unwrap_or_default();
            until = until.max(ended);
        }
        all
    }

    /// A step that came out as the one before of its kind did is counted there.
    fn fold(&mut self, at: usize) {
        let Some(new) = self.entries.get(at).cloned() else { return };
        let same_step = |old: &Entry| old.work == new.work && old.of == new.of;
        let Some(before) = self.entries.range(..at).rposition(same_step) else { return };
        let Some(old) = self.entries.get(before).filter(|old| old.outcome == new.outcome) else { return };
        let (first, times) = (old.first, old.times.saturating_add(new.times));
        // What succeeded is worth a line of its own: each start of a container is one.
        if new.outcome != Some(Outcome::Done) {
            self.entries.remove(before);
            if let Some(entry) = self.entries.get_mut(at - 1) {
                *entry = Entry { first, times, ..new };
            }
        }
    }
}

/// The timelines of all pods; clones share them.
#[derive(Clone, Debug)]
pub struct Timelines {
    /// When this run of the agent began.
    pub agent_started: Timestamp,
    pods: Arc<Mutex<BTreeMap<PodUid, Timeline>>>,
    figures: Figures,
}

impl Default for Timelines {
    fn default() -> Self {
        Self::new(Figures::default())
    }
}

impl Timelines {
    /// No pod yet; how long steps take is counted in `figures`.
    pub(crate) fn new(figures: Figures) -> Self {
        Self { agent_started: Timestamp::now(), pods: Arc::default(), figures }
    }

    /// Begins a pod's timeline, unless it has one; with what a former run of the agent left of it.
    pub fn open(&self, uid: &PodUid, left: Option<Past>) {
        let now = Timestamp::now();
        let begin = || left.map_or_else(|| Timeline::new(now, false), |past| Timeline::adopt(past, now));
        self.with(|pods| {
            pods.entry(uid.clone()).or_insert_with(begin);
        });
    }

    /// What should outlive the agent.
    pub fn past(&self, uid: &PodUid) -> Past {
        self.with(|pods| pods.get(uid).map(Timeline::past).unwrap_or_default())
    }

    /// See [`Timeline::begin`].
    pub fn begin(&self, uid: &PodUid, key: String, work: Work, of: Option<String>) {
        self.change(uid, |timeline| timeline.begin(key, work, of, Timestamp::now()));
    }

    /// See [`Timeline::end`].
    pub fn end(&self, uid: &PodUid, key: &str, outcome: Outcome) {
        let ended = self.change(uid, |timeline| timeline.end(key, outcome, Timestamp::now())).flatten();
        if let Some(ended) = ended {
            figures::step(&self.figures, &ended);
        }
    }

    /// All containers of the pod run for the first time, so long after the pod was first wanted.
    pub fn started(&self, uid: &PodUid, took: Duration) {
        let images = self.change(uid, |timeline| timeline.images()).unwrap_or_default();
        figures::start(&self.figures, took, images);
    }

    /// A worker has looked at its pod and decided, which took so long.
    pub fn synced(&self, is_ending: bool, took: Duration) {
        figures::sync(&self.figures, is_ending, took);
    }

    /// How many steps are under way, by their kind.
    pub(crate) fn under_way(&self) -> BTreeMap<&'static str, usize> {
        self.with(|pods| {
            let mut counts: BTreeMap<_, _> = ALL.iter().map(|work| (work.word(), 0)).collect();
            let open = pods.values().flat_map(|timeline| &timeline.entries).filter(|entry| entry.outcome.is_none());
            open.for_each(|entry| *counts.entry(entry.work.word()).or_default() += 1);
            counts
        })
    }

    /// What is awaited from now on.
    pub fn awaits(&self, uid: &PodUid, waits: Vec<Wait>) {
        self.change(uid, |timeline| timeline.waits = waits);
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.with(|pods| pods.remove(uid));
    }

    /// One pod's, as it is now.
    pub fn of(&self, uid: &PodUid) -> Option<Timeline> {
        self.with(|pods| pods.get(uid).cloned())
    }

    fn change<T>(&self, uid: &PodUid, change: impl FnOnce(&mut Timeline) -> T) -> Option<T> {
        self.with(|pods| pods.get_mut(uid).map(change))
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<PodUid, Timeline>) -> T) -> T {
        use_it(&mut self.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

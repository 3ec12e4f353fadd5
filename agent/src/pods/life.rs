//! A pod's life: it runs, it stops, it is given back. Never the other way.
//!
//! ```text
//! Running --Stop/Ended--> Stopping --NothingRuns--> Stopped --Undone…--> Stopped with nothing left
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where in its life a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// Its containers are kept as the manifest wants them.
    #[default]
    Running,
    /// Its containers end.
    Stopping {
        /// Why.
        end: End,
        /// When what still runs is killed; a later wish may bring it closer, never push it away.
        deadline: Timestamp,
    },
    /// No process remains; these are still to be given back, first one first.
    Stopped {
        /// Why.
        end: End,
        /// What is left to do.
        left: Vec<Undo>,
    },
}

/// Why a pod ends. At least one of the two holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Nobody wants it any more: nothing of it may stay.
    pub deleted: bool,
    /// It came to an end by itself: its logs and its status stay for as long as it is wanted.
    pub verdict: Option<Verdict>,
}

/// How a pod ended by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `Succeeded` or `Failed`.
    pub succeeded: bool,
    /// `status.reason`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: Option<String>,
}

/// Something to give back, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Network and namespaces.
    Sandboxes,
    /// Dead containers and sandboxes.
    Remains,
    /// Volumes.
    Volumes,
    /// The pod's cgroup.
    Cgroup,
    /// The logs.
    Logs,
    /// The pod's directory, and with it what the agent remembers of the pod.
    Directory,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The pod is to be gone by then.
    Stop {
        /// When what still runs is killed.
        by: Timestamp,
    },
    /// The pod came to an end by itself; containers that still run have until then.
    Ended {
        /// How it ended.
        verdict: Verdict,
        /// When what still runs is killed.
        by: Timestamp,
    },
    /// No container of the pod runs, and none is being started.
    NothingRuns,
    /// This was given back.
    Undone(Undo),
}

/// The next state; what does not fit the present one changes nothing.
pub fn next(life: Life, event: &Event) -> Life {
    match (life, event) {
        (Life::Running, Event::Stop { by }) => {
            Life::Stopping { end: End { deleted: true, verdict: None }, deadline: *by }
        }
        (Life::Running, Event::Ended { verdict, by }) => {
            Life::Stopping { end: End { deleted: false, verdict: Some(verdict.clone()) }, deadline: *by }
        }
        (Life::Stopping { end, deadline }, Event::Stop { by }) => {
            Life::Stopping { end: End { deleted: true, ..end }, deadline: deadline.min(*by) }
        }
        (Life::Stopping { end, .. }, Event::NothingRuns) => Life::Stopped { left: undo(&end), end },
        (Life::Stopped { end, .. }, Event::Stop { .. }) if !end.deleted => {
            let end = End { deleted: true, ..end };
            Life::Stopped { left: undo(&end), end }
        }
        (Life::Stopped { end, mut left }, Event::Undone(undo)) => {
            left.retain(|step| step != undo);
            Life::Stopped { end, left }
        }
        (life, _) => life,
    }
}

fn undo(end: &End) -> Vec<Undo> {
    use Undo::{Cgroup, Directory, Logs, Remains, Sandboxes, Volumes};
    match end.deleted {
        true => vec![Sandboxes, Remains, Volumes, Cgroup, Logs, Directory],
        false => vec![Sandboxes, Volumes, Cgroup],
    }
}

impl Life {
    /// The pod is on its way out.
    pub fn is_ending(&self) -> bool {
        !matches!(self, Self::Running)
    }

    /// Why it ends, if it does.
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Running => None,
            Self::Stopping { end, .. } | Self::Stopped { end, .. } => Some(end),
        }
    }

    /// Nothing of the pod is left, and nobody wants it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Stopped { end, left } if end.deleted && left.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let undo = prop::sample::select(vec![
            Undo::Sandboxes,
            Undo::Remains,
            Undo::Volumes,
            Undo::Cgroup,
            Undo::Logs,
            Undo::Directory,
        ]);
        prop_oneof![
            (0i64..100).prop_map(move |second| Event::Stop { by: at(second) }),
            (0i64..100, any::<bool>()).prop_map(move |(second, succeeded)| Event::Ended {
                verdict: Verdict { succeeded, reason: None, message: None },
                by: at(second)
            }),
            Just(Event::NothingRuns),
            undo.prop_map(Event::Undone),
        ]
    }

    fn rank(life: &Life) -> (u8, bool) {
        let deleted = life.end().is_some_and(|end| end.deleted);
        match life {
            Life::Running => (0, deleted),
            Life::Stopping { .. } => (1, deleted),
            Life::Stopped { .. } => (2, deleted),
        }
    }

    proptest! {
        #[test]
        fn life_never_goes_back(events in prop::collection::vec(event(), 0..40)) {
            let mut life = Life::Running;
            for event in events {
                let old = life.clone();
                life = next(life, &event);
                prop_assert!(rank(&life) >= rank(&old));
                if let (Life::Stopping { deadline: before, .. }, Life::Stopping { deadline: after, .. }) = (&old, &life) {
                    prop_assert!(after <= before);
                }
                let verdict = |life: &Life| life.end().and_then(|end| end.verdict.clone());
                prop_assert!(verdict(&old).is_none() || verdict(&old) == verdict(&life), "a verdict was lost");
            }
        }
    }

    #[test]
    fn a_pod_that_ended_is_given_back_whole_once_nobody_wants_it() {
        let at = Timestamp::UNIX_EPOCH;
        let verdict = Verdict { succeeded: true, reason: None, message: None };
        let life = next(Life::Running, &Event::Ended { verdict, by: at });
        let life = next(life, &Event::NothingRuns);
        let ended = [Undo::Sandboxes, Undo::Volumes, Undo::Cgroup];
        let mut life = ended.iter().fold(life, |life, undo| next(life, &Event::Undone(*undo)));
        assert!(!life.is_gone());
        life = next(life, &Event::Stop { by: at });
        let Life::Stopped { left, .. } = life.clone() else { panic!("{life:?}") };
        assert_eq!(left.len(), 6);
        assert!(left.iter().fold(life, |life, undo| next(life, &Event::Undone(*undo))).is_gone());
    }
}

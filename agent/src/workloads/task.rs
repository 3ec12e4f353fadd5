//! Has it done: looks, decides by [`expand`](super::expand()), writes down, publishes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::expand::{Look, News, expand};
use super::memory::Memory;
use super::rows::{Row, Rows};
use super::seen::{AllSeen, Seen};
use super::store::{Store, StoreError};
use crate::errors::chain;
use crate::events::{About, EventType, Recorder};
use crate::names::PodUid;
use crate::sources::Desired;
use crate::view::{PodView, PodViews};

/// One decision may call for the next at once (a Job that is complete lets its CronJob go on). More than a few in a
/// row do not happen; the bound keeps a mistake from turning for ever.
const TURNS: usize = 8;
/// How often pods are looked for that are on their way out and that nobody tells of.
const LEAVING: SignedDuration = SignedDuration::from_secs(1);
/// When a full disk is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(2);
/// A pod that was stopped by hand before this agent began is never heard of. After so long it counts as not ready:
/// what is there shows itself within moments of the start.
const HEARD: SignedDuration = SignedDuration::from_secs(60);
/// The clock may be set, and a suspended machine's timers stand still: nobody sleeps longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Turns workloads into pods.
pub struct Task {
    node: String,
    /// Pods' folders: what has one is not gone.
    pods: PathBuf,
    store: Store,
    source: watch::Receiver<Arc<Desired>>,
    wanted: watch::Sender<Arc<Desired>>,
    rows: watch::Sender<Arc<Vec<Row>>>,
    recorder: Recorder,
    /// Pods that were seen since this agent began.
    met: BTreeSet<PodUid>,
    started: Timestamp,
    /// Workloads of a former run whose manifests have not been read yet.
    unread: BTreeSet<String>,
}

/// What a [`Task`] publishes.
pub struct Published {
    /// Everything that is wanted, with the workloads' pods.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The workloads.
    pub rows: Rows,
}

impl Task {
    /// Decides once, so that the first value is already whole: it holds the pods of a former run. `state` is where
    /// this room keeps its files, `pods` where the pods have theirs.
    ///
    /// # Errors
    /// When what was remembered cannot be read or written.
    pub fn open(
        state: &Path,
        pods: &Path,
        node: &str,
        source: watch::Receiver<Arc<Desired>>,
        recorder: Recorder,
    ) -> Result<(Self, Published), StoreError> {
        let mut store = Store::open(state.join("workloads"))?;
        store.save(&without_lost(store.memory().clone(), pods))?;
        let unread = store.memory().keys().cloned().collect();
        let (wanted, rows) = (watch::Sender::new(Arc::default()), watch::Sender::new(Arc::default()));
        let published = Published { desired: wanted.subscribe(), rows: rows.subscribe() };
        let (node, pods) = (node.to_owned(), pods.to_owned());
        let (met, started) = (BTreeSet::new(), Timestamp::now());
        let mut task = Self { node, pods, store, source, wanted, rows, recorder, met, started, unread };
        let seen = task.look(&BTreeMap::new());
        task.settle(&seen)?;
        Ok((task, published))
    }

    /// Follows manifests and pods until `stop`.
    pub async fn run(mut self, mut views: PodViews, stop: CancellationToken) {
        let mut last = None;
        let mut wake = None;
        loop {
            let now = Arc::clone(&views.borrow_and_update());
            let seen = self.look(&now);
            // Most of what changes about a pod does not matter here.
            let due = wake.is_some_and(|wake| wake <= Timestamp::now());
            if due || self.source.has_changed().unwrap_or(true) || last.as_ref() != Some(&seen) {
                wake = self.settle(&seen).unwrap_or_else(|error| {
                    // Nothing is published that is not on disk; what runs, runs on.
                    error!("workloads stay as they are: {}", chain(&error));
                    Timestamp::now().checked_add(RETRY).ok()
                });
                last = Some(seen);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.source.changed() => {
                    if changed.is_err() { return }
                    self.source.mark_changed();
                }
                changed = views.changed() => if changed.is_err() { return },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Decides until nothing more follows from it. When to look again.
    fn settle(&mut self, seen: &AllSeen) -> Result<Option<Timestamp>, StoreError> {
        let desired = Arc::clone(&self.source.borrow_and_update());
        if desired.problems.is_empty() {
            self.unread.clear();
        }
        let mut wake = None;
        for _ in 0..TURNS {
            let former = Arc::clone(&self.wanted.borrow());
            let now = Timestamp::now();
            let (keep, node) = (&self.unread, self.node.as_str());
            let look = Look { desired: &desired, former: &former, seen, keep, node, now };
            let found = expand(&look, self.store.memory().clone());
            let again = found.memory != *self.store.memory();
            if again {
                self.store.save(&found.memory)?;
            }
            let leaving = found.memory.values().any(|remembered| remembered.leaving() > 0);
            let leaving = now.checked_add(LEAVING).ok().filter(|_| leaving);
            let heard = self.heard_by().filter(|_| !found.memory.is_empty());
            wake = found.wake.into_iter().chain(leaving).chain(heard).min();
            found.news.into_iter().for_each(|news| self.tell(news));
            publish(&self.wanted, found.desired);
            publish(&self.rows, found.rows);
            if !again {
                break;
            }
        }
        Ok(wake)
    }

    /// What is known of every pod that is remembered.
    fn look(&mut self, views: &BTreeMap<PodUid, PodView>) -> AllSeen {
        let mut seen = AllSeen::new();
        let everyone_was_heard = self.heard_by().is_none();
        for (uid, member) in self.store.memory().values().flat_map(|remembered| &remembered.members) {
            if let Some(view) = views.get(uid) {
                self.met.insert(uid.clone());
                seen.insert(uid.clone(), Seen::of(view));
            } else if member.leaving {
                // Where a former agent was killed, its pods are known by their folders before they are by their views.
                if self.pods.join(uid.as_str()).exists() {
                    seen.insert(uid.clone(), Seen { stopping: true, ..Seen::default() });
                }
            } else if self.met.contains(uid) || (everyone_was_heard && member.created < self.started) {
                // Stopped by hand: it stays away until its manifest changes.
                seen.insert(uid.clone(), Seen::default());
            }
        }
        let memory = self.store.memory();
        self.met.retain(|uid| memory.values().any(|remembered| remembered.members.contains_key(uid)));
        seen
    }

    /// When every pod of a former run that is there must have been heard of, while that is still to come.
    fn heard_by(&self) -> Option<Timestamp> {
        self.started.checked_add(HEARD).ok().filter(|by| *by > Timestamp::now())
    }

    fn tell(&self, news: News) {
        let about = About::Manifest { file: news.file.display().to_string() };
        let kind = if news.warning { EventType::Warning } else { EventType::Normal };
        let message = format!("{} {}: {}", news.kind, news.name, news.message);
        self.recorder.record(about, kind, news.reason, message, Timestamp::now());
    }
}

/// A pod that has ended and whose folder is gone was taken away with all others when a former agent was told to end.
/// What it did is counted: wanted again, it would do it again.
fn without_lost(mut memory: Memory, pods: &Path) -> Memory {
    for remembered in memory.values_mut() {
        remembered.members.retain(|uid, member| member.end.is_none() || pods.join(uid.as_str()).exists());
    }
    memory
}

fn publish<T: PartialEq>(to: &watch::Sender<Arc<T>>, value: T) {
    to.send_if_modified(|last| {
        let changed = **last != value;
        if changed {
            *last = Arc::new(value);
        }
        changed
    });
}

async fn sleep_until(wake: Option<Timestamp>) {
    let Some(wake) = wake else { return std::future::pending().await };
    let length = wake.duration_since(Timestamp::now());
    let length = Duration::try_from(length).unwrap_or_default();
    // A millisecond more, so that the moment has surely come.
    tokio::time::sleep(length.min(LONGEST_SLEEP).saturating_add(Duration::from_millis(1))).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::read_text;

    fn open(dir: &Path, desired: &Desired) -> (Task, Published) {
        let (_, source) = watch::channel(Arc::new(desired.clone()));
        Task::open(dir, &dir.join("pods"), "n1", source, Recorder::default()).unwrap()
    }

    fn uids(published: &Published) -> Vec<PodUid> {
        published.desired.borrow().pods.keys().cloned().collect()
    }

    const JOB: &str = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: work}\nspec:\n  completions: 2\n  parallelism: 2\n  \
                       template:\n    spec:\n      restartPolicy: Never\n      containers: [{name: c, image: 'i:1'}]\n";

    #[test]
    fn the_next_agent_wants_the_same_pods_and_none_that_ended_and_was_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let desired = read_text(Path::new("/m/a.yaml"), JOB, "n1");
        let (mut task, published) = open(dir.path(), &desired);
        let first = uids(&published);
        assert_eq!(first.len(), 2);
        let end = Some(super::super::End::Succeeded);
        let seen = first.iter().map(|uid| (uid.clone(), Seen { end, ..Seen::default() })).collect();
        task.settle(&seen).unwrap();
        drop(task);
        // One pod's folder is still there; the other one's went when the agent was told to end.
        std::fs::create_dir_all(dir.path().join("pods").join(first[0].as_str())).unwrap();
        let (_task, published) = open(dir.path(), &desired);
        assert_eq!(uids(&published), first[..1]);
        assert_eq!(published.rows.borrow()[0].status, "Complete");
    }

    #[test]
    fn what_cannot_be_read_yet_is_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let desired = read_text(Path::new("/m/a.yaml"), JOB, "n1");
        let (task, published) = open(dir.path(), &desired);
        let first = uids(&published);
        drop(task);
        let broken = read_text(Path::new("/m/a.yaml"), "{", "n1");
        let (task, published) = open(dir.path(), &broken);
        assert_eq!((uids(&published).len(), task.store.memory().len()), (0, 1));
        drop(task);
        let (_task, published) = open(dir.path(), &desired);
        assert_eq!(uids(&published), first);
        let (task, _) = open(dir.path(), &Desired::default());
        assert!(task.store.memory().is_empty());
    }
}

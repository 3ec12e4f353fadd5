//! What volumes and logs of pods hold. Counting takes a walk over the files: it is begun when somebody asks, kept for a minute
//! (the kubelet's `volumeStatsAggPeriod`), and nobody waits for it but the first one, for a moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::container::{all_containers, logs};
use crate::names::PodUid;
use crate::node::Handle;
use crate::resources::pressure::OnDisk;
use crate::view::PodView;
use crate::volumes::{self, Layout, VolumeFigures};

/// How long figures count.
const KEPT: Duration = Duration::from_secs(60);
/// What the first answer waits for figures: most pods have few files.
const PATIENCE: Duration = Duration::from_millis(20);
/// Pods that are looked at at the same time. Where a server may be gone, nobody waits for anybody.
const AT_ONCE: usize = 2;

/// What one pod has on disks.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct PodDisk {
    pub(super) at: Timestamp,
    pub(super) volumes: Vec<VolumeFigures>,
    /// By container.
    pub(super) logs: BTreeMap<String, OnDisk>,
}

/// By pod; who is not there was not looked at yet.
pub(in super::super) type PodDisks = BTreeMap<PodUid, Arc<PodDisk>>;

/// Figures of all pods.
#[derive(Clone)]
pub(in super::super) struct Disks {
    pods: Arc<Mutex<BTreeMap<PodUid, Kept>>>,
    turns: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    /// When somebody began to look, and is still at it where `looking`.
    begun: Option<Instant>,
    looking: bool,
    figures: Option<Arc<PodDisk>>,
}

impl Default for Disks {
    fn default() -> Self {
        Self { pods: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// Where a pod's files are.
struct Places {
    dir: PathBuf,
    logs: Vec<(String, PathBuf)>,
}

impl Places {
    fn of(node: &Handle, uid: &PodUid, view: &PodView) -> Self {
        let logs = logs::pod_dir(&node.config.dirs.logs, &view.pod);
        let containers =
            all_containers(&view.pod).map(|container| (container.name.clone(), logs.join(&container.name)));
        Self { dir: Layout::new(&node.config.dirs.kubelet).pod(uid), logs: containers.collect() }
    }

    fn look(self) -> PodDisk {
        let logs = self.logs.into_iter().filter_map(|(name, dir)| Some((name, volumes::on_disk(&dir).ok()?)));
        PodDisk { logs: logs.collect(), volumes: volumes::figures_of_pod(&self.dir), at: Timestamp::now() }
    }
}

impl Disks {
    /// What is known of the node's pods. What is too old is looked at anew meanwhile.
    pub(in super::super) async fn of(&self, node: &Handle) -> PodDisks {
        let views = node.views.borrow().clone();
        let mut looks = JoinSet::new();
        for uid in self.due(views.keys()) {
            if let Some(view) = views.get(&uid) {
                looks.spawn(self.clone().look(uid.clone(), Places::of(node, &uid, view)));
            }
        }
        // They go on where this one is not patient enough.
        let _ = tokio::time::timeout(PATIENCE, async { while looks.join_next().await.is_some() {} }).await;
        looks.detach_all();
        let known = self.lock();
        known.iter().filter_map(|(uid, kept)| Some((uid.clone(), kept.figures.clone()?))).collect()
    }

    /// Pods that are to be looked at; those that are gone are forgotten.
    fn due<'a>(&self, pods: impl Iterator<Item = &'a PodUid>) -> Vec<PodUid> {
        let (mut known, mut now) = (self.lock(), BTreeMap::new());
        let mut due = Vec::new();
        for uid in pods {
            let mut kept = known.remove(uid).unwrap_or_default();
            if !kept.looking && kept.begun.is_none_or(|begun| begun.elapsed() >= KEPT) {
                (kept.looking, kept.begun) = (true, Some(Instant::now()));
                due.push(uid.clone());
            }
            now.insert(uid.clone(), kept);
        }
        *known = now;
        due
    }

    async fn look(self, uid: PodUid, places: Places) {
        let dir = places.dir.clone();
        let hangs = tokio::task::spawn_blocking(move || volumes::may_hang(&dir)).await.unwrap_or(true);
        // Closed never.
        let _turn = if hangs { None } else { self.turns.acquire().await.ok() };
        let looked = tokio::task::spawn_blocking(move || places.look()).await.ok();
        if let Some(kept) = self.lock().get_mut(&uid) {
            kept.looking = false;
            kept.figures = looked.map(Arc::new).or_else(|| kept.figures.take());
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodUid, Kept>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_looked_at_once_a_minute_and_forgotten_when_it_is_gone() {
        let disks = Disks::default();
        let (one, two) = (PodUid::from_number(1), PodUid::from_number(2));
        assert_eq!(disks.due([&one, &two].into_iter()), [one.clone(), two.clone()]);
        assert!(disks.due([&one, &two].into_iter()).is_empty(), "somebody is at it");
        disks.lock().get_mut(&one).unwrap().looking = false;
        assert!(disks.due([&one, &two].into_iter()).is_empty(), "it is new");
        disks.lock().get_mut(&one).unwrap().begun = Instant::now().checked_sub(KEPT);
        disks.lock().get_mut(&two).unwrap().begun = Instant::now().checked_sub(KEPT);
        assert_eq!(disks.due([&one, &two].into_iter()), [one], "the other one hangs");
        disks.due(std::iter::empty());
        assert!(disks.lock().is_empty());
    }
}

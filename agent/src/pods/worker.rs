//! One task per pod: wait, look, decide, tell, do. Every reason to wake does the same work.

mod granted;
mod jobs;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::awaits;
use super::backoff::{Limits, signed};
use super::execute::Done;
use super::life::{self, Event, Life};
use super::mailbox::{Mailbox, Want, Wish};
use super::memory::{Note, Remembered};
use super::outcome;
use super::plan::{self, Inputs, Kept, Plan};
use super::probing::Told;
use super::status::{self, StatusInputs};
use super::step::{Job, Progress, Step};
use super::tools::Tools;
use crate::container::pod_name_for_messages;
use crate::errors::chain;
use crate::events::EventType;
use crate::names::PodUid;
use crate::observe::{self, Observed};
use crate::pods::messages;
use crate::probes::ProbeResults;
use crate::resources::{eviction, preemption};
use crate::view::PodView;

/// How soon a failed look at the runtime is repeated.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A worker's ear: wishes and wake-ups go in from any task.
#[derive(Default)]
pub(super) struct Ear {
    mailbox: Mutex<Mailbox>,
    wake: Notify,
    changed: AtomicBool,
    /// Why the pod may not go on, reason and message, and how long it has, until its worker has heard it.
    evicted: Mutex<Option<(&'static str, String, Duration)>>,
}

impl Ear {
    /// Adds a wish.
    pub(super) fn wish(&self, wish: Wish) {
        let mut mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        *mailbox = std::mem::take(&mut *mailbox).put(wish);
        drop(mailbox);
        self.wake.notify_one();
    }

    /// The pod may not go on.
    pub(super) fn evict(&self, reason: &'static str, message: String, grace: Duration) {
        *self.evicted.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, message, grace));
        self.wake.notify_one();
    }

    /// Something may have changed in the runtime.
    pub(super) fn changed(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<Wish> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) struct Worker {
    tools: Arc<Tools>,
    uid: PodUid,
    ear: Arc<Ear>,
    /// What is worked with: the pod with the resources that were granted.
    want: Want,
    /// The pod as its manifest has it.
    desired: Arc<Pod>,
    /// When a resize that was put off is looked at again.
    reconsider: Timestamp,
    /// Other pods gave something back.
    freed: watch::Receiver<()>,
    life: Life,
    kept: Kept,
    progress: Progress,
    seen: Observed,
    /// `seen` is what the runtime has: without it nothing is planned.
    seen_is_true: bool,
    status: Option<PodStatus>,
    messages: BTreeMap<String, String>,
    results: watch::Receiver<Arc<ProbeResults>>,
    told: Told,
    jobs: JoinSet<Done>,
    running: HashMap<Id, (Job, AbortHandle)>,
    ending: CancellationToken,
    wanted: Instant,
    started_in_ms: Option<u64>,
    noted: Option<Note>,
    said: BTreeMap<String, String>,
    shown: Option<Shown>,
}

/// What people were last told.
struct Shown {
    pod: Arc<Pod>,
    status: PodStatus,
    started_in_ms: Option<u64>,
    stopping: bool,
}

impl Worker {
    /// A worker for a pod that is wanted, or was when the agent ended: then with what was remembered of it.
    pub(super) fn new(tools: Arc<Tools>, uid: PodUid, want: Want, left: Option<Remembered>) -> (Self, Arc<Ear>) {
        let ear = Arc::new(Ear::default());
        let mut left = left.unwrap_or_default();
        tools.timelines.open(&uid, left.status.is_some().then(|| std::mem::take(&mut left.steps)));
        let results = tools.probes.track(&want.pod, &uid, left.probes.clone());
        let mut kept = left.kept;
        kept.started.get_or_insert_with(Timestamp::now);
        let mut worker = Self {
            desired: Arc::clone(&want.pod),
            reconsider: Timestamp::MIN,
            freed: tools.ledger.listen(),
            told: Told::new(),
            results,
            tools,
            uid,
            ear: Arc::clone(&ear),
            want,
            life: left.life,
            kept,
            progress: Progress::default(),
            seen: Observed::default(),
            seen_is_true: false,
            status: left.status,
            messages: BTreeMap::new(),
            jobs: JoinSet::new(),
            running: HashMap::new(),
            ending: CancellationToken::new(),
            wanted: Instant::now(),
            started_in_ms: left.started_in_ms,
            noted: None,
            said: BTreeMap::new(),
            shown: None,
        };
        worker.allocate();
        (worker, ear)
    }

    /// Runs until nothing of the pod is left, or until `stop`: then the pod goes on without us.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.ear.changed();
        loop {
            let began = Instant::now();
            self.take_wishes();
            self.look().await;
            let now = Timestamp::now();
            let plan = if self.seen_is_true { self.decide(now) } else { self.look_again(now) };
            if self.life.is_gone() {
                break;
            }
            let wake = if self.tell().await {
                self.launch(plan.steps);
                plan.wake
            } else {
                // A full disk must not keep what runs from being stopped.
                self.launch(plan.steps.into_iter().filter(Step::takes_away).collect());
                self.look_again(now).wake
            };
            self.tools.timelines.synced(self.life.is_ending(), began.elapsed());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wait(wake) => {}
            }
        }
        self.tools.ledger.release(&self.uid);
        self.tools.probes.forget(&self.uid);
        self.tools.views.forget(&self.uid);
        self.tools.timelines.forget(&self.uid);
    }

    fn take_wishes(&mut self) {
        match self.ear.take() {
            Some(Wish::Run(want)) => self.follow(want),
            Some(Wish::Stop { by }) => self.live(&Event::Stop { by }),
            None => {}
        }
        let evicted = self.ear.evicted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some((reason, message, grace)), Life::Running) = (evicted, &self.life) {
            self.live(&plan::evicted(reason, message, Timestamp::now(), grace));
        }
    }

    fn follow(&mut self, want: Want) {
        let objects_changed = want.generation != self.want.generation;
        let pod_changed = want.pod != self.desired;
        self.desired = Arc::clone(&want.pod);
        let former = std::mem::replace(&mut self.want, want);
        self.allocate();
        if pod_changed {
            self.forget_images(&former.pod);
        }
        // Files made of the pod's own fields change with it.
        if objects_changed || pod_changed {
            // What was missing may have come: no reason to sit out the delay.
            self.progress.stale = self.progress.volumes.is_some();
            self.progress.volume_trouble = None;
            let (want, pulls) = (&self.want, &self.kept.pulls);
            self.progress.container_trouble.retain(|name, trouble| {
                let other_credentials = trouble.pull_of.is_some()
                    && pulls
                        .get(name)
                        .is_some_and(|pull| pull.key != outcome::pull_key(&want.pod, name, &want.within.objects));
                trouble.reason != "CreateContainerConfigError" && !other_credentials
            });
        }
    }

    fn live(&mut self, event: &Event) {
        let life = life::next(self.life.clone(), event);
        if life.is_ending() && !self.ending.is_cancelled() {
            self.ending.cancel();
            self.tools.probes.terminating(&self.uid);
        }
        if let Event::Ended { verdict, .. } = event
            && let (Some(reason), Some(message)) = (&verdict.reason, &verdict.message)
        {
            let warns = [eviction::REASON, preemption::REASON].contains(&reason.as_str());
            let kind = if warns { EventType::Warning } else { EventType::Normal };
            self.tools.say(&self.want.pod, kind, reason, message);
        }
        if matches!(life, Life::Stopped { .. }) {
            self.tools.ledger.release(&self.uid);
        }
        self.life = life;
    }

    /// Looks at the runtime where something may have changed.
    async fn look(&mut self) {
        if !self.ear.changed.swap(false, Ordering::AcqRel) && self.seen_is_true {
            return;
        }
        match observe::pod(self.tools.runtime.as_ref(), &self.uid, self.tools.config.timing.request).await {
            Ok(seen) => {
                self.seen = seen;
                self.seen_is_true = true;
                plan::note(&mut self.kept, &self.seen);
                self.hear_last_words();
            }
            Err(error) => {
                warn!(pod = %self.uid, error = chain(&error), "looking at a pod");
                let text = format!("error determining status: {}", chain(&error));
                self.tools.say(&self.want.pod, EventType::Warning, "FailedSync", text);
                self.seen_is_true = false;
            }
        }
    }

    fn look_again(&self, now: Timestamp) -> Plan {
        Plan { wake: now.saturating_add(signed(LOOK_AGAIN)).ok(), ..Plan::default() }
    }

    fn hear_last_words(&mut self) {
        for ended in messages::unread(&self.want.pod, &self.seen, &self.messages) {
            let text = messages::of(&self.tools.config.dirs.logs, &self.want.pod, &ended);
            self.messages.insert(ended.id, text);
        }
        self.messages.retain(|id, _| self.seen.by_id(id).is_some());
        self.kept.again.retain(|id| self.seen.by_id(id).is_some());
        self.progress.hooks_done.retain(|id| self.seen.by_id(id).is_some());
        self.progress.killed.retain(|id, _| self.seen.by_id(id).is_some_and(|container| container.state.may_run()));
    }

    fn inputs<'a>(&'a self, probes: &'a ProbeResults) -> Inputs<'a> {
        Inputs {
            pod: &self.want.pod,
            seen: &self.seen,
            probes,
            life: &self.life,
            kept: &self.kept,
            progress: &self.progress,
            crash: self.limits(),
        }
    }

    fn limits(&self) -> Limits {
        Limits { first: self.tools.config.timing.crash_first, max: self.tools.config.timing.crash_max }
    }

    fn decide(&mut self, now: Timestamp) -> Plan {
        let probes = Arc::clone(&self.results.borrow_and_update());
        while let Some(event) = plan::judge(&self.inputs(&probes), now) {
            self.live(&event);
        }
        self.ask_again(now);
        let mut plan = plan::plan(&self.inputs(&probes), now);
        if self.is_put_off() {
            plan.wake(self.reconsider);
        }
        self.book(&plan, now);
        let before = self.status.take();
        let node_ips = self.tools.node_ips();
        self.status = Some(status::status(
            &StatusInputs {
                inputs: self.inputs(&probes),
                plan: &plan,
                before: before.as_ref(),
                messages: &self.messages,
                node_ips: &node_ips,
                runtime: &self.tools.runtime_name,
            },
            now,
        ));
        self.count_the_start();
        if let Some(status) = &self.status {
            let waits = awaits::awaits(&self.inputs(&probes), &plan, status, now);
            self.tools.timelines.awaits(&self.uid, waits);
        }
        plan
    }

    /// What steps change in memory is on disk before they begin.
    fn book(&mut self, plan: &Plan, now: Timestamp) {
        let limits = self.limits();
        plan::book(&mut self.kept, &self.want.pod, plan, now, limits);
        for (name, crash) in &plan.crash_loops {
            if self.said.get(name) != Some(&crash.dead) {
                self.said.insert(name.clone(), crash.dead.clone());
                let pod = pod_name_for_messages(&self.want.pod);
                let message = format!("Back-off restarting failed container {name} in pod {pod}");
                self.tools.say_of(&self.want.pod, name, EventType::Warning, "BackOff", message);
            }
        }
    }

    fn count_the_start(&mut self) {
        if self.started_in_ms.is_none() && self.status.as_ref().is_some_and(outcome::all_run) {
            let took = self.wanted.elapsed();
            self.started_in_ms = u64::try_from(took.as_millis()).ok();
            self.tools.timelines.started(&self.uid, took);
        }
    }

    /// Disk first, then people and probes. False where the disk refused: nothing new may begin then.
    async fn tell(&mut self) -> bool {
        let remembered = self.remember().await;
        // An end that the next start of the agent may not know of is told to nobody.
        let is_over = self.status.as_ref().is_some_and(outcome::is_over);
        if remembered || !is_over {
            self.show();
        }
        if self.seen_is_true {
            self.told.tell(&self.tools, &self.uid, &self.want.pod, &self.seen, &self.progress);
        }
        remembered
    }

    async fn remember(&mut self) -> bool {
        if self.is_losing_its_directory() {
            return true;
        }
        let note = Note {
            pod: Arc::clone(&self.desired),
            life: self.life.clone(),
            kept: self.kept.clone(),
            status: self.status.clone(),
            started_in_ms: self.started_in_ms,
            probes: self.tools.probes.save(&self.uid),
        };
        if self.noted.as_ref() == Some(&note) {
            return true;
        }
        let (memory, uid, copy) = (self.tools.memory.clone(), self.uid.clone(), note.clone());
        let steps = self.tools.timelines.past(&uid);
        match tokio::task::spawn_blocking(move || memory.save(&uid, &copy, &steps)).await {
            Ok(Ok(())) => {
                self.noted = Some(note);
                true
            }
            Ok(Err(error)) => {
                error!(pod = %self.uid, error = chain(&error), "remembering a pod; nothing new is begun");
                self.tools.say(&self.want.pod, EventType::Warning, "FailedSync", chain(&error));
                false
            }
            // Only when the agent itself ends.
            Err(_) => false,
        }
    }

    /// The last thing to go is the directory with the memory in it: it must not be written anew.
    fn is_losing_its_directory(&self) -> bool {
        matches!(&self.life, Life::Stopped { end, left } if end.deleted && left.len() <= 1)
    }

    fn show(&mut self) {
        let started = self.kept.started.unwrap_or_else(Timestamp::now);
        let status = self.status.clone().unwrap_or_else(|| status::pending(&self.want.pod, started));
        let (pod, started_in_ms) = (Arc::clone(&self.desired), self.started_in_ms);
        let now = Shown { pod, status, started_in_ms, stopping: self.life.end().is_some_and(|end| end.deleted) };
        if self.shown.as_ref().is_some_and(|shown| shown.is_same(&now)) {
            return;
        }
        self.tools.views.show(
            &self.uid,
            PodView {
                pod: Arc::clone(&now.pod),
                status: now.status.clone(),
                started_in: now.started_in_ms.map(Duration::from_millis),
                stopping: now.stopping,
            },
        );
        self.shown = Some(now);
        self.tools.probes.readiness_wanted(&self.uid);
    }
}

impl Shown {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.pod, &other.pod)
            && (self.started_in_ms, self.stopping) == (other.started_in_ms, other.stopping)
            && self.status == other.status
    }
}

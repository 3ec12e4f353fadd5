//! Which pods have a worker: starts them, forgets finished ones, and passes wishes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::backoff::signed;
use super::generation;
use super::held::{Held, HeldPods};
use super::life::{End, Life, Verdict};
use super::mailbox::{Want, Wish};
use super::memory::Remembered;
use super::plan::{Kept, grace};
use super::tools::{Tools, object_name};
use super::worker::{Ear, Worker};
use crate::events::EventType;
use crate::names::{ObjectName, PodUid};
use crate::observe::{Observed, Waker};
use crate::resources::admission::{self, NodeFacts, Refusal, Rejection};
use crate::resources::{eviction, preemption};
use crate::sources::{self, Desired};

/// What the API server takes and this node cannot do; manifests were looked at when they were read.
fn supported(pod: &Pod) -> Result<(), Rejection> {
    match sources::unsupported(pod) {
        fields if fields.is_empty() => Ok(()),
        fields => Err(Rejection {
            reason: "PodFeatureUnsupported".to_owned(),
            message: format!("Pod requires node features that are not available: {}", fields.join("; ")),
        }),
    }
}

/// How soon pods that were refused are asked about again: what they lacked may have been given back.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How soon it is looked again whether there is room for a critical pod.
const MAKING_ROOM: Duration = Duration::from_millis(100);

/// Whether a pod may start.
enum Room {
    /// Now.
    There,
    /// When others have ended.
    Comes,
}

/// The ears of all workers, for whoever hears of their pods.
#[derive(Clone, Default)]
pub struct Ears(Arc<Mutex<BTreeMap<PodUid, Arc<Ear>>>>);

impl Ears {
    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<PodUid, Arc<Ear>>) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Waker for Ears {
    fn wake(&self, pod: &PodUid) {
        self.with(|ears| {
            if let Some(ear) = ears.get(pod) {
                ear.changed();
            }
        });
    }

    fn wake_all(&self) {
        self.with(|ears| ears.values().for_each(|ear| ear.changed()));
    }
}

/// What can be asked of the registry besides the set of wanted pods.
pub enum Ask {
    /// These pods end and stay away until their manifest changes or they are started by hand, through restarts of the
    /// agent too; answered when nothing of them is left. A time makes their grace periods shorter, also those that run.
    Stop(Vec<ObjectName>, Option<Duration>, oneshot::Sender<()>),
    /// Those of these pods that were stopped by hand start again; answered with their names.
    Start(Vec<ObjectName>, oneshot::Sender<Vec<ObjectName>>),
    /// This pod may not go on, and why; it ends as failed, within this time.
    Evict(PodUid, String, Duration),
    /// Every pod ends, and none is started any more; answered when nothing is left.
    StopAll(oneshot::Sender<()>),
    /// Whether anything of this pod is left, or may still come, by the newest set of wanted pods.
    Holds(PodUid, oneshot::Sender<bool>),
}

struct Entry {
    name: ObjectName,
    want: Want,
    ending: bool,
    /// The node did not take it: it uses nothing.
    rejected: bool,
    /// It ends so that a critical pod has room.
    preempted: bool,
    task: Id,
}

/// Owns the workers.
pub struct Registry {
    tools: Arc<Tools>,
    stop: CancellationToken,
    ears: Ears,
    pods: BTreeMap<PodUid, Entry>,
    workers: JoinSet<()>,
    desired: Arc<Desired>,
    generation: u64,
    /// Pods that were stopped by hand.
    held: Held,
    node: NodeFacts,
    /// Nothing is started any more.
    closed: bool,
    /// Critical pods for which others make room.
    awaiting: BTreeSet<PodUid>,
    waiting: Vec<(BTreeSet<PodUid>, oneshot::Sender<()>)>,
}

impl Registry {
    /// No workers yet. They end with `stop`, their pods go on.
    pub fn new(tools: Arc<Tools>, stop: CancellationToken) -> Self {
        let config = &tools.config;
        let held = Held::load(config.dirs.root.join("held.json"));
        let node = NodeFacts::of(&config.node_name, tools.allocatable, config.max_pods);
        let node = NodeFacts { allowed_sysctls: config.allowed_sysctls.clone(), ..node };
        Self {
            tools,
            stop,
            ears: Ears::default(),
            pods: BTreeMap::new(),
            workers: JoinSet::new(),
            desired: Arc::default(),
            generation: 0,
            held,
            node,
            closed: false,
            awaiting: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    /// Pods that were stopped by hand.
    pub fn held(&self) -> HeldPods {
        self.held.listen()
    }

    /// Where to wake workers.
    pub fn ears(&self) -> Ears {
        self.ears.clone()
    }

    /// Takes over what a former run left: what is wanted goes on, the rest is ended. `desired` must be whole: with a
    /// half-filled set, live pods would look like orphans.
    pub fn adopt(&mut self, desired: Arc<Desired>, left: Vec<(PodUid, Remembered)>, seen: &BTreeMap<PodUid, Observed>) {
        self.desired = Arc::clone(&desired);
        for (uid, left) in left {
            let wanted = desired.pods.get(&uid).cloned();
            let pod = wanted.as_ref().map_or_else(|| Arc::new(left.pod.clone()), |pod| self.numbered(pod, &left.pod));
            if pod.metadata.uid.as_deref() != Some(uid.as_str()) {
                continue;
            }
            let by = grace(&pod, Timestamp::now());
            info!(%uid, wanted = wanted.is_some(), "a pod of a former run");
            self.start(&uid, pod, Some(left));
            if wanted.is_none() {
                self.end(&uid, by);
            }
        }
        for (uid, seen) in seen {
            let wanted = desired.pods.get(uid).is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
            if !self.pods.contains_key(uid) && !wanted {
                self.end_orphan(uid, seen);
            }
        }
        self.reconcile();
    }

    /// A pod that only the runtime knows: there is no manifest to ask for its grace period.
    fn end_orphan(&mut self, uid: &PodUid, seen: &Observed) {
        let Some(sandbox) = seen.sandbox() else { return };
        info!(%uid, name = %sandbox.pod, "a pod that nobody wants");
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        pod.metadata.name = Some(sandbox.pod.name.clone());
        pod.metadata.namespace = Some(sandbox.pod.namespace.clone());
        pod.metadata.uid = Some(uid.to_string());
        self.start(uid, Arc::new(pod), None);
        let second = SignedDuration::from_secs(1);
        self.end(uid, Timestamp::now().saturating_add(second).unwrap_or(Timestamp::MAX));
    }

    /// Follows the wanted set until `stop`.
    pub async fn run(mut self, mut desired: watch::Receiver<Arc<Desired>>, mut asks: mpsc::Receiver<Ask>) {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = desired.changed() => {
                    let new = Arc::clone(&desired.borrow_and_update());
                    self.follow(new);
                }
                Some(ask) = asks.recv() => {
                    if desired.has_changed().unwrap_or(false) {
                        let new = Arc::clone(&desired.borrow_and_update());
                        self.follow(new);
                    }
                    self.asked(ask);
                }
                Some(ended) = self.workers.join_next_with_id(), if !self.workers.is_empty() => self.ended(&ended),
                () = tokio::time::sleep(ASK_AGAIN), if self.may_ask_again() => self.readmit(),
                () = tokio::time::sleep(MAKING_ROOM), if !self.awaiting.is_empty() => {
                    self.awaiting.clear();
                    self.reconcile();
                }
            }
        }
        while self.workers.join_next().await.is_some() {}
    }

    fn follow(&mut self, new: Arc<Desired>) {
        if new.objects != self.desired.objects {
            self.generation += 1;
        }
        self.desired = new;
        self.reconcile();
    }

    /// Ends what is not wanted, passes on what changed, starts what is new.
    fn reconcile(&mut self) {
        let desired = Arc::clone(&self.desired);
        self.held.retain(&desired.pods);
        let unwanted = self.pods.iter().filter(|(uid, _)| !desired.pods.contains_key(*uid));
        let unwanted: Vec<_> = unwanted.map(|(uid, entry)| (uid.clone(), Arc::clone(&entry.want.pod))).collect();
        for (uid, pod) in unwanted {
            self.end(&uid, grace(&pod, Timestamp::now()));
        }
        for (uid, pod) in &desired.pods {
            if pod.metadata.deletion_timestamp.is_some() {
                self.delete(uid, pod);
            } else if !self.closed && !self.held.holds(uid) {
                self.want(uid, pod);
            }
        }
    }

    /// Ends a pod that is marked for deletion; marked again with a shorter grace period, it ends sooner.
    fn delete(&mut self, uid: &PodUid, pod: &Arc<Pod>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if entry.ending && entry.want.pod == *pod {
            return;
        }
        entry.want.pod = Arc::clone(pod);
        entry.ending = false;
        self.end(uid, grace(pod, Timestamp::now()));
    }

    /// In a cluster the API server counts the changes of a spec.
    fn numbered(&self, wanted: &Arc<Pod>, former: &Pod) -> Arc<Pod> {
        match self.tools.config.dns.in_cluster {
            true => Arc::clone(wanted),
            false => generation::numbered(wanted, former),
        }
    }

    fn want(&mut self, uid: &PodUid, pod: &Arc<Pod>) {
        let pod = match self.pods.get(uid) {
            Some(entry) => &self.numbered(pod, &entry.want.pod),
            None => pod,
        };
        let want = Want { pod: Arc::clone(pod), within: Arc::clone(&self.desired), generation: self.generation };
        match self.pods.get_mut(uid) {
            // It comes back once it is gone.
            Some(entry) if entry.ending => {}
            Some(entry) => {
                let same = entry.want.pod == want.pod && entry.want.generation == want.generation;
                entry.want = want.clone();
                if !same {
                    self.ears.with(|ears| ears.get(uid).map(|ear| ear.wish(Wish::Run(want))));
                }
            }
            None => {
                let name = object_name(pod);
                // Two pods of one name share their logs and their address in people's minds: one after the other.
                if !self.pods.values().any(|entry| entry.name == name) {
                    self.admit(uid, pod);
                }
            }
        }
    }

    /// Starts a pod that this node takes; one that it does not take begins at its end, and says why.
    fn admit(&mut self, uid: &PodUid, pod: &Arc<Pod>) {
        if let Some(labels) = &self.desired.node_labels {
            self.node.labels.clone_from(labels);
        }
        self.node.taints.clone_from(&self.desired.node_taints);
        self.node.pressure.clone_from(&self.tools.pressure.borrow());
        match self.take(pod).and_then(|room| supported(pod).map(|()| room)) {
            Ok(Room::There) => {
                self.awaiting.remove(uid);
                self.start(uid, Arc::clone(pod), None);
            }
            // Asked again until those that make room have ended.
            Ok(Room::Comes) => drop(self.awaiting.insert(uid.clone())),
            Err(rejection) => {
                self.awaiting.remove(uid);
                self.tools.say(pod, EventType::Warning, &rejection.reason, &rejection.message);
                self.start(uid, Arc::clone(pod), Some(rejected(pod, rejection)));
            }
        }
    }

    /// Whether there is room for the pod; others end to make some for a critical one.
    fn take(&mut self, pod: &Arc<Pod>) -> Result<Room, Rejection> {
        let refusal = match admission::consider(pod, &self.active(), &self.node) {
            Ok(()) => return Ok(Room::There),
            Err(refusal) if preemption::is_critical(pod) => refusal,
            Err(refusal) => return Err(refusal.into()),
        };
        if let Refusal::No(rejection) = refusal {
            return Err(rejection);
        }
        let preempted = |uid: &PodUid| self.pods.get(uid).is_some_and(|entry| entry.preempted);
        let staying: Vec<_> = self.active_by_uid().into_iter().filter(|(uid, _)| !preempted(uid)).collect();
        let others: Vec<&Pod> = staying.iter().map(|(_, pod)| pod.as_ref()).collect();
        let shortages = match admission::consider(pod, &others, &self.node) {
            Ok(()) => return Ok(Room::Comes),
            Err(Refusal::No(rejection)) => return Err(rejection),
            Err(Refusal::Short(shortages)) => shortages,
        };
        let go = preemption::victims(pod, &others, &shortages)
            .map_err(|message| Rejection { reason: "UnexpectedAdmissionError".to_owned(), message })?;
        let chosen = |pod: &Pod| go.iter().any(|victim| std::ptr::eq(*victim, pod));
        let go: Vec<PodUid> = staying.iter().filter(|(_, pod)| chosen(pod)).map(|(uid, _)| uid.clone()).collect();
        for uid in go {
            info!(%uid, "a pod makes room for a critical one");
            self.pods.get_mut(&uid).into_iter().for_each(|entry| entry.preempted = true);
            let message = preemption::MESSAGE.to_owned();
            let second = Duration::from_secs(1);
            self.ears.with(|ears| ears.get(&uid).map(|ear| ear.evict(preemption::REASON, message, second)));
        }
        Ok(Room::Comes)
    }

    /// In a cluster a refused pod is its controller's to replace; on a node of its own nobody else would.
    fn may_ask_again(&self) -> bool {
        !self.tools.config.dns.in_cluster && self.pods.values().any(|entry| entry.rejected && !entry.ending)
    }

    /// Refused pods that the node would take now go, and begin anew once they are gone: one at a time, because each
    /// uses what the others hope for.
    fn readmit(&mut self) {
        self.node.pressure.clone_from(&self.tools.pressure.borrow());
        let active = self.active();
        let waiting = self.pods.iter().filter(|(_, entry)| entry.rejected && !entry.ending);
        let fits = |entry: &Entry| admission::admit(&entry.want.pod, &active, &self.node).is_ok();
        let next = waiting.filter(|(_, entry)| fits(entry)).map(|(uid, _)| uid.clone()).next();
        if let Some(uid) = next {
            info!(%uid, "a pod that was refused fits now");
            self.end(&uid, Timestamp::now());
        }
    }

    /// Pods that use what this node has: all but those that were refused or have ended.
    fn active(&self) -> Vec<&Pod> {
        self.active_entries().map(|(_, entry)| entry.want.pod.as_ref()).collect()
    }

    fn active_by_uid(&self) -> Vec<(PodUid, Arc<Pod>)> {
        self.active_entries().map(|(uid, entry)| (uid.clone(), Arc::clone(&entry.want.pod))).collect()
    }

    fn active_entries(&self) -> impl Iterator<Item = (&PodUid, &Entry)> {
        let views = Arc::clone(&self.tools.views.listen().borrow());
        let ended = move |uid: &PodUid| {
            let phase = views.get(uid).and_then(|view| view.status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        self.pods.iter().filter(move |(uid, entry)| !entry.rejected && !ended(uid))
    }

    fn start(&mut self, uid: &PodUid, pod: Arc<Pod>, left: Option<Remembered>) {
        let want = Want { pod, within: Arc::clone(&self.desired), generation: self.generation };
        let name = object_name(&want.pod);
        let ending = left.as_ref().is_some_and(
            |left| matches!(&left.life, Life::Stopping { end, .. } | Life::Stopped { end, .. } if end.deleted),
        );
        let rejected = left.as_ref().is_some_and(|left| left.kept.rejected);
        let (worker, ear) = Worker::new(Arc::clone(&self.tools), uid.clone(), want.clone(), left);
        self.ears.with(|ears| ears.insert(uid.clone(), ear));
        let task = self.workers.spawn(worker.run(self.stop.clone())).id();
        self.pods.insert(uid.clone(), Entry { name, want, ending, rejected, preempted: false, task });
    }

    /// Ends a pod within its grace period and this time; one that is ending, sooner.
    fn hasten(&mut self, uid: &PodUid, within: Option<Duration>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.ending &= within.is_none();
        let now = Timestamp::now();
        let own = grace(&entry.want.pod, now);
        let asked = within.and_then(|within| now.saturating_add(signed(within)).ok());
        self.end(uid, asked.map_or(own, |asked| asked.min(own)));
    }

    fn end(&mut self, uid: &PodUid, by: Timestamp) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        if !entry.ending {
            entry.ending = true;
            self.ears.with(|ears| ears.get(uid).map(|ear| ear.wish(Wish::Stop { by })));
        }
    }

    fn asked(&mut self, ask: Ask) {
        let (pods, within, answer) = match ask {
            Ask::Start(names, answer) => {
                // Whoever asked may have gone: the pods start all the same.
                let _ = answer.send(self.held.release(&names));
                self.reconcile();
                return;
            }
            Ask::Evict(uid, message, grace) => {
                self.ears.with(|ears| ears.get(&uid).map(|ear| ear.evict(eviction::REASON, message, grace)));
                return;
            }
            Ask::Holds(uid, answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.pods.contains_key(&uid));
                return;
            }
            Ask::Stop(names, within, answer) => {
                let named = self.pods.iter().filter(|(_, entry)| names.contains(&entry.name));
                let pods: Vec<_> = named.map(|(uid, entry)| (uid.clone(), Arc::clone(&entry.want.pod))).collect();
                let uids = pods.iter().map(|(uid, _)| uid.clone()).collect::<BTreeSet<_>>();
                self.held.hold(pods, Timestamp::now());
                (uids, within, answer)
            }
            Ask::StopAll(answer) => {
                self.closed = true;
                (self.pods.keys().cloned().collect(), None, answer)
            }
        };
        for uid in &pods {
            self.hasten(uid, within);
        }
        self.waiting.push((pods, answer));
        self.answer();
    }

    fn ended(&mut self, ended: &Result<(Id, ()), JoinError>) {
        let task = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(uid) = self.pods.iter().find(|(_, entry)| entry.task == task).map(|(uid, _)| uid.clone()) else {
            return;
        };
        let entry = self.pods.remove(&uid);
        self.ears.with(|ears| ears.remove(&uid));
        if let (Err(error), Some(entry)) = (ended, entry) {
            // One pod's worker must not take down the node: it starts again with what is on disk.
            error!(%uid, %error, "a pod's worker broke off");
            self.revive(&uid, entry);
        }
        self.reconcile();
        self.answer();
    }

    fn revive(&mut self, uid: &PodUid, entry: Entry) {
        let left = self.tools.memory.load_all().unwrap_or_default();
        let left = left.into_iter().find(|(other, _)| other == uid).map(|(_, left)| left);
        self.start(uid, entry.want.pod, left);
        if entry.ending {
            if let Some(entry) = self.pods.get_mut(uid) {
                entry.ending = false;
            }
            self.end(uid, Timestamp::now());
        }
    }

    fn answer(&mut self) {
        let pods = &self.pods;
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(uids, _)| !uids.iter().any(|uid| pods.contains_key(uid)));
        self.waiting = waiting;
        let done: Vec<(BTreeSet<PodUid>, oneshot::Sender<()>)> = done;
        for (_, answer) in done {
            // Whoever asked may have gone: the pods are stopped all the same.
            let _ = answer.send(());
        }
    }
}

/// A pod at its end before its beginning (`pod-lifecycle.md`, section 5).
fn rejected(pod: &Arc<Pod>, rejection: Rejection) -> Remembered {
    let verdict = Verdict {
        succeeded: false,
        reason: Some(rejection.reason),
        message: Some(format!("Pod was rejected: {}", rejection.message)),
    };
    let kept = Kept { rejected: true, ..Kept::default() };
    let end = End { deleted: false, verdict: Some(verdict) };
    Remembered { kept, pod: Pod::clone(pod), life: Life::Stopped { end, left: Vec::new() }, ..Remembered::default() }
}

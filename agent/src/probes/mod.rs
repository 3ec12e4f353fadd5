//! Probes: they look at containers and report; what follows is decided by `pods`.
//!
//! `schedule` is the state of one probe, pure; `container` joins the three of a container, where the startup probe
//! holds back the others. One task here waits for whichever is due next, and makes a short-lived one per attempt:
//! `attempt`, with `http` and its neighbours, does the looking. No task exists for a probe that waits.

mod attempt;
mod container;
mod figures;
mod grpc;
mod hook;
mod http;
mod results;
mod schedule;
mod target;
mod url;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cri_proto::Runtime;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{About, EventType, Recorder};
use crate::names::{ObjectName, PodUid};
use attempt::{Attempt, Found};
use container::Probed;
use figures::PodFigures;

pub use container::SavedProbes;
pub use hook::{HookAnswer, HookFailed, http_get};
pub use http::Http;
pub use results::{ContainerResults, Outcome, ProbeKind, ProbeResults};
pub use schedule::SavedProbe;

/// A container that probes may look at.
#[derive(Clone, Debug)]
pub struct Running<'a> {
    /// The container's name.
    pub container: &'a str,
    /// The instance.
    pub id: &'a str,
    /// Since when it runs.
    pub since: Timestamp,
    /// It was started by a former run of the agent.
    pub restored: bool,
    /// Where it can be reached; without an address every attempt fails.
    pub pod_ip: Option<&'a str>,
}

/// All probes of this node. Clones share one state.
#[derive(Clone)]
pub struct Probes {
    shared: Arc<Shared>,
}

struct Shared {
    pods: Mutex<HashMap<PodUid, Tracked>>,
    /// Something may be due sooner than was thought.
    wake: Notify,
    runtime: Arc<dyn Runtime>,
    http: Http,
    recorder: Recorder,
}

struct Tracked {
    name: ObjectName,
    containers: Vec<Probed>,
    figures: PodFigures,
    /// When something is due next, as of the last change.
    next: Option<Instant>,
    results: watch::Sender<Arc<ProbeResults>>,
}

impl Tracked {
    fn get(&mut self, container: &str) -> Option<&mut Probed> {
        self.containers.iter_mut().find(|probed| probed.container.name == container)
    }

    /// Remembers what is next.
    fn plan(&mut self) {
        self.next = self.containers.iter().filter_map(|probed| Some(probed.due()?.0)).min();
    }

    /// After a change: tells what is different now, and remembers what is next. `counted` wakes whoever listens also
    /// where no result is different: counters are to be saved.
    fn publish(&mut self, counted: bool) {
        self.plan();
        let containers = self.containers.iter().map(|probed| (probed.container.name.clone(), probed.results()));
        let now = ProbeResults { containers: containers.collect() };
        self.results.send_if_modified(|before| {
            let changed = **before != now;
            if changed {
                *before = Arc::new(now);
            }
            changed || counted
        });
    }
}

/// One attempt that is to be made.
struct Job {
    uid: PodUid,
    kind: ProbeKind,
    attempt: Attempt,
}

/// How a job ended.
struct Done {
    job: Job,
    found: Found,
    took: Duration,
}

impl Probes {
    /// Probes whose commands run through `runtime`. Nothing is looked at before [`Self::run`].
    pub fn new(runtime: Arc<dyn Runtime>, http: Http, recorder: Recorder) -> Self {
        let shared = Shared { pods: Mutex::default(), wake: Notify::new(), runtime, http, recorder };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to keep a pod's probes; again, it is the same channel. `saved` is what a former run of the agent knew.
    pub fn track(
        &self,
        pod: &Arc<Pod>,
        uid: &PodUid,
        saved: Option<SavedProbes>,
    ) -> watch::Receiver<Arc<ProbeResults>> {
        let mut pods = self.pods();
        if let Some(tracked) = pods.get(uid) {
            return tracked.results.subscribe();
        }
        let mut containers = container::probed(pod);
        for (name, saved) in saved.unwrap_or_default().containers {
            if let Some(probed) = containers.iter_mut().find(|probed| probed.container.name == name) {
                probed.restore(saved);
            }
        }
        let meta = &pod.metadata;
        let name =
            ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let results = watch::Sender::new(Arc::default());
        let mut tracked = Tracked { name, containers, figures: PodFigures::default(), next: None, results };
        tracked.publish(false);
        let results = tracked.results.subscribe();
        pods.insert(uid.clone(), tracked);
        results
    }

    /// A container runs, and its postStart hook is through. Saying so again changes nothing.
    pub fn running(&self, uid: &PodUid, running: &Running<'_>) {
        let now = now();
        let age = Timestamp::now().duration_since(running.since);
        let age = Duration::try_from(age).unwrap_or(Duration::ZERO);
        let since = now.checked_sub(age).unwrap_or(now);
        let offset = |kind, period| spread(uid, running.container, kind, period);
        self.change(uid, |tracked| {
            if let Some(probed) = tracked.get(running.container) {
                probed.pod_ip = running.pod_ip.map(str::to_owned);
                probed.running(running.id, since, running.restored, now, offset);
            }
        });
    }

    /// A container does not run any more: until the next instance its results are failures.
    pub fn stopped(&self, uid: &PodUid, container: &str) {
        self.change(uid, |tracked| {
            if let Some(probed) = tracked.get(container) {
                probed.stopped();
            }
        });
    }

    /// A status was made: running containers that have not been ready are looked at again at once.
    pub fn readiness_wanted(&self, uid: &PodUid) {
        self.change(uid, |tracked| tracked.containers.iter_mut().for_each(|probed| probed.readiness_wanted(now())));
    }

    /// The pod ends: of its regular containers only readiness still counts, of its sidecars everything.
    pub fn terminating(&self, uid: &PodUid) {
        let regular = |probed: &&mut Probed| !probed.sidecar;
        self.change(uid, |tracked| tracked.containers.iter_mut().filter(regular).for_each(Probed::terminating));
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        self.pods().remove(uid);
    }

    /// What should survive the agent, if the pod has probes.
    pub fn save(&self, uid: &PodUid) -> Option<SavedProbes> {
        let pods = self.pods();
        let tracked = pods.get(uid).filter(|tracked| !tracked.containers.is_empty())?;
        let containers = tracked.containers.iter().map(|probed| (probed.container.name.clone(), probed.save()));
        Some(SavedProbes { containers: containers.collect() })
    }

    /// What they found so far, for Prometheus.
    pub(crate) fn exposition(&self) -> String {
        let pods = self.pods();
        let mut all: Vec<_> = pods.iter().map(|(uid, tracked)| (uid, &tracked.name, &tracked.figures)).collect();
        all.sort_unstable_by_key(|(uid, ..)| *uid);
        figures::text(all.into_iter())
    }

    fn change(&self, uid: &PodUid, change: impl FnOnce(&mut Tracked)) {
        if let Some(tracked) = self.pods().get_mut(uid) {
            change(tracked);
            tracked.publish(false);
        }
        self.shared.wake.notify_one();
    }

    fn pods(&self) -> MutexGuard<'_, HashMap<PodUid, Tracked>> {
        self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at containers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        // Dropped with everything in it: an attempt that is cut off says nothing.
        let mut attempts = JoinSet::new();
        loop {
            let (jobs, next) = self.take_due(now());
            for job in jobs {
                attempts.spawn(self.shared.clone().attempt(job));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shared.wake.notified() => {}
                () = at(next) => {}
                Some(done) = attempts.join_next() => {
                    // A prober that panics has said so already; its probe is never due again.
                    if let Ok(done) = done {
                        self.settle(done);
                    }
                }
            }
        }
    }

    /// Begins what is due, and says when something is next.
    fn take_due(&self, now: Instant) -> (Vec<Job>, Option<Instant>) {
        let mut jobs = Vec::new();
        let mut pods = self.pods();
        for (uid, tracked) in pods.iter_mut().filter(|(_, tracked)| tracked.next.is_some_and(|next| next <= now)) {
            for probed in &mut tracked.containers {
                while let Some((_, kind)) = probed.due().filter(|(due, _)| *due <= now) {
                    jobs.extend(begin(uid, probed, kind, now));
                }
            }
            tracked.plan();
        }
        (jobs, pods.values().filter_map(|tracked| tracked.next).min())
    }

    fn settle(&self, done: Done) {
        let Done { job: Job { uid, kind, attempt }, found, took } = done;
        let mut pods = self.pods();
        let Some(tracked) = pods.get_mut(&uid) else { return };
        tracked.figures.add(&attempt.container.name, kind, &found, took);
        let Some(probed) = tracked.get(&attempt.container.name) else { return };
        let still_runs = probed.id() == attempt.id;
        let sidecar = probed.sidecar;
        // Most attempts find what the one before found: then there is nothing to tell.
        match probed.finished(kind, &attempt.id, found.outcome(), now()) {
            true => tracked.publish(true),
            false => tracked.plan(),
        }
        if still_runs {
            self.shared.tell(&uid, &tracked.name, &attempt.container.name, sidecar, kind, &found);
        }
    }
}

fn begin(uid: &PodUid, probed: &mut Probed, kind: ProbeKind, now: Instant) -> Option<Job> {
    let (probe, id) = probed.begin(kind, now)?;
    let attempt = Attempt { probe, container: probed.container.clone(), id, pod_ip: probed.pod_ip.clone() };
    Some(Job { uid: uid.clone(), kind, attempt })
}

impl Shared {
    async fn attempt(self: Arc<Self>, job: Job) -> Done {
        let began = Instant::now();
        let found = job.attempt.run(self.runtime.as_ref(), &self.http).await;
        Done { job, found, took: began.elapsed() }
    }

    fn tell(&self, uid: &PodUid, pod: &ObjectName, container: &str, sidecar: bool, kind: ProbeKind, found: &Found) {
        let word = kind.word();
        let (reason, message) = match found {
            Found::Success => return,
            Found::Warning(output) => ("ProbeWarning", format!("{word} probe warning: {output}")),
            Found::Failure(output) => ("Unhealthy", format!("{word} probe failed: {output}")),
            Found::Error(error) => {
                ("Unhealthy", format!("{word} probe errored and resulted in unknown state: {error}"))
            }
            Found::Broken(error) => {
                ("Unhealthy", format!("{word} probe errored and resulted in failure state: {error}"))
            }
        };
        let list = if sidecar { "initContainers" } else { "containers" };
        let field = Some(format!("spec.{list}{{{container}}}"));
        let about = About::Pod { name: pod.clone(), uid: uid.clone(), field };
        self.recorder.record(about, EventType::Warning, reason, message, Timestamp::now());
    }
}

/// Where in its period a probe of a restored container begins: an agent that comes up with a hundred pods must not
/// look at all of them at once.
fn spread(uid: &PodUid, container: &str, kind: ProbeKind, period: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (uid, container, kind).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 1_000).unwrap_or(0);
    period * thousandths / 1_000
}

fn now() -> Instant {
    // Tokio's clock, which tests can hold still.
    tokio::time::Instant::now().into_std()
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

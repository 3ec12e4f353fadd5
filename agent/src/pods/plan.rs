//! Wanted + seen + now -> steps. Pure; nothing here waits or asks.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Backoff, Limits, signed};
use super::container_status::flips;
use super::life::{Event, Life, Verdict};
use super::roles::{self, Member, Role};
use super::step::{Job, Progress, Step};
use super::{containers, outcome, phase, resizing, restart_all, sandbox, stop};
use crate::observe::Observed;
use crate::probes::ProbeResults;
use crate::resources::resize::{self, Amounts, Pending};

/// Everything that a decision depends on, besides the time.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The pod as it should be.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub seen: &'a Observed,
    /// What the probes say.
    pub probes: &'a ProbeResults,
    /// Where in its life the pod is.
    pub life: &'a Life,
    /// What is remembered across restarts of the agent.
    pub kept: &'a Kept,
    /// What is under way, there, or in trouble.
    pub progress: &'a Progress,
    /// Delays between restarts.
    pub crash: Limits,
}

/// What is remembered across restarts of the agent, as far as decisions depend on it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Kept {
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// Restart delays by container name.
    pub crash: BTreeMap<String, Backoff>,
    /// Pull delays by container name.
    pub pulls: BTreeMap<String, Backoff>,
    /// Ids of containers that were killed to be started again, whatever their exit code.
    pub again: Vec<String>,
    /// The node did not take the pod: nothing of it ever was.
    pub rejected: bool,
    /// The newest instance that was ever seen, by container name: counts go on behind it.
    pub attempts: BTreeMap<String, u32>,
    /// The container whose end restarts all others, until nothing of them is left.
    pub restart_all: Option<String>,
    /// What was granted of what the manifest wants.
    pub allocated: Option<Amounts>,
    /// What the cgroups have; nothing before there is one.
    pub actuated: Option<Amounts>,
    /// What the manifest wants and could not be granted.
    pub pending: Option<Pending>,
}

/// What to do now, what is waited for, and when to look again at the latest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Steps that can begin at once, all of them.
    pub steps: Vec<Step>,
    /// When time alone changes the plan.
    pub wake: Option<Timestamp>,
    /// Containers that wait for their restart delay: until when, and how long the delay is.
    pub crash_loops: BTreeMap<String, CrashLoop>,
    /// A restart of all containers that begins or is over.
    pub restart_all: Option<RestartAll>,
}

/// A turn in a restart of all containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartAll {
    /// This container's end demands it.
    Begins(String),
    /// Nothing of the containers is left.
    Over,
}

/// A container that waits for its restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashLoop {
    /// It is started then.
    pub until: Timestamp,
    /// The whole delay.
    pub delay: Duration,
    /// The instance that died.
    pub dead: String,
}

impl Plan {
    /// Adds a step unless its job is under way.
    pub(super) fn step(&mut self, progress: &Progress, step: Step) {
        let job = step.job();
        if !progress.is_doing(&job) && !self.steps.iter().any(|planned| planned.job() == job) {
            self.steps.push(step);
        }
    }

    /// Looks again at `at` or sooner.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// A trouble holds a thing up until its retry; true once it may be tried again.
    pub(super) fn may_try(&mut self, trouble: Option<&super::step::Trouble>, now: Timestamp) -> bool {
        match trouble {
            // What happened in the future happened before the clock was set back: it is tried at once.
            Some(trouble) if trouble.retry > now && trouble.since <= now => {
                let shown_differently = Some(flips(trouble)).filter(|at| trouble.pull_of.is_some() && *at > now);
                self.wake(shown_differently.map_or(trouble.retry, |at| at.min(trouble.retry)));
                false
            }
            _ => true,
        }
    }
}

/// What happened to the pod by itself, if anything did: to be told to [`super::life::next`] before planning.
pub fn judge(inputs: &Inputs<'_>, now: Timestamp) -> Option<Event> {
    match inputs.life {
        Life::Running => ended(inputs, now).map(|verdict| Event::Ended { verdict, by: grace(inputs.pod, now) }),
        Life::Stopping { .. } => {
            let quiet = !inputs.seen.anything_runs() && !inputs.progress.is_making();
            quiet.then_some(Event::NothingRuns)
        }
        Life::Stopped { .. } => None,
    }
}

fn ended(inputs: &Inputs<'_>, now: Timestamp) -> Option<Verdict> {
    if deadline(inputs).is_some_and(|at| at <= now) {
        return Some(Verdict {
            succeeded: false,
            reason: Some("DeadlineExceeded".to_owned()),
            message: Some("Pod was active on the node longer than the specified deadline".to_owned()),
        });
    }
    let busy = inputs.progress.doing.keys().any(|job| matches!(job, Job::Start(_)));
    let restarting = inputs.kept.restart_all.is_some();
    if busy || (restarting && sandbox::need(inputs, &roles::members(inputs.pod)) != sandbox::Need::Nothing) {
        return None;
    }
    phase::verdict(inputs)
}

/// A pod that may not go on ends within this time.
pub(super) fn evicted(reason: &str, message: String, now: Timestamp, grace: Duration) -> Event {
    let verdict = Verdict { succeeded: false, reason: Some(reason.to_owned()), message: Some(message) };
    let by = now.saturating_add(signed(grace)).unwrap_or(Timestamp::MAX);
    Event::Ended { verdict, by }
}

/// When `activeDeadlineSeconds` are over.
fn deadline(inputs: &Inputs<'_>) -> Option<Timestamp> {
    let seconds = inputs.pod.spec.as_ref()?.active_deadline_seconds?;
    let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    inputs.kept.started?.saturating_add(signed(limit)).ok()
}

/// When a stop that begins now has to be over.
pub fn grace(pod: &Pod, now: Timestamp) -> Timestamp {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let deleted = pod.metadata.deletion_grace_period_seconds;
    let seconds = u64::try_from(deleted.unwrap_or(seconds)).unwrap_or(0).max(1);
    now.saturating_add(signed(Duration::from_secs(seconds))).unwrap_or(Timestamp::MAX)
}

/// Which instances there were: whoever forgets or removes them, counts go on behind them.
pub fn note(kept: &mut Kept, seen: &Observed) {
    for container in &seen.containers {
        match kept.attempts.get_mut(&container.name) {
            Some(newest) => *newest = container.attempt.max(*newest),
            None => drop(kept.attempts.insert(container.name.clone(), container.attempt)),
        }
    }
}

/// What the steps of a plan change in memory: on disk before they begin.
pub fn book(kept: &mut Kept, pod: &Pod, plan: &Plan, now: Timestamp, crash: Limits) {
    for step in &plan.steps {
        match step {
            Step::Start(start) => {
                if let Some(failed) = start.after {
                    let key = outcome::crash_key(pod, &start.container);
                    let raised = backoff::raise(kept.crash.get(&start.container), &key, failed, now, crash);
                    kept.crash.insert(start.container.clone(), raised);
                }
            }
            Step::Kill(kill) if kill.again && !kept.again.contains(&kill.id) => kept.again.push(kill.id.clone()),
            Step::Sandbox { .. } => kept.actuated = Some(resize::amounts(pod)),
            _ => {}
        }
        if let (Step::Start(start), Some(actuated)) = (step, &mut kept.actuated) {
            resize::adopt(actuated, pod, &start.container);
        }
    }
    match &plan.restart_all {
        Some(RestartAll::Begins(container)) => kept.restart_all = Some(container.clone()),
        Some(RestartAll::Over) => kept.restart_all = None,
        None => {}
    }
}

/// What to do now.
pub fn plan(inputs: &Inputs<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    match inputs.life {
        Life::Running => running(&mut plan, inputs, now),
        Life::Stopping { deadline, .. } => stop::stopping(&mut plan, inputs, *deadline, now),
        Life::Stopped { left, .. } => {
            if let Some(undo) = left.first()
                && plan.may_try(inputs.progress.undo_trouble.as_ref(), now)
            {
                plan.step(inputs.progress, Step::Undo(*undo));
            }
        }
    }
    plan
}

/// A pod that somebody still holds back: in a cluster the scheduler waits for it, on its own we do.
pub(super) fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref()).is_some_and(|gates| !gates.is_empty())
}

fn running(plan: &mut Plan, inputs: &Inputs<'_>, now: Timestamp) {
    if is_gated(inputs.pod) {
        return;
    }
    if let Some(at) = deadline(inputs) {
        plan.wake(at);
    }
    let members = roles::members(inputs.pod);
    set_up(plan, inputs, &members, now);
    let joined = match sandbox::need(inputs, &members) {
        sandbox::Need::Good(id) => Some(id),
        sandbox::Need::Replace(attempt) => {
            sandbox::replace(plan, inputs, attempt, now);
            None
        }
        sandbox::Need::Nothing => {
            stop::everything(plan, inputs, now);
            return;
        }
    };
    if restart_all::goes_on(plan, inputs, &members, now) {
        return;
    }
    let resizing = joined.as_deref().is_some_and(|sandbox| resizing::keep(plan, inputs, &members, sandbox, now));
    containers::keep(plan, inputs, &members, joined.as_deref(), resizing, now);
    remains(plan, inputs, now);
}

fn set_up(plan: &mut Plan, inputs: &Inputs<'_>, members: &[Member<'_>], now: Timestamp) {
    let progress = inputs.progress;
    if !plan.may_try(progress.volume_trouble.as_ref(), now) {
        return;
    }
    if !members.iter().all(|member| containers::has_volumes(progress, member)) {
        plan.step(progress, Step::SetUp);
    } else if progress.stale {
        plan.step(progress, Step::Refresh);
    }
}

/// Of each container one dead instance is kept, with its log; of sandboxes the newest.
fn remains(plan: &mut Plan, inputs: &Inputs<'_>, now: Timestamp) {
    if !plan.may_try(inputs.progress.undo_trouble.as_ref(), now) {
        return;
    }
    let seen = inputs.seen;
    let mut dead: BTreeMap<&str, u32> = BTreeMap::new();
    for container in seen.containers.iter().filter(|container| !container.state.may_run()) {
        let count = dead.entry(&container.name).or_default();
        *count += 1;
        if *count > 1 && !inputs.progress.is_doing(&Job::Start(container.name.clone())) {
            plan.step(inputs.progress, Step::Remove(container.into()));
        }
    }
    for sandbox in seen.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
        if !seen.containers.iter().any(|container| container.sandbox == sandbox.id) {
            plan.step(inputs.progress, Step::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

/// A container of the pod that runs, with its part.
pub(super) fn is_regular(member: &Member<'_>) -> bool {
    member.role == Role::Regular
}

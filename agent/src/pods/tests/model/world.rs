//! The world around a pod: a runtime, a disk and probes that behave, and a worker that may die at any moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Op, Probe};
use crate::container::ImageFacts;
use crate::container::labels::definition_hash;
use crate::observe::{Container, Observed, Sandbox, State};
use crate::pods::backoff::{self, Limits};
use crate::pods::life::{self, Event, Life, Undo, Verdict};
use crate::pods::plan::{self, Inputs, Kept, Plan, RestartAll};
use crate::pods::roles::{self, Member, Role};
use crate::pods::status::{StatusInputs, status};
use crate::pods::step::{Job, Progress, Start, Step, Trouble};
use crate::probes::{ContainerResults, Outcome, ProbeResults};
use crate::resources::resize;

pub(super) const CRASH: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

/// What was promised and not kept.
pub(super) type Broken = String;

macro_rules! promise {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) now: Timestamp,
    pub(super) seen: Observed,
    probes: ProbeResults,
    pub(super) life: Life,
    pub(super) kept: Kept,
    pub(super) progress: Progress,
    jobs: Vec<Step>,
    next: u32,
    pub(super) gone: bool,
    /// What another start of the agent would find.
    disk: (Life, Kept),
    /// The disk takes nothing.
    full: bool,
    /// The newest instance there ever was of each container, as its logs show it.
    newest: BTreeMap<String, u32>,
    /// The former status, where this world computes statuses.
    pub(super) status: Option<PodStatus>,
    tells: bool,
    before: Before,
}

/// What may not be taken back.
#[derive(Default)]
struct Before {
    ending: bool,
    verdict: Option<Verdict>,
    deadline: Option<Timestamp>,
    phase: Option<String>,
}

impl World {
    /// `tells`: statuses are computed and checked as well, which is most of the work.
    pub(super) fn new(pod: Pod, tells: bool) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let kept = Kept { started: Some(now), ..Kept::default() };
        Self {
            pod,
            now,
            seen: Observed::default(),
            probes: ProbeResults::default(),
            life: Life::Running,
            disk: (Life::Running, kept.clone()),
            kept,
            progress: Progress::default(),
            jobs: Vec::new(),
            next: 0,
            gone: false,
            full: false,
            newest: BTreeMap::new(),
            status: None,
            tells,
            before: Before::default(),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            pod: &self.pod,
            seen: &self.seen,
            probes: &self.probes,
            life: &self.life,
            kept: &self.kept,
            progress: &self.progress,
            crash: CRASH,
        }
    }

    /// One turn of the worker.
    pub(super) fn turn(&mut self) -> Result<Plan, Broken> {
        plan::note(&mut self.kept, &self.seen);
        while let Some(event) = plan::judge(&self.inputs(), self.now) {
            self.live(&event)?;
        }
        let plan = plan::plan(&self.inputs(), self.now);
        self.check(&plan)?;
        plan::book(&mut self.kept, &self.pod, &plan, self.now, CRASH);
        if self.tells {
            self.tell(&plan)?;
        }
        if !self.full {
            self.disk = (self.life.clone(), self.kept.clone());
        }
        let full = self.full;
        for step in plan.steps.iter().filter(|step| !full || step.takes_away()) {
            self.begin(step.clone());
        }
        self.gone |= self.life.is_gone();
        Ok(plan)
    }

    fn live(&mut self, event: &Event) -> Result<(), Broken> {
        self.life = life::next(std::mem::take(&mut self.life), event);
        let before = &mut self.before;
        promise!(!before.ending || self.life.is_ending(), "a stopped pod came back: {event:?}");
        before.ending = self.life.is_ending();
        let verdict = self.life.end().and_then(|end| end.verdict.as_ref());
        promise!(before.verdict.is_none() || before.verdict.as_ref() == verdict, "a verdict was lost: {event:?}");
        before.verdict = verdict.cloned();
        let deadline = if let Life::Stopping { deadline, .. } = &self.life { Some(*deadline) } else { None };
        let later = before.deadline.zip(deadline).is_some_and(|(before, now)| now > before);
        promise!(!later, "a stop was put off: {event:?}");
        before.deadline = deadline;
        Ok(())
    }

    fn tell(&mut self, plan: &Plan) -> Result<(), Broken> {
        let inputs = Inputs { probes: &self.probes, ..self.inputs() };
        let told = status(
            &StatusInputs {
                inputs,
                plan,
                before: self.status.as_ref(),
                messages: &BTreeMap::new(),
                node_ips: &[],
                runtime: "model",
            },
            self.now,
        );
        let phase = told.phase.clone().unwrap_or_default();
        if let Some(before) = self.before.phase.as_ref().filter(|phase| *phase == "Succeeded" || *phase == "Failed") {
            promise!(*before == phase, "a pod that was {before} is {phase}");
            lost_end(self.status.as_ref(), &told)?;
        }
        let over = phase == "Succeeded" || phase == "Failed";
        promise!(!over || !self.seen.anything_runs(), "{phase} while something runs");
        // As the worker has it: an end that is not on disk is told to nobody.
        if !(over && self.full) {
            self.before.phase = Some(phase);
            self.status = Some(told);
        }
        Ok(())
    }

    fn begin(&mut self, step: Step) {
        let deadline = if let Step::Kill(kill) = &step { Some(kill.deadline) } else { None };
        if let Step::Start(start) = &step {
            self.progress.images.remove(&start.container);
        }
        let job = step.job();
        self.jobs.retain(|other| other.job() != job);
        self.progress.doing.insert(job, deadline);
        self.jobs.push(step);
    }

    /// What must hold of every plan.
    fn check(&self, plan: &Plan) -> Result<(), Broken> {
        let mut jobs: Vec<_> = plan.steps.iter().map(Step::job).collect();
        jobs.sort();
        jobs.dedup();
        promise!(jobs.len() == plan.steps.len(), "two steps do the same: {:?}", plan.steps);
        promise!(!self.gone || plan.steps.is_empty(), "a pod that is gone does {:?}", plan.steps);
        for step in &plan.steps {
            self.check_step(step)?;
            let taken = self.kept.restart_all.is_some() && plan.restart_all != Some(RestartAll::Over);
            promise!(!taken || !matches!(step, Step::Start(_)), "{step:?} while all are taken away");
        }
        Ok(())
    }

    fn check_step(&self, step: &Step) -> Result<(), Broken> {
        match step {
            Step::Start(start) => self.check_start(start)?,
            Step::Sandbox { .. } => {
                promise!(self.life == Life::Running, "an ending pod gets a sandbox");
                let alive = self.seen.anything_runs() || self.seen.sandboxes.iter().any(|sandbox| sandbox.ready);
                promise!(!alive, "a second sandbox");
            }
            Step::Remove(remains) => {
                let alive = self.seen.by_id(&remains.id).is_none_or(|container| container.state.may_run());
                promise!(!alive, "a running container is removed");
            }
            Step::Undo(_) => promise!(!self.seen.anything_runs(), "things are taken from under a running container"),
            _ => {}
        }
        Ok(())
    }

    fn check_start(&self, start: &Start) -> Result<(), Broken> {
        let name = &start.container;
        promise!(self.life == Life::Running, "an ending pod starts {name}");
        let newest = self.seen.newest(name);
        promise!(newest.is_none_or(|newest| !newest.state.may_run()), "a second instance of {name}");
        promise!(!self.progress.is_doing(&Job::Start(name.clone())), "two starts of {name}");
        promise!(self.progress.volumes.is_some(), "{name} is started without its volumes");
        let sandbox = self.seen.sandbox().filter(|sandbox| sandbox.ready && sandbox.id == start.sandbox);
        promise!(sandbox.is_some(), "{name} is started in a dead sandbox");
        let Some(member) = roles::member(&self.pod, name) else { return Err(format!("{name} is nobody's")) };
        if member.role == Role::Regular && !self.is_begun() {
            self.check_initialised(name)?;
        }
        if member.role == Role::Init {
            self.check_init_order(name)?;
        }
        if member.role == Role::Ephemeral {
            promise!(newest.is_none_or(|newest| newest.state == State::Created), "{name} is started twice");
        }
        if let Some((id, State::Exited { finished, .. })) = newest.map(|newest| (&newest.id, &newest.state)) {
            let key = crate::pods::containers::crash_key(&member);
            let waits = backoff::not_before(self.kept.crash.get(name), &key, *finished, self.now, CRASH).is_some();
            promise!(!waits || self.kept.again.contains(id), "{name} does not wait");
        }
        Ok(())
    }

    fn is_begun(&self) -> bool {
        roles::members(&self.pod).iter().any(|other| {
            let state = self.seen.newest(&other.container.name).map(|c| &c.state);
            other.role == Role::Regular && matches!(state, Some(State::Running { .. } | State::Created))
        })
    }

    fn check_initialised(&self, name: &str) -> Result<(), Broken> {
        let members = roles::members(&self.pod);
        for (at, member) in members.iter().enumerate() {
            let state = self.seen.newest(&member.container.name).map(|c| &c.state);
            // One that the runtime forgot was done when a later one was begun.
            let later = |other: &Member<'_>| other.role.is_init() && self.seen.newest(&other.container.name).is_some();
            let done = match member.role {
                Role::Init => match state {
                    Some(State::Exited { code: 0, .. }) => true,
                    None => members[at + 1..].iter().any(later),
                    _ => false,
                },
                Role::Sidecar => state.is_some(),
                _ => true,
            };
            promise!(done, "{name} is started before {}, which is {state:?}", member.container.name);
        }
        Ok(())
    }

    /// Of the plain init containers only one is under way, and those before it were begun.
    fn check_init_order(&self, name: &str) -> Result<(), Broken> {
        let members = roles::members(&self.pod);
        for other in members.iter().filter(|other| other.role == Role::Init && other.container.name != name) {
            let busy = self.seen.newest(&other.container.name).is_some_and(|other| other.state.may_run())
                || self.progress.is_doing(&Job::Start(other.container.name.clone()));
            promise!(!busy, "{name} is started beside {}", other.container.name);
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, op: &Op) -> Result<(), Broken> {
        match op {
            Op::Finish(nth, well) => return self.finish(*nth, *well),
            Op::Exit(nth, code) => {
                if let Some(id) = self.running(*nth) {
                    self.end(&id, *code);
                }
            }
            Op::Time(seconds) => self.now = self.now.saturating_add(SignedDuration::from_secs(*seconds)).unwrap(),
            Op::Kill => return self.kill_agent(),
            Op::LoseSandbox => {
                if let Some(sandbox) = self.seen.sandboxes.first_mut() {
                    sandbox.ready = false;
                }
                while let Some(id) = self.running(0) {
                    self.end(&id, 137);
                }
            }
            Op::Forget(nth) => {
                let nth = nth % self.seen.containers.len().max(1);
                // What was never written down cannot be remembered either.
                let dead = self.seen.containers.get(nth).filter(|dead| !dead.state.may_run() && !self.full);
                if let Some(id) = dead.map(|container| container.id.clone()) {
                    self.seen.containers.retain(|container| container.id != id);
                }
            }
            Op::Probe(nth, kind) => self.probe(*nth, *kind),
            Op::Stop(seconds) => {
                let by = self.now.saturating_add(SignedDuration::from_secs(*seconds)).unwrap();
                return self.live(&Event::Stop { by });
            }
            Op::Edit => {
                let tag = self.next;
                let spec = self.pod.spec.as_mut().unwrap();
                spec.containers[0].image = Some(format!("x:{tag}"));
                self.progress.images.remove("a");
            }
            Op::Resize(nth, cpu) => {
                let spec = self.pod.spec.as_mut().unwrap();
                let nth = nth % spec.containers.len();
                let limits = [("cpu".to_owned(), Quantity(format!("{cpu}m")))].into();
                spec.containers[nth].resources.get_or_insert_default().limits = Some(limits);
            }
            Op::Look => {
                let spec = self.pod.spec.as_mut().unwrap();
                let list = spec.ephemeral_containers.get_or_insert_default();
                let target_container_name = list.len().is_multiple_of(2).then(|| "a".to_owned());
                let (name, image) = (format!("e{}", list.len()), Some("x".to_owned()));
                list.push(EphemeralContainer { name, image, target_container_name, ..EphemeralContainer::default() });
            }
            Op::Full(full) => self.full = *full,
        }
        Ok(())
    }

    /// The agent dies and starts again: half of what it asked the runtime for still happens.
    fn kill_agent(&mut self) -> Result<(), Broken> {
        if self.gone {
            // The next one finds nothing.
            return Ok(());
        }
        let (life, kept) = (self.life.clone(), self.kept.clone());
        for _ in 0..self.jobs.len() / 2 {
            self.finish(0, true)?;
        }
        (self.life, self.kept) = (life, kept);
        self.jobs.clear();
        self.progress = Progress::default();
        self.probes = ProbeResults::default();
        // What was decided since the last write was told to nobody.
        let (life, kept) = self.disk.clone();
        if self.next.is_multiple_of(16) {
            // Through the very bytes, now and then.
            self.kept = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
            self.life = serde_json::from_slice(&serde_json::to_vec(&life).unwrap()).unwrap();
        } else {
            (self.life, self.kept) = (life, kept);
        }
        let end = self.life.end();
        // A stop that was not written yet comes again: its wish is the sources'.
        self.before.ending = end.is_some();
        self.before.verdict = end.and_then(|end| end.verdict.clone());
        self.before.deadline = None;
        Ok(())
    }

    fn probe(&mut self, nth: usize, kind: Probe) {
        let Some(id) = self.running(nth) else { return };
        let name = self.seen.by_id(&id).unwrap().name.clone();
        let results = self.probes.containers.entry(name).or_default();
        if results.container_id != id {
            *results = ContainerResults { container_id: id, ..ContainerResults::default() };
        }
        match kind {
            Probe::Started => results.startup = Some(Outcome::Success),
            Probe::NotStarted => results.startup = Some(Outcome::Failure),
            Probe::Dead => results.liveness = Some(Outcome::Failure),
            Probe::Ready(ready) => {
                results.readiness = Some(if ready { Outcome::Success } else { Outcome::Failure });
            }
        }
    }

    /// Every startup probe succeeds, every readiness probe too.
    pub(super) fn all_started(&mut self) {
        for nth in 0..self.seen.containers.len() {
            self.probe(nth, Probe::Started);
            self.probe(nth, Probe::Ready(true));
        }
    }

    fn running(&self, nth: usize) -> Option<String> {
        let running: Vec<_> = self.seen.containers.iter().filter(|c| c.state.is_running()).collect();
        running.get(nth % running.len().max(1)).map(|container| container.id.clone())
    }

    pub(super) fn end(&mut self, id: &str, code: i32) {
        let finished = self.now;
        let container = self.seen.containers.iter_mut().find(|container| container.id == id);
        if let Some(Container { state, .. }) = container
            && let State::Running { started } = *state
        {
            let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
            *state = State::Exited { started: Some(started), finished, code, reason, message: String::new() };
        }
    }

    fn finish(&mut self, nth: usize, well: bool) -> Result<(), Broken> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let step = self.jobs.remove(nth % self.jobs.len());
        self.progress.doing.remove(&step.job());
        match well {
            true => self.done(step)?,
            false => self.failed(step)?,
        }
        self.seen = std::mem::take(&mut self.seen).sorted();
        Ok(())
    }

    fn failed(&mut self, step: Step) -> Result<(), Broken> {
        let retry = self.now.saturating_add(SignedDuration::from_secs(10)).unwrap();
        let trouble =
            Trouble { reason: "R".into(), message: "m".into(), since: self.now, retry, pull_of: None, has_run: false };
        match step {
            Step::SetUp | Step::Refresh => self.progress.volume_trouble = Some(trouble),
            Step::Sandbox { .. } | Step::StopSandbox { .. } => self.progress.sandbox_trouble = Some(trouble),
            Step::Image { container, .. } => {
                self.progress.container_trouble.insert(container, trouble);
            }
            Step::Resize(_) => self.progress.resize_trouble = Some(trouble),
            Step::Start(start) => {
                // It may have been made and not started.
                self.create(&start, State::Created)?;
                self.progress.container_trouble.insert(start.container, trouble);
            }
            Step::Kill(kill) => {
                self.progress.killed.insert(kill.id, self.now);
                self.progress.undo_trouble = Some(trouble);
            }
            _ => self.progress.undo_trouble = Some(trouble),
        }
        Ok(())
    }

    fn done(&mut self, step: Step) -> Result<(), Broken> {
        match step {
            Step::SetUp => self.progress.volumes = Some(Arc::default()),
            Step::Refresh => self.progress.stale = false,
            Step::Image { container, .. } => {
                self.progress.images.insert(container, ImageFacts::default());
            }
            Step::Sandbox { attempt } => self.sandbox(attempt),
            Step::StopSandbox { id } => self.stop_sandbox(&id),
            Step::Start(start) => return self.create(&start, State::Running { started: self.now }),
            Step::PreStop { id, .. } => self.progress.hooks_done.push(id),
            Step::Kill(kill) => self.end(&kill.id, 143),
            Step::Remove(remains) => self.seen.containers.retain(|container| container.id != remains.id),
            Step::RemoveSandbox { id } => self.seen.sandboxes.retain(|sandbox| sandbox.id != id),
            Step::Resize(_) => {
                self.kept.actuated = Some(resize::amounts(&self.pod));
            }
            Step::Undo(undo) => {
                match undo {
                    Undo::Sandboxes => self.seen.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false),
                    Undo::Remains => self.seen = Observed::default(),
                    _ => {}
                }
                return self.live(&Event::Undone(undo));
            }
        }
        Ok(())
    }

    fn sandbox(&mut self, attempt: u32) {
        self.next += 1;
        let sandbox = Sandbox {
            id: format!("sb-{}", self.next),
            pod: crate::names::ObjectName::new("shop", "web"),
            attempt,
            created: self.now,
            ready: true,
            ips: vec!["10.88.0.2".into()],
            host_network: false,
        };
        self.seen.sandboxes.push(sandbox);
    }

    fn stop_sandbox(&mut self, id: &str) {
        for sandbox in self.seen.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
            sandbox.ready = false;
        }
        let inside: Vec<_> = self.seen.containers.iter().filter(|c| c.sandbox == id).map(|c| c.id.clone()).collect();
        inside.iter().for_each(|id| self.end(id, 137));
    }

    fn create(&mut self, start: &Start, state: State) -> Result<(), Broken> {
        let name = &start.container;
        if let Some(old) = &start.replaces {
            self.seen.containers.retain(|container| container.id != *old);
        }
        // A runtime starts nothing in a sandbox that is no more.
        if !self.seen.sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.id == start.sandbox) {
            return Ok(());
        }
        let running = |c: &Container| c.name == *name && c.state.is_running();
        promise!(!self.seen.containers.iter().any(running), "two instances of {name} run");
        let Some(member) = roles::member(&self.pod, name) else { return Ok(()) };
        let attempt = start.restarts.unwrap_or_else(|| self.newest.get(name).map_or(0, |newest| newest + 1));
        let newer = self.newest.get(name).is_none_or(|newest| attempt > *newest || start.replaces.is_some());
        promise!(newer, "the count of {name} went back to {attempt}");
        self.newest.insert(name.clone(), attempt);
        self.next += 1;
        self.seen.containers.push(Container {
            id: format!("{name}-{}", self.next),
            name: name.clone(),
            attempt,
            sandbox: start.sandbox.clone(),
            state,
            created: self.now,
            hash: Some(definition_hash(&member.container)),
            image: String::new(),
            image_ref: String::new(),
            message_file: None,
            user: None,
        });
        Ok(())
    }

    /// Everything goes well from now on: the pod must get where it should be.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        self.full = false;
        for _ in 0..200 {
            let plan = self.turn()?;
            if self.jobs.is_empty() {
                match plan.wake {
                    Some(wake) => self.now = self.now.max(wake),
                    None => return Ok(()),
                }
            }
            while !self.jobs.is_empty() {
                self.finish(0, true)?;
            }
        }
        Ok(())
    }
}

/// The end of a container of a pod that has ended is told as long as the pod is.
fn lost_end(before: Option<&PodStatus>, now: &PodStatus) -> Result<(), Broken> {
    let codes = |status: &PodStatus| -> Vec<(String, i32)> {
        let ends = status.container_statuses.iter().flatten().filter_map(|container| {
            let end = container.state.as_ref()?.terminated.as_ref()?;
            Some((container.name.clone(), end.exit_code))
        });
        ends.collect()
    };
    let (before, now) = (before.map(codes).unwrap_or_default(), codes(now));
    promise!(before.iter().all(|end| now.contains(end)), "ends were lost: {before:?}, {now:?}");
    Ok(())
}

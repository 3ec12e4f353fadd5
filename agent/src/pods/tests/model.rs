//! A world in which steps come out in any order, containers end, sandboxes die and the agent is killed at any moment:
//! whatever happens, a pod's promises hold.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use crate::container::ImageFacts;
use crate::container::labels::definition_hash;
use crate::observe::{Container, Observed, Sandbox, State};
use crate::pods::backoff::{self, Limits};
use crate::pods::life::{self, Event, Life, Undo};
use crate::pods::plan::{self, Inputs, Kept, Plan};
use crate::pods::roles::{self, Role};
use crate::pods::step::{Job, Progress, Start, Step, Trouble};
use crate::probes::{ContainerResults, Outcome, ProbeResults};

const CRASH: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

#[derive(Clone, Debug)]
enum Op {
    /// The nth job under way comes out, well or badly.
    Finish(usize, bool),
    /// The nth running container ends.
    Exit(usize, i32),
    /// So many seconds go by; the clock may also be set back.
    Time(i64),
    /// The agent is killed and starts again.
    Kill,
    /// The newest sandbox dies with everything in it.
    LoseSandbox,
    /// The nth running container fails its liveness probe.
    Unhealthy(usize),
    /// Nobody wants the pod any more.
    Stop,
    /// The manifest has another image.
    Edit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0usize..6, prop::bool::weighted(0.85)).prop_map(|(n, well)| Op::Finish(n, well)),
        4 => (0usize..3, prop::sample::select(vec![0, 1, 137])).prop_map(|(n, code)| Op::Exit(n, code)),
        3 => (-5i64..60).prop_map(Op::Time),
        1 => Just(Op::Kill),
        1 => Just(Op::LoseSandbox),
        1 => (0usize..3).prop_map(Op::Unhealthy),
        1 => Just(Op::Stop),
        1 => Just(Op::Edit),
    ]
}

fn pods() -> impl Strategy<Value = Pod> {
    let policy = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    let init = prop::sample::select(vec![
        json!([]),
        json!([{"name": "i1", "image": "x"}]),
        json!([{"name": "i1", "image": "x"}, {"name": "i2", "image": "x"}]),
        json!([{"name": "s", "image": "x", "restartPolicy": "Always"}, {"name": "i1", "image": "x"}]),
    ]);
    let regular = prop::sample::select(vec![
        json!([{"name": "a", "image": "x", "livenessProbe": {"exec": {"command": ["true"]}}}]),
        json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]),
    ]);
    (policy, init, regular).prop_map(|(policy, init, regular)| {
        crate::container::testing::pod(
            json!({"restartPolicy": policy, "initContainers": init, "containers": regular, "terminationGracePeriodSeconds": 30}),
        )
    })
}

struct World {
    pod: Pod,
    now: Timestamp,
    seen: Observed,
    probes: ProbeResults,
    life: Life,
    kept: Kept,
    progress: Progress,
    jobs: Vec<Step>,
    next: u32,
    gone: bool,
}

impl World {
    fn new(pod: Pod) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self {
            pod,
            now,
            seen: Observed::default(),
            probes: ProbeResults::default(),
            life: Life::Running,
            kept: Kept { started: Some(now), ..Kept::default() },
            progress: Progress::default(),
            jobs: Vec::new(),
            next: 0,
            gone: false,
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
    fn turn(&mut self) -> Plan {
        while let Some(event) = plan::judge(&self.inputs(), self.now) {
            self.life = life::next(self.life.clone(), &event);
        }
        let plan = plan::plan(&self.inputs(), self.now);
        self.check(&plan);
        for step in plan.steps.clone() {
            self.begin(step);
        }
        self.gone |= self.life.is_gone();
        plan
    }

    fn begin(&mut self, step: Step) {
        let deadline = if let Step::Kill(kill) = &step { Some(kill.deadline) } else { None };
        match &step {
            Step::Start(start) => {
                if let Some(failed) = start.after {
                    let key = crate::pods::outcome::crash_key(&self.pod, &start.container);
                    let raised = backoff::raise(self.kept.crash.get(&start.container), &key, failed, self.now, CRASH);
                    self.kept.crash.insert(start.container.clone(), raised);
                }
                self.progress.images.remove(&start.container);
            }
            Step::Kill(kill) if kill.again => self.kept.again.push(kill.id.clone()),
            _ => {}
        }
        self.jobs.retain(|other| other.job() != step.job());
        self.progress.doing.insert(step.job(), deadline);
        self.jobs.push(step);
    }

    /// What must hold of every plan.
    fn check(&self, plan: &Plan) {
        let mut jobs: Vec<_> = plan.steps.iter().map(Step::job).collect();
        jobs.sort();
        jobs.dedup();
        assert_eq!(jobs.len(), plan.steps.len(), "two steps do the same: {:?}", plan.steps);
        for step in &plan.steps {
            match step {
                Step::Start(start) => self.check_start(start),
                Step::Sandbox { .. } => {
                    assert_eq!(self.life, Life::Running, "an ending pod gets a sandbox");
                    assert!(!self.seen.anything_runs() && !self.seen.sandboxes.iter().any(|sandbox| sandbox.ready));
                }
                Step::Remove(remains) => {
                    let container = self.seen.by_id(&remains.id).expect("it is there");
                    assert!(!container.state.may_run(), "a running container is removed");
                }
                Step::Undo(_) => assert!(!self.seen.anything_runs(), "things are taken from under a running container"),
                _ => {}
            }
        }
    }

    fn check_start(&self, start: &Start) {
        assert_eq!(self.life, Life::Running, "an ending pod starts something");
        let newest = self.seen.newest(&start.container);
        assert!(newest.is_none_or(|newest| !newest.state.may_run()), "a second instance");
        assert!(!self.progress.is_doing(&Job::Start(start.container.clone())), "two starts of one container");
        assert!(self.progress.volumes.is_some(), "started without its volumes");
        let sandbox = self.seen.sandbox().expect("a sandbox");
        assert!(sandbox.ready && sandbox.id == start.sandbox, "started in a dead sandbox");
        let member = roles::member(&self.pod, &start.container).unwrap();
        let begun = roles::members(&self.pod).iter().any(|other| {
            let state = self.seen.newest(&other.container.name).map(|c| &c.state);
            other.role == Role::Regular && matches!(state, Some(State::Running { .. } | State::Created))
        });
        if member.role == Role::Regular && !begun {
            self.check_initialised();
        }
        if let Some(State::Exited { finished, .. }) = newest.map(|newest| &newest.state) {
            let again = self.kept.again.contains(&newest.unwrap().id);
            let entry = self.kept.crash.get(&start.container);
            let key = crate::pods::containers::crash_key(&member);
            assert!(again || backoff::not_before(entry, &key, *finished, self.now, CRASH).is_none(), "no back-off");
        }
    }

    fn check_initialised(&self) {
        for member in roles::members(&self.pod).iter().filter(|member| member.role != Role::Regular) {
            let state = self.seen.newest(&member.container.name).map(|c| &c.state);
            match member.role {
                Role::Init => assert!(matches!(state, Some(State::Exited { code: 0, .. })), "{state:?}"),
                _ => assert!(state.is_some(), "a sidecar was never begun"),
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Finish(nth, well) => self.finish(*nth, *well),
            Op::Exit(nth, code) => {
                if let Some(id) = self.running(*nth) {
                    self.end(&id, *code);
                }
            }
            Op::Time(seconds) => self.now = self.now.saturating_add(SignedDuration::from_secs(*seconds)).unwrap(),
            Op::Kill => {
                // What the runtime was asked for may or may not still happen.
                let half = self.jobs.len() / 2;
                for _ in 0..half {
                    self.finish(0, true);
                }
                self.jobs.clear();
                self.progress = Progress::default();
                self.probes = ProbeResults::default();
            }
            Op::LoseSandbox => {
                if let Some(sandbox) = self.seen.sandboxes.first_mut() {
                    sandbox.ready = false;
                }
                while let Some(id) = self.running(0) {
                    self.end(&id, 137);
                }
            }
            Op::Unhealthy(nth) => self.unhealthy(*nth),
            Op::Stop => {
                let by = plan::grace(&self.pod, self.now);
                self.life = life::next(self.life.clone(), &Event::Stop { by });
            }
            Op::Edit => {
                if let Some(spec) = &mut self.pod.spec {
                    spec.containers[0].image = Some(format!("x:{}", self.next));
                }
            }
        }
    }

    fn unhealthy(&mut self, nth: usize) {
        let Some(id) = self.running(nth) else { return };
        let name = self.seen.by_id(&id).unwrap().name.clone();
        let results =
            ContainerResults { container_id: id, liveness: Some(Outcome::Failure), ..ContainerResults::default() };
        self.probes.containers.insert(name, results);
    }

    fn running(&self, nth: usize) -> Option<String> {
        let running: Vec<_> = self.seen.containers.iter().filter(|c| c.state.is_running()).collect();
        running.get(nth % running.len().max(1)).map(|container| container.id.clone())
    }

    fn end(&mut self, id: &str, code: i32) {
        let finished = self.now;
        let container = self.seen.containers.iter_mut().find(|container| container.id == id);
        if let Some(Container { state, .. }) = container
            && let State::Running { started } = *state
        {
            let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
            *state = State::Exited { started: Some(started), finished, code, reason, message: String::new() };
        }
    }

    fn finish(&mut self, nth: usize, well: bool) {
        if self.jobs.is_empty() {
            return;
        }
        let step = self.jobs.remove(nth % self.jobs.len());
        self.progress.doing.remove(&step.job());
        if well {
            self.done(step)
        } else {
            self.failed(step)
        }
        self.seen = std::mem::take(&mut self.seen).sorted();
    }

    fn failed(&mut self, step: Step) {
        let retry = self.now.saturating_add(SignedDuration::from_secs(10)).unwrap();
        let trouble =
            Trouble { reason: "R".into(), message: "m".into(), since: self.now, retry, pull_of: None, has_run: false };
        match step {
            Step::SetUp | Step::Refresh => self.progress.volume_trouble = Some(trouble),
            Step::Sandbox { .. } | Step::StopSandbox { .. } => self.progress.sandbox_trouble = Some(trouble),
            Step::Image { container } => {
                self.progress.container_trouble.insert(container, trouble);
            }
            Step::Start(start) => {
                // It may have been made and not started.
                self.create(&start, State::Created);
                self.progress.container_trouble.insert(start.container, trouble);
            }
            Step::Kill(kill) => {
                self.progress.killed.insert(kill.id, self.now);
                self.progress.undo_trouble = Some(trouble);
            }
            _ => self.progress.undo_trouble = Some(trouble),
        }
    }

    fn done(&mut self, step: Step) {
        match step {
            Step::SetUp => self.progress.volumes = Some(Arc::default()),
            Step::Refresh => self.progress.stale = false,
            Step::Image { container } => {
                self.progress.images.insert(container, ImageFacts::default());
            }
            Step::Sandbox { attempt } => self.sandbox(attempt),
            Step::StopSandbox { id } => self.stop_sandbox(&id),
            Step::Start(start) => self.create(&start, State::Running { started: self.now }),
            Step::PreStop { id, .. } => self.progress.hooks_done.push(id),
            Step::Kill(kill) => self.end(&kill.id, 143),
            Step::Remove(remains) => self.seen.containers.retain(|container| container.id != remains.id),
            Step::RemoveSandbox { id } => self.seen.sandboxes.retain(|sandbox| sandbox.id != id),
            Step::Undo(undo) => {
                match undo {
                    Undo::Sandboxes => self.seen.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false),
                    Undo::Remains => self.seen = Observed::default(),
                    _ => {}
                }
                self.life = life::next(self.life.clone(), &Event::Undone(undo));
            }
        }
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

    fn create(&mut self, start: &Start, state: State) {
        if let Some(old) = &start.replaces {
            self.seen.containers.retain(|container| container.id != *old);
        }
        // A runtime starts nothing in a sandbox that is no more.
        if !self.seen.sandboxes.iter().any(|sandbox| sandbox.ready && sandbox.id == start.sandbox) {
            return;
        }
        let running = |c: &Container| c.name == start.container && c.state.is_running();
        assert!(!self.seen.containers.iter().any(running), "two instances of {} run", start.container);
        self.next += 1;
        let member = roles::member(&self.pod, &start.container).unwrap();
        self.seen.containers.push(Container {
            id: format!("{}-{}", start.container, self.next),
            name: start.container.clone(),
            attempt: start.restarts.unwrap_or(0),
            sandbox: start.sandbox.clone(),
            state,
            created: self.now,
            hash: Some(definition_hash(member.container)),
            image: String::new(),
            image_ref: String::new(),
            message_file: None,
            user: None,
        });
    }

    /// Everything goes well from now on: the pod must get where it should be.
    fn settle(&mut self) {
        for _ in 0..200 {
            let plan = self.turn();
            if self.jobs.is_empty() {
                match plan.wake {
                    Some(wake) => self.now = self.now.max(wake),
                    None => return,
                }
            }
            while !self.jobs.is_empty() {
                self.finish(0, true);
            }
        }
    }
}

fn run(pod: Pod, ops: &[Op]) -> World {
    let mut world = World::new(pod);
    let (mut ended, mut verdict) = (false, None);
    for op in ops {
        world.turn();
        world.apply(op);
        assert!(!ended || world.life.is_ending(), "a stopped pod came back");
        ended = world.life.is_ending();
        let now = world.life.end().and_then(|end| end.verdict.clone());
        assert!(verdict.is_none() || verdict == now, "a verdict was lost");
        verdict = now;
    }
    world
}

proptest! {
    #[test]
    fn promises_hold_in_any_order_of_events(pod in pods(), ops in prop::collection::vec(op(), 0..60)) {
        run(pod, &ops);
    }

    #[test]
    fn a_pod_that_is_stopped_leaves_nothing(pod in pods(), ops in prop::collection::vec(op(), 0..40)) {
        let mut world = run(pod, &ops);
        world.apply(&Op::Stop);
        world.settle();
        prop_assert!(world.gone, "{:?} {:?} {:?}", world.life, world.seen, world.progress);
        prop_assert_eq!(world.seen, Observed::default());
    }

    #[test]
    fn when_trouble_ends_a_pod_runs_or_has_ended(pod in pods(), ops in prop::collection::vec(op(), 0..40)) {
        let mut world = run(pod, &ops);
        // Init containers end well from now on.
        for _ in 0..20 {
            world.settle();
            let init = roles::members(&world.pod).iter().filter(|m| m.role == Role::Init).map(|m| m.container.name.clone()).collect::<Vec<_>>();
            let running = world.seen.containers.iter().find(|c| c.state.is_running() && init.contains(&c.name)).map(|c| c.id.clone());
            match running {
                Some(id) => world.end(&id, 0),
                None => break,
            }
        }
        if world.life == Life::Running {
            // What does not restart may be over; all others run.
            for member in roles::members(&world.pod).iter().filter(|member| member.role == Role::Regular) {
                let state = world.seen.newest(&member.container.name).map(|container| &container.state);
                let over = matches!(state, Some(State::Exited { .. }));
                let runs = matches!(state, Some(State::Running { .. }));
                prop_assert!(runs || over, "{}: {state:?} {:?}", member.container.name, world.progress);
            }
            let runs = world.seen.containers.iter().any(|container| container.state.is_running());
            prop_assert!(runs, "a live pod in which nothing runs: {:?}", world.seen);
        }
    }
}

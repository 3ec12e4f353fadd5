//! A world in which steps come out in any order, containers end, sandboxes die, the clock jumps, the disk is full and
//! the agent is killed at any moment: whatever happens, a pod's promises hold.
//!
//! Sequences come from a small generator with a seed each, so that a failure names its seed, and is cut down to the
//! events that matter. `MODEL_SEED=<n> cargo test -p agent --lib model` runs that one alone.

mod world;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::observe::{Observed, State};
use crate::pods::life::Life;
use crate::pods::roles::{self, Role};
use world::{Broken, World};

/// Sequences of each of the four tests below: more than a hundred thousand together.
const SEQUENCES: u64 = 26_000;

#[derive(Clone, Debug)]
pub(super) enum Op {
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
    /// The runtime forgets the nth container, if it is dead.
    Forget(usize),
    /// The nth running container is probed.
    Probe(usize, Probe),
    /// Nobody wants the pod any more; it has so many seconds.
    Stop(i64),
    /// The manifest has another image.
    Edit,
    /// The manifest gives the nth container another cpu limit, in thousandths.
    Resize(usize, u32),
    /// Somebody adds an ephemeral container.
    Look,
    /// The disk takes nothing any more, or again.
    Full(bool),
}

/// What a probe says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probe {
    Started,
    NotStarted,
    Dead,
    Ready(bool),
}

/// Steele, Lea and Flood's splitmix64: good enough, and the same on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

fn op(rng: &mut Rng) -> Op {
    match rng.below(34) {
        0..14 => Op::Finish(rng.below(6), rng.below(20) < 17),
        14..18 => Op::Exit(rng.below(3), *rng.of(&[0, 1, 137])),
        18..21 => Op::Time(*rng.of(&[-5, 0, 1, 1, 5, 10, 30, 59, 700, -90_000])),
        21..24 => Op::Probe(
            rng.below(3),
            *rng.of(&[
                Probe::Started,
                Probe::Started,
                Probe::NotStarted,
                Probe::Dead,
                Probe::Ready(true),
                Probe::Ready(false),
            ]),
        ),
        24..26 => Op::Kill,
        26 => Op::LoseSandbox,
        27 => Op::Forget(rng.below(4)),
        28 => Op::Stop(*rng.of(&[1, 30, 600])),
        29 => Op::Full(rng.below(2) == 0),
        30 => Op::Resize(rng.below(2), *rng.of(&[100, 200])),
        31 => Op::Look,
        _ => Op::Edit,
    }
}

/// One of each kind that matters: policies, init containers, sidecars, probes.
fn pods() -> Vec<Pod> {
    let inits = [
        json!([]),
        json!([{"name": "i1", "image": "x"}, {"name": "i2", "image": "x"}]),
        json!([{"name": "s", "image": "x", "restartPolicy": "Always", "startupProbe": {"exec": {}}}, {"name": "i1", "image": "x"}]),
        json!([{"name": "i1", "image": "x"}, {"name": "s", "image": "x", "restartPolicy": "Always", "lifecycle": {"preStop": {"exec": {}}}}]),
    ];
    let regulars = [
        json!([{"name": "a", "image": "x", "livenessProbe": {"exec": {}}, "readinessProbe": {"exec": {}}}]),
        json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x", "startupProbe": {"exec": {}}}]),
        json!([{"name": "a", "image": "x", "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}}]}, {"name": "b", "image": "x",
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]),
        json!([{"name": "a", "image": "x", "restartPolicy": "Never", "restartPolicyRules":
            [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]}, {"name": "b", "image": "x"}]),
    ];
    let mut pods = Vec::new();
    for policy in ["Always", "OnFailure", "Never"] {
        for init in &inits {
            for regular in &regulars {
                let deadline = if policy == "OnFailure" { json!(900) } else { json!(null) };
                pods.push(crate::container::testing::pod(json!({"restartPolicy": policy, "initContainers": init,
                    "containers": regular, "activeDeadlineSeconds": deadline, "terminationGracePeriodSeconds": 30})));
            }
        }
    }
    pods
}

/// How a sequence is brought to its end.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// Nobody wants the pod any more: nothing may stay.
    Leave,
    /// All goes well from now on: the pod runs or has ended.
    Recover,
}

fn run(pod: &Pod, ops: &[Op], goal: Goal, tells: bool) -> Result<(), Broken> {
    let mut world = World::new(pod.clone(), tells);
    for op in ops {
        world.turn()?;
        world.apply(op)?;
    }
    match goal {
        Goal::Leave => leaves(world),
        Goal::Recover => recovers(world),
    }
}

fn leaves(mut world: World) -> Result<(), Broken> {
    world.apply(&Op::Stop(30))?;
    world.settle()?;
    match world.gone && world.seen == Observed::default() {
        true => Ok(()),
        false => Err(format!("something stays: {:?} {:?} {:?}", world.life, world.seen, world.progress)),
    }
}

fn recovers(mut world: World) -> Result<(), Broken> {
    // Init containers end well from now on, and startup probes succeed.
    for _ in 0..20 {
        world.settle()?;
        let members = roles::members(&world.pod);
        let is_init = |name: &str| members.iter().any(|m| m.role == Role::Init && m.container.name == name);
        let running =
            world.seen.containers.iter().filter(|c| c.state.is_running()).map(|c| (c.id.clone(), is_init(&c.name)));
        let running: Vec<_> = running.collect();
        world.all_started();
        if let Some((id, _)) = running.into_iter().find(|(_, is_init)| *is_init) {
            world.end(&id, 0);
        }
    }
    if world.life != Life::Running {
        return Ok(());
    }
    // What does not restart may be over; all others run.
    for member in roles::members(&world.pod).iter().filter(|member| member.role == Role::Regular) {
        let state = world.seen.newest(&member.container.name).map(|container| &container.state);
        if !matches!(state, Some(State::Exited { .. } | State::Running { .. })) {
            return Err(format!("{} is {state:?}: {:?}", member.container.name, world.progress));
        }
    }
    match world.seen.containers.iter().any(|container| container.state.is_running()) {
        true => Ok(()),
        false => Err(format!("a live pod in which nothing runs: {:?}", world.seen)),
    }
}

struct Case {
    pod: usize,
    ops: Vec<Op>,
    goal: Goal,
    tells: bool,
}

fn case(seed: u64, pods: usize) -> Case {
    let mut rng = Rng(seed);
    let (pod, length) = (rng.below(pods), 4 + rng.below(40));
    let goal = *rng.of(&[Goal::Leave, Goal::Recover]);
    let tells = rng.below(4) == 0;
    Case { pod, ops: (0..length).map(|_| op(&mut rng)).collect(), goal, tells }
}

/// Leaves out whatever the failure does without.
fn shrink(pod: &Pod, case: &Case) -> (Vec<Op>, Broken) {
    let mut ops = case.ops.clone();
    let mut broken = String::new();
    let mut at = 0;
    while at < ops.len() {
        let mut fewer = ops.clone();
        fewer.remove(at);
        match run(pod, &fewer, case.goal, case.tells) {
            Err(still) => (ops, broken, at) = (fewer, still, 0),
            Ok(()) => at += 1,
        }
    }
    (ops, broken)
}

/// Says which sequence the code under test panicked in.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("in the sequence MODEL_SEED={}", self.0));
        }
    }
}

#[expect(clippy::print_stderr, reason = "the test's own output is where one looks")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn explore(shard: u64) {
    let pods = pods();
    let only = std::env::var("MODEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(shard * SEQUENCES..(shard + 1) * SEQUENCES, |seed: u64| seed..seed + 1);
    let (mut sequences, mut events) = (0_u64, 0);
    for seed in seeds {
        let _seed = Seed(seed);
        let case = case(seed, pods.len());
        let pod = &pods[case.pod];
        if let Err(first) = run(pod, &case.ops, case.goal, case.tells) {
            let (ops, broken) = shrink(pod, &case);
            panic!("{first}\nshrunk to {broken}\n{ops:?}\n{:?}\n{}", case.goal, serde_json::to_string(pod).unwrap());
        }
        sequences += 1;
        events += case.ops.len();
    }
    say(&format!("{sequences} sequences of {events} events explored; with the other three shards {}", SEQUENCES * 4));
}

#[test]
fn promises_hold_in_every_order_of_events_1() {
    explore(0);
}

#[test]
fn promises_hold_in_every_order_of_events_2() {
    explore(1);
}

#[test]
fn promises_hold_in_every_order_of_events_3() {
    explore(2);
}

#[test]
fn promises_hold_in_every_order_of_events_4() {
    explore(3);
}

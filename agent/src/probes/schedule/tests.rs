use proptest::prelude::*;

use super::*;

fn machine(kind: ProbeKind) -> Machine {
    Machine::new(Settings {
        kind,
        initial_delay: Duration::ZERO,
        period: secs(10),
        success_threshold: 1,
        failure_threshold: 3,
    })
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs a machine from its start at second 0: `outcomes` are what each attempt finds, one after the other. Says at
/// which second each attempt was made and what was reported after it.
fn told(machine: &mut Machine, start: Instant, outcomes: &str) -> String {
    machine.running("one", start, false);
    machine.begin_grid(start, Duration::ZERO);
    let mut told = vec![shown(machine)];
    for outcome in outcomes.chars() {
        let Some(due) = machine.due() else {
            told.push("idle".to_owned());
            break;
        };
        machine.begin(due);
        assert_eq!(machine.due(), None, "never two attempts at once");
        let outcome = match outcome {
            '+' => Some(Outcome::Success),
            '-' => Some(Outcome::Failure),
            _ => None,
        };
        machine.finished("one", outcome, due);
        told.push(format!("{:?} {}", due - start, shown(machine)));
    }
    told.join(", ")
}

fn shown(machine: &Machine) -> String {
    match machine.result() {
        None => "?",
        Some(Outcome::Success) => "ok",
        Some(Outcome::Failure) => "bad",
    }
    .to_owned()
}

#[test]
fn a_dead_container_is_found_after_its_threshold_of_periods() {
    let start = Instant::now();
    assert_eq!(told(&mut machine(ProbeKind::Liveness), start, "----"), "ok, 10s ok, 20s ok, 30s bad, idle");
    assert_eq!(
        told(&mut machine(ProbeKind::Liveness), start, "--+--?-"),
        "ok, 10s ok, 20s ok, 30s ok, 40s ok, 50s ok, 60s ok, 70s bad"
    );
}

#[test]
fn readiness_hurries_until_the_first_success_and_then_keeps_the_grid() {
    let start = Instant::now();
    let mut ready = machine(ProbeKind::Readiness);
    assert_eq!(
        told(&mut ready, start, "---+---+"),
        "bad, 0ns bad, 100ms bad, 300ms bad, 700ms ok, 10.7s ok, 20.7s ok, 30.7s bad, 40.7s ok"
    );
    let mut slow = machine(ProbeKind::Readiness);
    slow.settings.period = secs(1);
    assert_eq!(told(&mut slow, start, "------"), "bad, 0ns bad, 100ms bad, 300ms bad, 700ms bad, 1.5s bad, 2.5s bad");
}

#[test]
fn a_startup_probe_decides_once_per_instance() {
    let start = Instant::now();
    let mut startup = machine(ProbeKind::Startup);
    assert_eq!(told(&mut startup, start, "--+-"), "?, 0ns ?, 10s ?, 20s ok, idle");
    startup.stopped();
    assert_eq!(startup.result(), Some(Outcome::Failure));
    startup.running("two", start + secs(60), false);
    startup.begin_grid(start + secs(60), Duration::ZERO);
    assert_eq!((startup.result(), startup.due()), (None, Some(start + secs(60))), "another instance begins anew");
    let mut startup = machine(ProbeKind::Startup);
    assert_eq!(told(&mut startup, start, "----"), "?, 0ns ?, 10s ?, 20s bad, idle");
}

#[test]
fn the_initial_delay_is_kept_by_everyone_also_when_asked() {
    let start = Instant::now();
    for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
        let mut machine = machine(kind);
        machine.settings.initial_delay = secs(5);
        machine.running("one", start, false);
        machine.begin_grid(start, Duration::ZERO);
        machine.kick(start + secs(1));
        assert_eq!(machine.due(), Some(start + secs(5)), "{kind:?}");
    }
}

#[test]
fn an_attempt_that_takes_longer_than_its_period_drops_what_it_missed() {
    let start = Instant::now();
    let mut live = machine(ProbeKind::Liveness);
    live.running("one", start, false);
    live.begin_grid(start, Duration::ZERO);
    live.begin(start + secs(10));
    live.finished("one", Some(Outcome::Success), start + secs(35));
    assert_eq!(live.due(), Some(start + secs(20)), "late, but due");
    live.begin(start + secs(35));
    live.finished("one", Some(Outcome::Success), start + secs(36));
    assert_eq!(live.due(), Some(start + secs(40)), "back on the grid");
}

#[test]
fn a_kick_makes_an_unready_container_be_looked_at_at_once() {
    let start = Instant::now();
    let mut ready = machine(ProbeKind::Readiness);
    told(&mut ready, start, "-+---");
    assert_eq!(ready.result(), Some(Outcome::Failure));
    let later = start + secs(31);
    ready.kick(later);
    assert_eq!(ready.due(), Some(later));
    ready.begin(later);
    ready.kick(later);
    ready.finished("one", Some(Outcome::Failure), later + secs(1));
    assert_eq!(ready.due(), Some(later + secs(1)), "a kick while one was under way is not lost");
    ready.begin(later + secs(1));
    ready.finished("one", Some(Outcome::Success), later + secs(1));
    ready.kick(later + secs(2));
    assert_eq!(ready.due(), Some(later + secs(11)), "one that is ready keeps its grid");
}

#[test]
fn counters_go_on_over_instances_and_over_the_agent() {
    let start = Instant::now();
    let mut live = machine(ProbeKind::Liveness);
    told(&mut live, start, "--");
    let saved = serde_json::to_string(&live.save()).unwrap();
    let mut again = machine(ProbeKind::Liveness);
    again.restore(serde_json::from_str(&saved).unwrap());
    for machine in [&mut live, &mut again] {
        machine.stopped();
        machine.running("two", start + secs(30), false);
        machine.begin_grid(start + secs(30), Duration::ZERO);
        assert_eq!(machine.result(), Some(Outcome::Success));
        machine.begin(start + secs(40));
        machine.finished("two", Some(Outcome::Failure), start + secs(40));
        assert_eq!(machine.result(), Some(Outcome::Failure), "two before, one now");
    }
}

#[test]
fn an_agent_that_comes_back_neither_unreadies_nor_restarts_anything() {
    let start = Instant::now();
    for (kind, known) in
        [(ProbeKind::Startup, Some(Outcome::Success)), (ProbeKind::Readiness, None), (ProbeKind::Liveness, None)]
    {
        let mut fresh = machine(kind);
        fresh.running("one", start, true);
        assert_eq!(fresh.result(), known, "{kind:?} without anything saved");
    }
    let mut startup = machine(ProbeKind::Startup);
    startup.restore(machine(ProbeKind::Startup).save());
    startup.running("one", start, true);
    assert_eq!(startup.result(), None, "it began after the last note, and has yet to come up");
    let mut ready = machine(ProbeKind::Readiness);
    told(&mut ready, start, "+");
    let mut again = machine(ProbeKind::Readiness);
    again.restore(ready.save());
    again.running("one", start, true);
    again.begin_grid(start + secs(60), secs(3));
    assert_eq!(again.result(), Some(Outcome::Success));
    assert_eq!(again.due(), Some(start + secs(63)));
    for _ in 0..2 {
        let due = again.due().unwrap();
        again.begin(due);
        again.finished("one", Some(Outcome::Failure), due);
        assert_eq!(again.result(), Some(Outcome::Success));
        assert_eq!(again.due(), Some(due + secs(10)), "not hurried towards unready");
    }
}

#[test]
fn what_a_former_instance_answers_late_counts_for_nothing() {
    let start = Instant::now();
    let mut live = machine(ProbeKind::Liveness);
    live.settings.failure_threshold = 1;
    live.running("one", start, false);
    live.begin_grid(start, Duration::ZERO);
    live.begin(start + secs(10));
    live.stopped();
    live.running("two", start + secs(11), false);
    live.begin_grid(start + secs(11), Duration::ZERO);
    live.finished("one", Some(Outcome::Failure), start + secs(12));
    assert_eq!((live.result(), live.due()), (Some(Outcome::Success), Some(start + secs(21))));
}

/// The kubelet's worker as section 3 of the facts has it, tick by tick.
#[derive(Default)]
struct Model {
    result: Option<Outcome>,
    last: Option<Outcome>,
    run: u32,
    hold: bool,
}

impl Model {
    fn cycle(&mut self, settings: &Settings, outcome: Option<Outcome>) {
        let Some(outcome) = outcome.filter(|_| !self.hold) else { return };
        self.run = if self.last == Some(outcome) { self.run + 1 } else { 1 };
        self.last = Some(outcome);
        let threshold =
            if outcome == Outcome::Success { settings.success_threshold } else { settings.failure_threshold };
        if self.run < threshold {
            return;
        }
        self.result = Some(outcome);
        let failed_liveness = settings.kind == ProbeKind::Liveness && outcome == Outcome::Failure;
        if failed_liveness || settings.kind == ProbeKind::Startup {
            (self.hold, self.run) = (true, 0);
        }
    }
}

fn kind() -> impl Strategy<Value = ProbeKind> {
    prop_oneof![Just(ProbeKind::Startup), Just(ProbeKind::Readiness), Just(ProbeKind::Liveness)]
}

proptest! {
    #[test]
    fn results_are_those_of_the_kubelets_cycle(
        kind in kind(), success in 1_u32..4, failure in 1_u32..4,
        outcomes in prop::collection::vec(prop_oneof![Just(None), Just(Some(Outcome::Success)), Just(Some(Outcome::Failure))], 0..40),
        kicks in prop::collection::vec(any::<bool>(), 40),
    ) {
        let start = Instant::now();
        let settings = Settings { kind, initial_delay: secs(1), period: secs(10), success_threshold: success, failure_threshold: failure };
        let mut machine = Machine::new(settings);
        machine.running("one", start, false);
        machine.begin_grid(start, Duration::ZERO);
        let mut model = Model { result: machine.result(), ..Model::default() };
        let mut at = start;
        for (outcome, kick) in outcomes.into_iter().zip(kicks) {
            if kick {
                machine.kick(at);
            }
            let Some(due) = machine.due() else {
                prop_assert!(model.hold);
                break;
            };
            prop_assert!(due >= start + secs(1), "before the initial delay");
            prop_assert!(due <= at + secs(10) || at == start, "later than a period");
            at = at.max(due);
            machine.begin(at);
            machine.finished("one", outcome, at);
            model.cycle(&settings, outcome);
            prop_assert_eq!(machine.result(), model.result);
        }
    }
}

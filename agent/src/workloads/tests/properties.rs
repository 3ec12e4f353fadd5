//! No order of readiness, exits, restarts of the agent and time breaks a promise.

use proptest::prelude::*;

use super::*;

/// Something that happens to the node.
#[derive(Clone, Debug)]
enum Act {
    /// The nth pod is heard of.
    Hear(usize),
    Ready(usize),
    Unready(usize),
    Fail(usize),
    Succeed(usize),
    /// What is not wanted any more is gone.
    Gone,
    /// The agent is killed and starts: it knows what is on disk, and has heard of nothing.
    Restart,
    Pass(i64),
    Template(u8),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..8_usize).prop_map(Act::Hear),
        4 => (0..8_usize).prop_map(Act::Ready),
        1 => (0..8_usize).prop_map(Act::Unready),
        1 => (0..8_usize).prop_map(Act::Fail),
        2 => (0..8_usize).prop_map(Act::Succeed),
        2 => Just(Act::Gone),
        1 => Just(Act::Restart),
        2 => (0..400_i64).prop_map(Act::Pass),
        1 => (0..3_u8).prop_map(Act::Template),
    ]
}

fn happen(world: &mut World, act: &Act, manifest: &impl Fn(u8) -> String) {
    let nth = |world: &World, n: usize| {
        let count = world.pods.pods.len();
        (count > 0).then(|| world.pods.pods.keys().nth(n % count).cloned()).flatten()
    };
    let now = world.now;
    let mut change = |n: usize, change: &dyn Fn(&mut Seen)| {
        let Some(uid) = nth(world, n) else { return };
        // A pod that has ended stays so.
        if world.seen.get(&uid).is_none_or(|seen| seen.end.is_none()) {
            world.set(&uid, |seen| change(seen));
        }
    };
    match *act {
        Act::Hear(n) => change(n, &|_| {}),
        Act::Ready(n) => change(n, &|seen| seen.ready_since = Some(seen.ready_since.unwrap_or(now))),
        Act::Unready(n) => change(n, &|seen| seen.ready_since = None),
        Act::Fail(n) => change(n, &|seen| *seen = Seen { end: Some(End::Failed), ..Seen::default() }),
        Act::Succeed(n) => change(n, &|seen| *seen = Seen { end: Some(End::Succeeded), ..Seen::default() }),
        Act::Gone => world.gone(),
        Act::Restart => {
            let wanted = world.names();
            let (seen, pods) = (&mut world.seen, &world.pods.pods);
            // What is on its way out is known by its folder, what has ended by what is remembered of it.
            seen.retain(|uid, seen| seen.end.is_some() || !pods.contains_key(uid));
            world.pods = Desired::default();
            world.turn();
            assert_eq!(world.names(), wanted, "another agent wants the same pods");
        }
        Act::Pass(seconds) => world.pass(secs(seconds)),
        Act::Template(n) => world.edit(&manifest(n)),
    }
}

fn ready(world: &World) -> usize {
    world.pods.pods.keys().filter(|uid| world.seen.get(*uid).is_some_and(|seen| seen.ready_since.is_some())).count()
}

proptest! {
    #[test]
    fn a_rollout_keeps_its_bounds(
        replicas in 0..5_u32,
        surge in 0..3_u32,
        unavailable in 0..3_u32,
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let more = format!("strategy: {{rollingUpdate: {{maxSurge: {surge}, maxUnavailable: {unavailable}}}}}");
        let manifest = |n: u8| deployment(replicas, &format!("i:{n}"), &more);
        let mut world = World::new(&manifest(0));
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        let least = usize::try_from(replicas.saturating_sub(unavailable)).unwrap();
        for act in &acts {
            let before = ready(&world);
            happen(&mut world, act, &manifest);
            let lost = matches!(act, Act::Unready(_) | Act::Fail(_) | Act::Succeed(_) | Act::Restart);
            prop_assert!(world.pods.pods.len() <= usize::try_from(replicas + surge).unwrap(), "too many");
            prop_assert!(lost || ready(&world) >= before.min(least), "our own act took too many away");
        }
    }

    #[test]
    fn a_rollout_comes_to_its_end(acts in proptest::collection::vec(act(), 0..40), surge in 0..2_u32) {
        let more = format!("strategy: {{rollingUpdate: {{maxSurge: {surge}, maxUnavailable: 1}}}}");
        let manifest = |n: u8| deployment(3, &format!("i:{n}"), &more);
        let mut world = World::new(&manifest(0));
        acts.iter().for_each(|act| happen(&mut world, act, &manifest));
        world.edit(&manifest(9));
        for _ in 0..5 {
            world.all_ready();
            world.pass(secs(400));
        }
        prop_assert_eq!(world.images(), BTreeMap::from([("i:9".to_owned(), 3)]));
    }

    #[test]
    fn a_job_keeps_its_bounds(
        completions in 1..5_u32,
        parallelism in 0..4_u32,
        indexed in any::<bool>(),
        acts in proptest::collection::vec(act(), 0..60),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let manifest = |_: u8| {
            job(&format!("completions: {completions}\n  parallelism: {parallelism}\n  completionMode: {mode}"))
        };
        let mut world = World::new(&manifest(0));
        let mut succeeded = 0;
        for act in &acts {
            happen(&mut world, act, &manifest);
            let row = world.row(WorkloadKind::Job);
            prop_assert!(row.active <= parallelism, "more than parallelism at once");
            prop_assert!(row.ready <= completions, "more than completions succeeded");
            prop_assert!(row.ready >= succeeded, "a success was lost");
            prop_assert!(row.active + row.ready <= completions.max(row.ready), "more than could be needed");
            succeeded = row.ready;
        }
    }

    #[test]
    fn ordinals_are_one_pod_each_and_in_order(acts in proptest::collection::vec(act(), 0..60)) {
        let manifest = |n: u8| {
            deployment(3, &format!("i:{n}"), "").replace("kind: Deployment", "kind: StatefulSet")
        };
        let mut world = World::new(&manifest(0));
        for act in &acts {
            let before = world.names();
            happen(&mut world, act, &manifest);
            let names = world.names();
            prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", names);
            // Never a pod whose predecessor is not there.
            for new in names.iter().filter(|name| !before.contains(name)) {
                let ordinal: usize = new.rsplit('-').next().unwrap().parse().unwrap();
                let lower = (0..ordinal).all(|lower| names.contains(&format!("web-{lower}")));
                prop_assert!(lower, "{new} before its predecessors in {:?}", names);
            }
        }
    }
}

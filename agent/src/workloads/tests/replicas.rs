use super::*;

#[test]
fn a_deployment_makes_its_pods_and_the_same_ones_after_a_loss_of_memory() {
    let text = deployment(3, "i:1", "");
    let mut world = World::new(&text);
    world.all_ready();
    let names = world.names();
    assert_eq!(names.len(), 3);
    let pod = world.pod(&names[0]);
    let hash = &pod.metadata.labels.as_ref().unwrap()["pod-template-hash"];
    assert!(names.iter().all(|name| name.starts_with(&format!("web-{hash}-"))), "{names:?}");
    let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("ReplicaSet", format!("web-{hash}").as_str()));
    assert_eq!(pod.metadata.namespace.as_deref(), Some("shop"));
    let row = world.row(WorkloadKind::Deployment);
    assert_eq!((row.wanted, row.ready, row.up_to_date), (3, 3, 3));
    assert_eq!(World::new(&text).pods.pods.keys().collect::<Vec<_>>(), world.pods.pods.keys().collect::<Vec<_>>());
}

#[test]
fn an_agent_that_starts_again_takes_nothing_for_unready() {
    let mut world = World::new(&deployment(4, "i:1", ""));
    world.all_ready();
    world.edit(&deployment(4, "i:2", ""));
    world.hear();
    let (before, names) = (world.memory.clone(), world.names());
    // Nothing has been heard of any pod yet, for ever so long.
    world.seen.clear();
    world.pass(secs(3600));
    assert_eq!((world.names(), &world.memory), (names, &before));
}

#[test]
fn a_new_template_replaces_pods_as_the_new_ones_are_ready() {
    let mut world = World::new(&deployment(4, "i:1", ""));
    world.all_ready();
    world.edit(&deployment(4, "i:2", ""));
    // 25 % of 4: one more, one fewer.
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 3), ("i:2".into(), 1)]));
    world.hear();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 3), ("i:2".into(), 2)]));
    let row = world.row(WorkloadKind::Deployment);
    assert_eq!((row.ready, row.up_to_date), (3, 2));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 4)]));
}

#[test]
fn a_template_that_never_gets_ready_leaves_enough_of_the_former() {
    let mut world = World::new(&deployment(4, "i:1", ""));
    world.all_ready();
    world.edit(&deployment(4, "broken", ""));
    for _ in 0..5 {
        world.hear();
        world.pass(secs(60));
    }
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 3), ("broken".into(), 2)]));
    world.edit(&deployment(4, "i:1", ""));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 4)]));
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let more = "strategy: {type: Recreate}";
    let mut world = World::new(&deployment(2, "i:1", more));
    world.all_ready();
    world.edit(&deployment(2, "i:2", more));
    assert_eq!(world.names(), [""; 0]);
    world.turn();
    assert_eq!(world.names(), [""; 0]);
    world.gone();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 2)]));
}

#[test]
fn scaling_down_keeps_those_that_are_ready() {
    let mut world = World::new(&deployment(3, "i:1", ""));
    world.hear();
    let kept = world.names()[2].clone();
    world.ready(&kept);
    world.edit(&deployment(1, "i:1", ""));
    assert_eq!(world.names(), [kept]);
    world.edit("");
    assert_eq!(world.names(), [""; 0]);
    assert!(world.memory.is_empty());
}

#[test]
fn a_pod_that_failed_is_replaced_later_and_later() {
    let mut world = World::new(&deployment(1, "i:1", ""));
    world.hear();
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        let name = world.names()[0].clone();
        world.end(&name, End::Failed);
        world.gone();
        assert_eq!(world.names(), [""; 0]);
        world.pass(secs(wait - 1));
        assert_eq!(world.names(), [""; 0], "{wait}");
        world.pass(secs(1));
        assert_ne!(world.names(), [name]);
        world.hear();
    }
}

#[test]
fn a_daemon_set_is_one_pod_and_its_successor_waits_for_it_to_go() {
    let text = |image: &str| {
        deployment(1, image, "").replace("kind: Deployment", "kind: DaemonSet").replace("  replicas: 1\n", "")
    };
    let mut world = World::new(&text("i:1"));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 1)]));
    world.edit(&text("i:2"));
    assert_eq!(world.images(), BTreeMap::new());
    world.gone();
    assert_eq!(world.images(), BTreeMap::from([("i:2".into(), 1)]));
}

#[test]
fn a_paused_deployment_stays_with_what_it_has() {
    let mut world = World::new(&deployment(2, "i:1", ""));
    world.all_ready();
    world.edit(&deployment(3, "i:2", "paused: true"));
    world.all_ready();
    assert_eq!(world.images(), BTreeMap::from([("i:1".into(), 3)]));
}

use expect_test::expect;
use serde_json::{Value, json};

use super::*;
use crate::config::kubelet::load_text;
use crate::container::testing::pod;
use crate::names::PodUid;

/// A policy as a configuration file has it.
fn policy(fields: Value) -> Eviction {
    let mut file = json!({"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"});
    file.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    load_text("config.yaml", &file.to_string()).unwrap().configuration.eviction
}

fn levels(all: &[(Signal, u64)]) -> Levels {
    all.iter().map(|(signal, available)| (*signal, Level { available: *available, capacity: 1_000 })).collect()
}

fn shown(look: &Look) -> String {
    let conditions: Vec<_> = look.conditions.iter().map(|condition| condition.as_str()).collect();
    let starved = look.starved.as_ref().map(|starved| {
        format!(" {}{} < {}", if starved.is_soft { "soft " } else { "" }, starved.signal.name(), starved.threshold)
    });
    format!("{}{}", conditions.join(" "), starved.unwrap_or_default())
}

fn following(policy: Eviction, signal: Signal) -> impl FnMut(u64, u64) -> String {
    let (mut state, begin) = (State::default(), Instant::now());
    move |second, free| {
        let at = begin + Duration::from_secs(second);
        shown(&look(&policy, &mut state, &levels(&[(signal, free)]), at))
    }
}

#[test]
fn a_hard_threshold_is_acted_on_at_once_and_its_condition_outlives_it() {
    let policy = policy(json!({"evictionHard": {"memory.available": "10%"},
        "evictionMinimumReclaim": {"memory.available": "5%"}}));
    let mut at = following(policy.clone(), Signal::MemoryAvailable);
    assert_eq!(at(0, 100), "");
    assert_eq!(at(10, 99), "MemoryPressure memory.available < 100");
    assert_eq!(at(20, 120), "MemoryPressure memory.available < 100", "fifty more have to be free");
    assert_eq!(at(30, 150), "MemoryPressure");
    assert_eq!(at(40, 120), "MemoryPressure", "it was enough once");
    assert_eq!(at(319, 200), "MemoryPressure");
    assert_eq!(at(320, 200), "");
    let relieved = |free| is_relieved(&policy, &levels(&[(Signal::MemoryAvailable, free)]));
    assert!(!relieved(149) && relieved(150));
}

#[test]
fn a_soft_threshold_waits_for_its_grace_and_begins_anew_after_a_pause() {
    let policy =
        policy(json!({"evictionHard": {"memory.available": "0%"}, "evictionSoft": {"nodefs.available": "20%"},
        "evictionSoftGracePeriod": {"nodefs.available": "1m"}, "evictionPressureTransitionPeriod": "5s"}));
    let mut at = following(policy, Signal::NodefsAvailable);
    assert_eq!(at(0, 100), "DiskPressure");
    assert_eq!(at(59, 100), "DiskPressure");
    assert_eq!(at(60, 100), "DiskPressure soft nodefs.available < 200");
    assert_eq!(at(64, 300), "DiskPressure");
    assert_eq!(at(70, 300), "");
    assert_eq!(at(80, 100), "DiskPressure", "a minute from now");
}

#[test]
fn memory_comes_first_hard_before_soft_and_what_cannot_be_measured_is_no_reason() {
    let policy = policy(json!({
        "evictionHard": {"pid.available": "5%", "nodefs.inodesFree": "5%", "memory.available": "5%"},
        "evictionSoft": {"memory.available": "10%"}, "evictionSoftGracePeriod": {"memory.available": "1s"}}));
    let all = levels(&[(Signal::PidAvailable, 1), (Signal::NodefsInodesFree, 1), (Signal::MemoryAvailable, 1)]);
    let mut state = State::default();
    let found = look(&policy, &mut state, &all, Instant::now());
    assert_eq!(shown(&found), "MemoryPressure DiskPressure PIDPressure memory.available < 50");
    assert_eq!(look(&policy, &mut State::default(), &Levels::new(), Instant::now()), Look::default());
}

#[test]
fn a_node_of_a_cluster_has_the_kubelets_thresholds_and_zero_turns_one_off() {
    let named = |policy: Eviction| signals(&policy).into_iter().map(Signal::name).collect::<Vec<_>>().join(" ");
    expect!["memory.available nodefs.available nodefs.inodesFree imagefs.available imagefs.inodesFree"]
        .assert_eq(&named(policy(json!({}))));
    assert_eq!(named(policy(json!({"evictionHard": {"memory.available": "0%"}}))), "");
}

#[test]
fn what_is_to_stay_free_is_not_for_pods() {
    let capacity = Allocatable { cpu_millis: 2_000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1_000 };
    let left = allocatable(&policy(json!({})), capacity);
    assert_eq!((left.cpu_millis, left.memory_bytes, left.ephemeral_storage_bytes), (2_000, 924 << 20, 900));
    assert_eq!(allocatable(&Eviction::default(), capacity), capacity);
}

fn starved(signal: Signal, is_soft: bool) -> Starved {
    Starved { signal, threshold: 100 << 20, level: Level { available: 90 << 20, capacity: 1 << 30 }, is_soft }
}

#[test]
fn only_soft_thresholds_leave_a_pod_time() {
    let mut policy = policy(json!({"evictionMaxPodGracePeriod": 20}));
    let pod = |seconds: i64| pod(json!({"terminationGracePeriodSeconds": seconds}));
    let (hard, soft) = (starved(Signal::PidAvailable, false), starved(Signal::PidAvailable, true));
    let seconds = |policy: &Eviction, starved, own| grace(policy, starved, &pod(own)).as_secs();
    assert_eq!((seconds(&policy, &hard, 60), seconds(&policy, &soft, 60), seconds(&policy, &soft, 5)), (1, 20, 5));
    policy.max_pod_grace = None;
    assert_eq!(seconds(&policy, &soft, 60), 60, "a negative one leaves it to the pod");
}

fn asking(priority: i32, memory: &str) -> Pod {
    pod(json!({"priority": priority, "containers": [{"name": "a", "resources": {"requests": {"memory": memory}}}]}))
}

fn mebibytes(memory: u64) -> PodUsage {
    let memory = memory << 20;
    let container = ContainerUsage { memory, ..ContainerUsage::default() };
    PodUsage { memory, containers: [("a".to_owned(), container)].into(), ..PodUsage::default() }
}

fn ranked(need: Need, pods: &[(&str, Pod, Option<PodUsage>)]) -> String {
    let uid = |name: &str| PodUid::try_from(name.to_owned()).unwrap();
    let uids: Vec<_> = pods.iter().map(|(name, ..)| uid(name)).collect();
    let usage = pods.iter().filter_map(|(name, _, usage)| Some((uid(name), usage.clone()?))).collect();
    let all = uids.iter().zip(pods.iter().map(|(_, pod, _)| pod));
    order(need, all, &usage).iter().map(PodUid::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn who_uses_more_than_was_asked_for_goes_before_lower_priorities_and_critical_pods_stay() {
    let pods = [
        ("low", asking(-5, "50Mi"), Some(mebibytes(40))),
        ("over", asking(7, "50Mi"), Some(mebibytes(60))),
        ("more", asking(7, "500Mi"), Some(mebibytes(530))),
        ("lower", asking(6, "50Mi"), Some(mebibytes(51))),
        ("critical", asking(2_000_000_000, "0"), Some(mebibytes(900))),
        ("unknown", asking(9, "0"), None),
    ];
    assert_eq!(ranked(Need::Memory, &pods), "unknown lower more over low");
}

#[test]
fn on_disk_counts_what_lies_on_the_file_system_in_question() {
    let disk = |bytes, inodes| OnDisk { bytes, inodes };
    let plain = |priority: i32| pod(json!({"priority": priority, "containers": [{"name": "a"}]}));
    let using = |volumes, layer, logs| {
        let container = ContainerUsage { layer, logs, memory: 0 };
        Some(PodUsage { volumes, containers: [("a".to_owned(), container)].into(), pids: 0, memory: 0 })
    };
    let none = OnDisk::default();
    let pods = [
        ("volumes", plain(0), using(disk(50, 1), none, disk(20, 1))),
        ("layer", plain(0), using(none, disk(60, 9), none)),
        ("idle", plain(-1), using(none, none, none)),
    ];
    assert_eq!(ranked(Need::of(Signal::NodefsAvailable, true), &pods), "volumes layer idle");
    assert_eq!(ranked(Need::of(Signal::NodefsAvailable, false), &pods), "volumes idle layer");
    assert_eq!(ranked(Need::of(Signal::ImagefsAvailable, false), &pods), "layer idle volumes");
    assert_eq!(ranked(Need::of(Signal::ImagefsInodesFree, true), &pods), "layer volumes idle");
    assert_eq!(Need::of(Signal::ContainerfsAvailable, false), Need::of(Signal::ImagefsAvailable, false));
}

#[test]
fn of_process_ids_priority_and_their_number_count() {
    let using = |pids| Some(PodUsage { pids, ..PodUsage::default() });
    let pods =
        [("few", asking(0, "0"), using(3)), ("many", asking(0, "0"), using(9)), ("low", asking(-1, "0"), using(0))];
    assert_eq!(ranked(Need::of(Signal::PidAvailable, true), &pods), "low many few");
}

#[test]
fn the_messages_are_the_kubelets() {
    let memory = starved(Signal::MemoryAvailable, false);
    let said = message(&memory, &asking(0, "50Mi"), Some(&mebibytes(60)));
    expect!["The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container a was using 60Mi, request is 50Mi, has larger consumption of memory. "].assert_eq(&said);
    assert!(is_about_pressure(&said));
    let whole = pod(json!({"resources": {"requests": {"memory": "1Gi"}}, "containers": [{"name": "a"}]}));
    expect!["The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Pod web was using 60Mi, request is 1Gi, has larger consumption of memory. Container a was using 60Mi, request is 0, has larger consumption of memory. "]
        .assert_eq(&message(&memory, &whole, Some(&mebibytes(60))));
    let pids = Starved {
        threshold: 1_000,
        level: Level { available: 9, capacity: 32_768 },
        ..starved(Signal::PidAvailable, true)
    };
    expect!["The node was low on resource: pids. Threshold quantity: 1k, available: 9. "].assert_eq(&message(
        &pids,
        &asking(0, "50Mi"),
        Some(&mebibytes(60)),
    ));
    expect!["The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 90Mi. "]
        .assert_eq(&message(&starved(Signal::ImagefsAvailable, false), &asking(0, "50Mi"), Some(&mebibytes(60))));
}

#[test]
fn a_node_under_pressure_takes_only_what_it_has_to() {
    let refused = |pod: Pod, conditions: &[Condition]| {
        refuse(&pod, &conditions.iter().copied().collect())
            .map_or_else(|why| format!("{}: {why}", why.reason), |()| "taken".into())
    };
    let tolerant = |key: &str| pod(json!({"tolerations": [{"key": key, "operator": "Exists"}]}));
    let (memory, both) = (&[Condition::Memory][..], &[Condition::Disk, Condition::Memory][..]);
    assert_eq!(refused(pod(json!({})), &[]), "taken");
    assert_eq!(refused(pod(json!({})), memory), "Evicted: The node had condition: [MemoryPressure]. ");
    assert_eq!(refused(asking(0, "1Mi"), memory), "taken");
    assert_eq!(refused(tolerant("node.kubernetes.io/memory-pressure"), memory), "taken");
    assert_ne!(refused(tolerant("node.kubernetes.io/disk-pressure"), memory), "taken");
    assert_eq!(refused(asking(0, "1Mi"), both), "Evicted: The node had condition: [MemoryPressure DiskPressure]. ");
    assert_ne!(refused(tolerant("node.kubernetes.io/disk-pressure"), &[Condition::Disk]), "taken");
    assert_eq!(refused(asking(2_000_000_000, "1Mi"), both), "taken");
}

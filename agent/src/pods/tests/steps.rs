use std::sync::Arc;

use expect_test::{Expect, expect};
use jiff::SignedDuration;
use serde_json::json;

use super::scene::{Scene, noon};
use crate::observe::State;
use crate::pods::backoff::{self, Limits};
use crate::pods::life::{End, Life};
use crate::pods::step::Job;
use crate::probes::{ContainerResults, Outcome};
use crate::resources::resize;
use crate::volumes::MountedVolume;

fn check(scene: &Scene, want: Expect) {
    want.assert_eq(&scene.steps());
}

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "c"}]})
}

#[test]
fn everything_that_can_begin_begins_at_once() {
    check(
        &Scene::of(json!({"containers": [{"name": "a"}, {"name": "b"}]})),
        expect![[r#"
        set up
        sandbox 0
        image a
        image b
    "#]],
    );
}

#[test]
fn only_the_next_init_container_is_prepared() {
    check(
        &Scene::of(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]})),
        expect![[r#"
        set up
        sandbox 0
        image i
    "#]],
    );
}

#[test]
fn regular_containers_start_one_after_the_other() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check(
        &Scene::of(spec.clone()).prepared(),
        expect![[r#"
        start a #?
    "#]],
    );
    let starting = Scene::of(spec.clone()).prepared().with(|scene| {
        scene.progress.doing.insert(Job::Start("a".into()), None);
    });
    check(&starting, expect![""]);
    check(
        &Scene::of(spec).prepared().running("a"),
        expect![[r#"
        start b #?
    "#]],
    );
}

#[test]
fn a_crashed_container_starts_at_once_and_then_waits() {
    let crashed = Scene::of(one()).prepared().exited("c", 1, 3);
    check(
        &crashed,
        expect![[r#"
        start c #1
    "#]],
    );
    let again = Scene::of(one()).prepared().exited("c", 1, 30).exited("c", 1, 3).with(|scene| {
        let limits = Limits { first: std::time::Duration::from_secs(10), max: std::time::Duration::from_secs(300) };
        let key = crate::pods::outcome::crash_key(&scene.pod, "c");
        let before = noon().checked_sub(SignedDuration::from_secs(30)).unwrap();
        scene.kept.crash.insert("c".into(), backoff::raise(None, &key, before, before, limits));
    });
    check(
        &again,
        expect![[r#"
        remove c0
        wake in 7s
    "#]],
    );
}

#[test]
fn what_a_policy_does_not_restart_ends_the_pod() {
    check(
        &Scene::of(json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}]})).prepared().exited("c", 0, 1),
        expect![[r#"
        Ended { verdict: Verdict { succeeded: true, reason: None, message: None }, by: 2026-06-01T12:00:30Z }
    "#]],
    );
    check(
        &Scene::of(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]})).prepared().exited("c", 2, 1),
        expect![[r#"
        Ended { verdict: Verdict { succeeded: false, reason: None, message: None }, by: 2026-06-01T12:00:30Z }
    "#]],
    );
}

#[test]
fn a_failed_probe_kills_with_its_own_grace() {
    let probe = json!({"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 5});
    let spec =
        json!({"containers": [{"name": "c", "livenessProbe": probe, "startupProbe": {"exec": {"command": ["x"]}}}]});
    let results = |startup, liveness| ContainerResults {
        container_id: "c0".into(),
        startup: Some(startup),
        liveness: Some(liveness),
        readiness: None,
    };
    let scene = Scene::of(spec.clone()).prepared().running("c").says("c", results(Outcome::Success, Outcome::Failure));
    check(
        &scene,
        expect![[r#"
        kill c0 in 5s, again: Container c failed liveness probe, will be restarted
    "#]],
    );
    let scene = Scene::of(spec.clone()).prepared().running("c").says("c", results(Outcome::Failure, Outcome::Success));
    check(
        &scene,
        expect![[r#"
        kill c0 in 30s, again: Container c failed startup probe, will be restarted
    "#]],
    );
    // What was said of another instance is not about this one.
    let old = ContainerResults { container_id: "c9".into(), ..results(Outcome::Success, Outcome::Failure) };
    check(&Scene::of(spec).prepared().running("c").says("c", old), expect![""]);
}

#[test]
fn another_image_or_another_name_replaces_what_runs() {
    let scene = Scene::of(one()).prepared().running("c").instance("old", State::Running { started: noon() });
    let scene = scene.with(|scene| scene.pod.spec.as_mut().unwrap().containers[0].image = Some("busybox:2".into()));
    check(
        &scene,
        expect![[r#"
        kill old0 in 30s: Container old definition changed
        kill c0 in 30s, again: Container c definition changed, will be restarted
    "#]],
    );
}

#[test]
fn a_dead_sandbox_goes_before_the_next_one_comes() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    let dead = |scene: Scene| scene.with(|scene| scene.seen.sandboxes[0].ready = false);
    check(
        &dead(Scene::of(spec.clone()).prepared().exited("i", 0, 30).running("c")),
        expect![[r#"
        kill c0 in 30s: Stopping container c
    "#]],
    );
    check(
        &dead(Scene::of(spec).prepared().exited("i", 0, 30).exited("c", 137, 1)),
        expect![[r#"
        remove i0
    "#]],
    );
}

#[test]
fn sidecars_stop_after_those_they_serve_or_at_the_deadline() {
    let hook = json!({"preStop": {"exec": {"command": ["x"]}}});
    let spec = json!({"initContainers": [{"name": "s1", "restartPolicy": "Always", "lifecycle": hook}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "c"}]});
    let stopping = |scene: Scene, seconds: i64| {
        scene.with(|scene| {
            let deadline = noon().checked_add(SignedDuration::from_secs(seconds)).unwrap();
            scene.life = Life::Stopping { end: End { deleted: true, verdict: None }, deadline };
        })
    };
    let all = || Scene::of(spec.clone()).prepared().running("s1").running("s2").running("c");
    check(
        &stopping(all(), 20),
        expect![[r#"
        kill c0 in 20s: Stopping container c
        preStop s1
        wake in 20s
    "#]],
    );
    check(
        &stopping(Scene::of(spec.clone()).prepared().running("s1").running("s2").exited("c", 0, 1), 20),
        expect![[r#"
        preStop s1
        kill s20 in 20s: Stopping container s2
        wake in 20s
    "#]],
    );
    check(
        &stopping(all(), 0),
        expect![[r#"
        kill c0 in 0s: Stopping container c
        kill s10 in 0s: Stopping container s1
        kill s20 in 0s: Stopping container s2
    "#]],
    );
}

#[test]
fn a_sooner_deadline_hastens_a_kill_that_is_under_way() {
    let at = |seconds: i64| noon().checked_add(SignedDuration::from_secs(seconds)).unwrap();
    let scene = Scene::of(one()).prepared().running("c").with(|scene| {
        scene.life = Life::Stopping { end: End { deleted: true, verdict: None }, deadline: at(3) };
        scene.progress.doing.insert(Job::Kill("c0".into()), Some(at(30)));
    });
    check(
        &scene,
        expect![[r#"
        kill c0 in 3s: -
    "#]],
    );
}

#[test]
fn the_deadline_of_a_pod_is_waited_for_and_then_ends_it() {
    let spec = |seconds: i64| json!({"activeDeadlineSeconds": seconds, "containers": [{"name": "c"}]});
    check(
        &Scene::of(spec(100)).prepared().running("c"),
        expect![[r#"
        wake in 40s
    "#]],
    );
    check(
        &Scene::of(spec(60)).prepared().running("c"),
        expect![[r#"
        Ended { verdict: Verdict { succeeded: false, reason: Some("DeadlineExceeded"), message: Some("Pod was active on the node longer than the specified deadline") }, by: 2026-06-01T12:00:30Z }
        wake in 0s
    "#]],
    );
}

#[test]
fn a_container_that_cannot_be_stopped_is_tried_again_after_a_pause() {
    let at = |seconds: i64| noon().checked_add(SignedDuration::from_secs(seconds)).unwrap();
    let scene = |killed: i64| {
        Scene::of(one()).prepared().running("c").with(|scene| {
            scene.life = Life::Stopping { end: End { deleted: true, verdict: None }, deadline: at(3) };
            scene.progress.killed.insert("c0".into(), at(killed));
        })
    };
    check(
        &scene(0),
        expect![[r#"
        wake in 1s
    "#]],
    );
    check(
        &scene(-1),
        expect![[r#"
        kill c0 in 3s: Stopping container c
    "#]],
    );
}

fn sized(cpu: &str, policy: &str) -> serde_json::Value {
    json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]})
}

fn resized(policy: &str) -> Scene {
    Scene::of(sized("2", policy)).prepared().running("c").with(|scene| {
        scene.kept.actuated = Some(resize::amounts(&crate::testing::pod(sized("1", policy))));
    })
}

#[test]
fn a_resize_changes_what_runs_or_restarts_it_as_the_policy_says() {
    check(
        &resized("NotRequired"),
        expect![[r#"
        resize c0
    "#]],
    );
    check(
        &resized("RestartContainer"),
        expect![[r#"
        kill c0 in 30s, again: Container c resize requires restart
    "#]],
    );
    // Once it has ended, the pod's cgroup comes first, then the next instance.
    let ended = resized("RestartContainer").with(|scene| {
        let State::Running { started } = scene.seen.containers[0].state else { panic!("it runs") };
        let (finished, reason) = (noon(), "Error".to_owned());
        let (started, message) = (Some(started), String::new());
        scene.seen.containers[0].state = State::Exited { started, finished, code: 143, reason, message };
        scene.kept.again.push("c0".into());
    });
    check(
        &ended,
        expect![[r#"
        resize
    "#]],
    );
}

#[test]
fn an_ephemeral_container_is_started_once_and_after_its_target() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}],
        "ephemeralContainers": [{"name": "e", "image": "busybox:1"}, {"name": "t", "image": "busybox:1", "targetContainerName": "c"}]});
    check(
        &Scene::of(spec.clone()).prepared(),
        expect![[r#"
        start e #?
        start i #?
    "#]],
    );
    check(
        &Scene::of(spec.clone()).prepared().exited("i", 0, 5).running("c").exited("e", 1, 3),
        expect![[r#"
        start t #?
    "#]],
    );
    let over = Scene::of(spec).prepared().exited("i", 0, 5).running("c").exited("e", 1, 3).exited("t", 0, 3);
    check(&over, expect![[r#""#]]);
}

#[test]
fn an_ephemeral_container_may_be_the_first_to_mount_a_volume_of_its_pod() {
    let spec = json!({"containers": [{"name": "c"}], "volumes": [{"name": "d", "emptyDir": {}}],
        "ephemeralContainers": [{"name": "e", "volumeMounts": [{"name": "d", "mountPath": "/d"}]}]});
    let scene = || Scene::of(spec.clone()).prepared().running("c");
    check(
        &scene(),
        expect![[r#"
        set up
    "#]],
    );
    let volume = MountedVolume {
        host_path: "/v".into(),
        read_only: false,
        managed: true,
        image: None,
        device: false,
        gid: None,
    };
    let mounted = [("d".to_owned(), volume)].into_iter().collect();
    check(
        &scene().with(|scene| scene.progress.volumes = Some(Arc::new(mounted))),
        expect![[r#"
        start e #?
    "#]],
    );
}

#[test]
fn one_end_restarts_all_containers_when_its_rule_says_so() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "b"}]});
    let begun = |scene: Scene| scene.with(|scene| scene.kept.restart_all = Some("a".into()));
    check(
        &Scene::of(spec.clone()).prepared().exited("i", 0, 9).exited("a", 42, 1).running("b"),
        expect![[r#"
        kill b0 in 0s: killing
        remove i0 but its log
    "#]],
    );
    let ended = Scene::of(spec.clone()).prepared().exited("i", 0, 9).exited("a", 42, 1).exited("b", 137, 0);
    check(
        &begun(ended),
        expect![[r#"
        remove b0 but its log
        remove i0 but its log
    "#]],
    );
    check(
        &begun(Scene::of(spec.clone()).prepared().exited("a", 42, 1)),
        expect![[r#"
        remove a0 but its log
    "#]],
    );
    let gone = begun(Scene::of(spec).prepared()).with(|scene| {
        scene.kept.attempts = [("i".to_owned(), 0), ("a".to_owned(), 3)].into();
    });
    check(
        &gone,
        expect![[r#"
        start i #1
    "#]],
    );
}

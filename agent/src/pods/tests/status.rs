use expect_test::{Expect, expect};
use jiff::SignedDuration;
use serde_json::json;

use super::scene::{Scene, noon};
use crate::observe::{State, User};
use crate::pods::backoff::{self, Limits};
use crate::pods::life::{End, Life, Verdict};
use crate::pods::step::Trouble;
use crate::probes::{ContainerResults, Outcome};
use crate::resources::resize;

fn check(scene: &Scene, want: Expect) {
    want.assert_eq(&scene.status());
}

fn trouble(reason: &str, message: &str, pull_of: Option<&str>, seconds_ago: i64) -> Trouble {
    Trouble {
        reason: reason.into(),
        message: message.into(),
        since: noon().checked_sub(SignedDuration::from_secs(seconds_ago)).unwrap(),
        retry: noon().checked_add(SignedDuration::from_secs(9)).unwrap(),
        pull_of: pull_of.map(str::to_owned),
        has_run: false,
    }
}

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "c"}]})
}

/// What a whole status says beyond phase, conditions and states, as the API writes it.
#[test]
fn a_status_has_all_its_fields() {
    let resources = json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}});
    let mounts = json!([{"name": "d", "mountPath": "/d", "readOnly": true}]);
    let container = json!({"name": "c", "resources": resources, "volumeMounts": mounts});
    let spec = json!({"containers": [container], "volumes": [{"name": "d", "emptyDir": {}}],
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}});
    let scene = Scene::of(spec).prepared().exited("c", 3, 42).running("c").with(|scene| {
        scene.pod.metadata.generation = Some(7);
        scene.seen.sandboxes[0].ips = ["10.88.0.2", "10.88.0.3", "fd00::2"].map(str::to_owned).into();
        scene.messages.insert("c0".into(), "last words".into());
        scene.kept.actuated = Some(resize::amounts(&scene.pod));
        for container in &mut scene.seen.containers {
            container.user = Some(User { uid: 1_000, gid: 1_000, groups: vec![1_000, 20] });
        }
    });
    let status = serde_json::to_value(scene.whole_status()).unwrap();
    expect![[r#"
        {
          "allocatedResources": {
            "cpu": "1"
          },
          "conditions": [
            {
              "lastTransitionTime": "2026-06-01T12:00:00Z",
              "observedGeneration": 7,
              "status": "True",
              "type": "PodReadyToStartContainers"
            },
            {
              "lastTransitionTime": "2026-06-01T12:00:00Z",
              "observedGeneration": 7,
              "status": "True",
              "type": "Initialized"
            },
            {
              "lastTransitionTime": "2026-06-01T12:00:00Z",
              "observedGeneration": 7,
              "status": "True",
              "type": "Ready"
            },
            {
              "lastTransitionTime": "2026-06-01T12:00:00Z",
              "observedGeneration": 7,
              "status": "True",
              "type": "ContainersReady"
            },
            {
              "lastTransitionTime": "2026-06-01T12:00:00Z",
              "observedGeneration": 7,
              "status": "True",
              "type": "PodScheduled"
            }
          ],
          "containerStatuses": [
            {
              "allocatedResources": {
                "cpu": "500m",
                "memory": "64Mi"
              },
              "containerID": "fake://c1",
              "image": "busybox:1",
              "imageID": "sha256:1",
              "lastState": {
                "terminated": {
                  "containerID": "fake://c0",
                  "exitCode": 3,
                  "finishedAt": "2026-06-01T11:59:18Z",
                  "message": "last words",
                  "reason": "Error",
                  "startedAt": "2026-06-01T11:59:13Z"
                }
              },
              "name": "c",
              "ready": true,
              "resources": {
                "limits": {
                  "memory": "64Mi"
                },
                "requests": {
                  "cpu": "500m",
                  "memory": "64Mi"
                }
              },
              "restartCount": 1,
              "started": true,
              "state": {
                "running": {
                  "startedAt": "2026-06-01T11:59:20Z"
                }
              },
              "user": {
                "linux": {
                  "gid": 1000,
                  "supplementalGroups": [
                    1000,
                    20
                  ],
                  "uid": 1000
                }
              },
              "volumeMounts": [
                {
                  "mountPath": "/d",
                  "name": "d",
                  "readOnly": true,
                  "recursiveReadOnly": "Disabled"
                }
              ]
            }
          ],
          "hostIP": "192.0.2.1",
          "hostIPs": [
            {
              "ip": "192.0.2.1"
            }
          ],
          "observedGeneration": 7,
          "phase": "Running",
          "podIP": "10.88.0.2",
          "podIPs": [
            {
              "ip": "10.88.0.2"
            },
            {
              "ip": "fd00::2"
            }
          ],
          "qosClass": "Burstable",
          "resources": {
            "limits": {
              "memory": "1Gi"
            },
            "requests": {
              "cpu": "1"
            }
          },
          "startTime": "2026-06-01T11:59:00Z"
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&status).unwrap());
}

#[test]
fn a_condition_keeps_the_time_at_which_it_last_turned() {
    let times = |scene: &Scene| -> Vec<String> {
        let one = |c: k8s_openapi::api::core::v1::PodCondition| {
            format!("{} {} since {}", c.type_, c.status, c.last_transition_time.unwrap().0)
        };
        scene.whole_status().conditions.unwrap().into_iter().map(one).collect()
    };
    let mut before = Scene::of(one()).prepared().whole_status();
    for condition in before.conditions.iter_mut().flatten() {
        let earlier = noon().checked_sub(SignedDuration::from_secs(3_600)).unwrap();
        condition.last_transition_time = Some(crate::pods::status::time(earlier));
    }
    let now = Scene::of(one()).prepared().running("c").with(|scene| scene.before = Some(before));
    expect![[r#"
        PodReadyToStartContainers True since 2026-06-01T11:00:00Z
        Initialized True since 2026-06-01T11:00:00Z
        Ready True since 2026-06-01T12:00:00Z
        ContainersReady True since 2026-06-01T12:00:00Z
        PodScheduled True since 2026-06-01T11:00:00Z
    "#]]
    .assert_eq(&(times(&now).join("\n") + "\n"));
}

#[test]
fn a_new_pod_waits() {
    check(
        &Scene::of(one()),
        expect![[r#"
            Pending - -
            False: PodReadyToStartContainers
            True: Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            c: waiting ContainerCreating ready=false started=false restarts=0
        "#]],
    );
    check(
        &Scene::of(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]})).prepared(),
        expect![[r#"
            Pending - 10.88.0.2
            True: PodReadyToStartContainers
            False (ContainersNotInitialized, containers with incomplete status: [i]): Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            i: waiting PodInitializing ready=false started=false restarts=0
            c: waiting PodInitializing ready=false started=false restarts=0
        "#]],
    );
}

#[test]
fn a_running_pod_is_ready() {
    check(
        &Scene::of(one()).prepared().running("c"),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled
            c: running ready=true started=true restarts=0
        "#]],
    );
}

#[test]
fn a_container_with_a_probe_is_ready_when_it_says_so() {
    let probe = json!({"exec": {"command": ["x"]}});
    let spec = json!({"containers": [{"name": "c", "readinessProbe": probe, "startupProbe": probe}]});
    let results =
        |startup, readiness| ContainerResults { container_id: "c0".into(), startup, readiness, liveness: None };
    check(
        &Scene::of(spec.clone()).prepared().running("c").says("c", results(None, Some(Outcome::Failure))),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            c: running ready=false started=false restarts=0
        "#]],
    );
    let good = results(Some(Outcome::Success), Some(Outcome::Success));
    check(
        &Scene::of(spec).prepared().running("c").says("c", good),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled
            c: running ready=true started=true restarts=0
        "#]],
    );
}

#[test]
fn a_failed_pull_shows_the_error_and_then_the_wait() {
    let scene = |ago| {
        Scene::of(one()).prepared().with(|scene| {
            let trouble = trouble("ErrImagePull", "no such repository", Some("busybox:1"), ago);
            scene.progress.container_trouble.insert("c".into(), trouble);
        })
    };
    check(
        &scene(0),
        expect![[r#"
            Pending - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            c: waiting ErrImagePull (no such repository) ready=false started=false restarts=0
        "#]],
    );
    check(
        &scene(5),
        expect![[r#"
            Pending - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            c: waiting ImagePullBackOff (Back-off pulling image "busybox:1": ErrImagePull: no such repository) ready=false started=false restarts=0
        "#]],
    );
}

#[test]
fn a_crash_loop_has_the_end_as_its_last_state() {
    let scene = Scene::of(one()).prepared().exited("c", 0, 30).exited("c", 3, 2).with(|scene| {
        let limits = Limits { first: std::time::Duration::from_secs(10), max: std::time::Duration::from_secs(300) };
        let key = crate::pods::outcome::crash_key(&scene.pod, "c");
        let before = noon().checked_sub(SignedDuration::from_secs(30)).unwrap();
        scene.kept.crash.insert("c".into(), backoff::raise(None, &key, before, before, limits));
        scene.messages.insert("c1".into(), "last words".into());
    });
    check(
        &scene,
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            c: waiting CrashLoopBackOff (back-off 10s restarting failed container=c pod=web_shop(u-1)) ready=false started=false restarts=1 last terminated 3 Error (last words)
        "#]],
    );
}

#[test]
fn an_init_container_that_fails_again_and_again_keeps_the_pod_pending() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    check(
        &Scene::of(spec).prepared().exited("i", 1, 2),
        expect![[r#"
            Pending - 10.88.0.2
            True: PodReadyToStartContainers
            False (ContainersNotInitialized, containers with incomplete status: [i]): Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            i: terminated 1 Error ready=false started=false restarts=0
            c: waiting PodInitializing ready=false started=false restarts=0
        "#]],
    );
}

fn ended(scene: Scene, verdict: Verdict) -> Scene {
    scene.with(|scene| {
        scene.seen.sandboxes[0].ready = false;
        scene.life = Life::Stopped { end: End { deleted: false, verdict: Some(verdict) }, left: vec![] };
    })
}

#[test]
fn an_init_container_that_the_runtime_forgot_has_done_its_part() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    check(
        &Scene::of(spec).prepared().running("c"),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled
            i: terminated 0 Completed (Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally) ready=true started=false restarts=0
            c: running ready=true started=true restarts=0
        "#]],
    );
}

#[test]
fn a_pod_that_ended_says_how() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let scene = Scene::of(spec.clone()).prepared().exited("a", 0, 9).exited("b", 0, 4);
    check(
        &ended(scene, Verdict { succeeded: true, reason: None, message: None }),
        expect![[r#"
            Succeeded - -
            False: PodReadyToStartContainers
            True (PodCompleted): Initialized
            False (PodCompleted): Ready ContainersReady
            True: PodScheduled
            a: terminated 0 Completed ready=false started=false restarts=0
            b: terminated 0 Completed ready=false started=false restarts=0
        "#]],
    );
    let scene = Scene::of(spec).prepared().exited("a", 0, 9).instance(
        "b",
        State::Exited {
            started: None,
            finished: noon(),
            code: 137,
            reason: "OOMKilled".into(),
            message: String::new(),
        },
    );
    let verdict =
        Verdict { succeeded: false, reason: Some("DeadlineExceeded".into()), message: Some("too long".into()) };
    check(
        &ended(scene, verdict),
        expect![[r#"
            Failed DeadlineExceeded -
            False: PodReadyToStartContainers
            True: Initialized
            False (PodFailed): Ready ContainersReady
            True: PodScheduled
            a: terminated 0 Completed ready=false started=false restarts=0
            b: terminated 137 OOMKilled ready=false started=false restarts=0
        "#]],
    );
}

#[test]
fn a_pod_that_went_for_the_nodes_sake_says_so_and_one_that_used_too_much_does_not() {
    let disrupted = |message: &str| {
        let verdict = Verdict { succeeded: false, reason: Some("Evicted".into()), message: Some(message.into()) };
        let scene = ended(Scene::of(json!({"containers": [{"name": "a"}]})).prepared().exited("a", 0, 9), verdict);
        let conditions = scene.whole_status().conditions.unwrap_or_default();
        conditions.into_iter().find(|one| one.type_ == "DisruptionTarget").and_then(|one| one.message)
    };
    let low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 9Mi. ";
    assert_eq!(disrupted(low).as_deref(), Some(low));
    assert_eq!(disrupted("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". "), None);
}

#[test]
fn readiness_gates_wait_for_their_conditions() {
    let spec = json!({"readinessGates": [{"conditionType": "example.org/ok"}], "containers": [{"name": "c"}]});
    check(
        &Scene::of(spec).prepared().running("c"),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ReadinessGatesNotReady, corresponding condition of pod readiness gate "example.org/ok" does not exist.): Ready
            True: ContainersReady PodScheduled
            c: running ready=true started=true restarts=0
        "#]],
    );
}

#[test]
fn sidecars_count_as_running_and_for_readiness() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]});
    check(
        &Scene::of(spec.clone()).prepared().running("s"),
        expect![[r#"
            Pending - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [c]): Ready ContainersReady
            True: PodScheduled
            s: running ready=true started=true restarts=0
            c: waiting PodInitializing ready=false started=false restarts=0
        "#]],
    );
    check(
        &Scene::of(spec).prepared().running("s").running("c"),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled
            s: running ready=true started=true restarts=0
            c: running ready=true started=true restarts=0
        "#]],
    );
}

#[test]
fn a_resize_is_told_while_it_waits_and_while_it_is_made() {
    let spec = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    let told = |scene: Scene| {
        let status = scene.whole_status();
        let conditions = status.conditions.unwrap().into_iter().filter(|c| c.type_.starts_with("PodResize"));
        let conditions = conditions.map(|c| format!("{}={} {:?} {:?}\n", c.type_, c.status, c.reason, c.message));
        let container = &status.container_statuses.unwrap()[0];
        let cpu = |list: &Option<_>| -> String {
            let list: &std::collections::BTreeMap<_, k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
                list.as_ref().unwrap();
            list["cpu"].0.clone()
        };
        let has = cpu(&container.resources.as_ref().unwrap().requests);
        format!("{}allocated {} has {has}\n", conditions.collect::<String>(), cpu(&container.allocated_resources))
    };
    let actuated = resize::amounts(&crate::testing::pod(spec("1")));
    let scene = |cpu: &str| {
        let actuated = actuated.clone();
        Scene::of(spec(cpu)).prepared().running("c").with(|scene| scene.kept.actuated = Some(actuated))
    };
    expect![[r#"
        allocated 1 has 1
    "#]]
    .assert_eq(&told(scene("1")));
    expect![[r#"
        PodResizeInProgress=True None None
        allocated 2 has 1
    "#]]
    .assert_eq(&told(scene("2")));
    expect![[r#"
        PodResizeInProgress=True Some("Error") Some("cannot decrease memory limits")
        allocated 2 has 1
    "#]]
    .assert_eq(&told(scene("2").with(|scene| {
        scene.progress.resize_trouble = Some(trouble("Error", "cannot decrease memory limits", None, 3));
    })));
    expect![[r#"
        PodResizePending=True Some("Deferred") Some("no room")
        allocated 1 has 1
    "#]]
    .assert_eq(&told(scene("1").with(|scene| {
        scene.kept.pending = Some(resize::Pending { infeasible: false, message: "no room".into() });
    })));
}

#[test]
fn an_ephemeral_container_is_told_and_counts_for_nothing() {
    let spec = json!({"containers": [{"name": "c"}], "ephemeralContainers": [{"name": "e", "image": "busybox:1"}, {"name": "d", "image": "x"}]});
    check(
        &Scene::of(spec.clone()).prepared().running("c").exited("e", 3, 1),
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized Ready ContainersReady PodScheduled
            c: running ready=true started=true restarts=0
            d: waiting ContainerCreating ready=false started=false restarts=0
            e: terminated 3 Error ready=false started=false restarts=0
        "#]],
    );
}

#[test]
fn a_restart_of_all_containers_is_told() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}]});
    let before = Scene::of(spec.clone()).prepared().exited("a", 42, 1).whole_status();
    let removed = Scene::of(spec).prepared().with(|scene| {
        scene.kept.restart_all = Some("a".into());
        scene.before = Some(before);
        // Something of it is still being taken away.
        scene.progress.doing.insert(crate::pods::step::Job::Start("a".into()), None);
    });
    check(
        &removed,
        expect![[r#"
            Running - 10.88.0.2
            True: PodReadyToStartContainers Initialized
            False (ContainersNotReady, containers with unready status: [a]): Ready ContainersReady
            True: PodScheduled
            True (RestartAllContainersStarted, container exited with restart policy rule): AllContainersRestarting
            a: waiting RestartingAllContainers (The container is removed because RestartAllContainers in place) ready=false started=false restarts=1 last terminated 137 RestartingAllContainers (The container is removed because RestartAllContainers in place)
        "#]],
    );
}

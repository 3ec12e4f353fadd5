use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::json;

use cri_proto::{Kind, RuntimeError};

use crate::fields::Allocatable;
use crate::names::PodUid;
use crate::probes::Outcome;
use crate::testing::{Stage, pod};
use crate::timeline::{self, Entry, Work};
use crate::view::PodView;

fn phase(view: &PodView) -> &str {
    view.status.phase.as_deref().unwrap_or_default()
}

fn container<'a>(view: &'a PodView, name: &str) -> Option<&'a ContainerStatus> {
    let all = view.status.container_statuses.iter().chain(&view.status.init_container_statuses).flatten();
    all.into_iter().find(|status| status.name == name)
}

fn waits(view: &PodView, name: &str, reason: &str) -> bool {
    let state = container(view, name).and_then(|status| status.state.as_ref());
    state.and_then(|state| state.waiting.as_ref()).is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
}

fn runs(view: &PodView, name: &str) -> bool {
    let state = container(view, name).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

fn ready(view: &PodView) -> bool {
    let conditions = view.status.conditions.iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[tokio::test]
async fn a_pod_comes_up_and_leaves_nothing_behind() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    let view = stage.until("ready", ready).await;
    assert_eq!(phase(&view), "Running");
    assert_eq!(view.status.pod_ip.as_deref(), Some("10.88.0.2"));
    assert!(view.started_in.is_some());
    assert_eq!(
        stage.events(),
        [
            "Pulled: Container image \"busybox:1\" already present on machine and can be accessed by the pod",
            "Created: Container created",
            "Started: Container started"
        ]
    );
    stage.want(vec![]);
    stage.until_gone("u-1").await;
    assert!(stage.runtime.is_empty());
    assert!(!stage.dir.path().join("kubelet/pods/u-1").exists());
    assert!(!stage.dir.path().join("logs/shop_web_u-1").exists());
    assert!(stage.events().contains(&"Killing: Stopping container c".to_owned()));
}

#[tokio::test]
async fn init_containers_run_in_order_and_before_the_others() {
    let spec = json!({"initContainers": [{"name": "i1"}, {"name": "i2"}], "containers": [{"name": "c"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    let view = stage.until("i1 runs", |view| runs(view, "i1")).await;
    assert!(waits(&view, "i2", "PodInitializing") && waits(&view, "c", "PodInitializing"));
    assert_eq!(phase(&view), "Pending");
    stage.runtime.exit("i1", 0);
    stage.until("i2 runs", |view| runs(view, "i2")).await;
    assert_eq!(stage.runtime.count("StartContainer c"), 0);
    stage.runtime.exit("i2", 0);
    let view = stage.until("ready", ready).await;
    assert!(container(&view, "i1").unwrap().ready && container(&view, "i2").unwrap().ready);
}

#[tokio::test]
async fn a_crashing_container_backs_off_and_its_end_is_the_last_state() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("runs", |view| runs(view, "c")).await;
    stage.runtime.exit("c", 1);
    // The first restart is at once.
    stage.until("restarted", |view| runs(view, "c") && container(view, "c").unwrap().restart_count == 1).await;
    stage.runtime.exit("c", 3);
    let view = stage.until("backs off", |view| waits(view, "c", "CrashLoopBackOff")).await;
    let status = container(&view, "c").unwrap();
    assert_eq!(status.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    let message = status.state.as_ref().unwrap().waiting.as_ref().unwrap().message.clone().unwrap();
    assert_eq!(message, "back-off 2s restarting failed container=c pod=web_shop(u-1)");
    assert_eq!(phase(&view), "Running");
    let view = stage.until("again", |view| runs(view, "c") && container(view, "c").unwrap().restart_count == 2).await;
    assert!(container(&view, "c").unwrap().last_state.is_some());
    assert!(
        stage.events().contains(&"BackOff: Back-off restarting failed container c in pod web_shop(u-1)".to_owned())
    );
}

#[tokio::test]
async fn a_pod_that_completes_stays_to_be_looked_at() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    stage.until("both run", |view| runs(view, "a") && runs(view, "b")).await;
    stage.runtime.exit("a", 0);
    stage.until("a is over", |view| !runs(view, "a") && phase(view) == "Running").await;
    stage.runtime.exit("b", 0);
    let view = stage.until("succeeded", |view| phase(view) == "Succeeded").await;
    assert!(!ready(&view));
    assert_eq!(view.status.pod_ip.as_deref(), Some("10.88.0.2"));
    assert!(!stage.runtime.is_empty(), "its logs are still wanted");
    stage.want(vec![]);
    stage.until_gone("u-1").await;
    assert!(stage.runtime.is_empty());
}

#[tokio::test]
async fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    stage.until("i runs", |view| runs(view, "i")).await;
    stage.runtime.exit("i", 1);
    stage.until("failed", |view| phase(view) == "Failed").await;
    assert_eq!(stage.runtime.count("CreateContainer c"), 0);
}

#[tokio::test]
async fn an_image_that_cannot_be_pulled_is_tried_again() {
    let stage = Stage::new(vec![]).await;
    stage.runtime.lose_image("busybox:1");
    let refused = RuntimeError::new("PullImage", Kind::Internal, "no such repository");
    stage.runtime.fail("PullImage busybox:1", 2, refused);
    stage.want(vec![pod(json!({"containers": [{"name": "c"}]}))]);
    let view = stage.until("refused", |view| waits(view, "c", "ErrImagePull")).await;
    let waiting = container(&view, "c").unwrap().state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.message.as_deref(), Some("no such repository"));
    stage.until("ready", ready).await;
    assert_eq!(stage.runtime.count("PullImage busybox:1"), 3);
    let events = stage.events();
    for want in [
        "Pulling: Pulling image \"busybox:1\"",
        "Failed: Failed to pull image \"busybox:1\": no such repository",
        "Failed: Error: ErrImagePull",
        "BackOff: Back-off pulling image \"busybox:1\"",
    ] {
        assert!(events.contains(&want.to_owned()), "{want}: {events:#?}");
    }
}

#[tokio::test]
async fn a_missing_secret_is_named_and_one_that_comes_is_used_at_once() {
    let spec = json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]}]});
    let stage = Stage::new(vec![pod(spec.clone())]).await;
    let view = stage.until("refused", |view| waits(view, "c", "CreateContainerConfigError")).await;
    let waiting = container(&view, "c").unwrap().state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.message.as_deref(), Some("secret \"s\" not found"));
    let mut desired = crate::testing::desired(vec![pod(spec)]);
    let name = crate::names::ObjectName::new("shop", "s");
    desired.objects.secrets.insert(name, std::sync::Arc::default());
    stage.wanted.send_replace(std::sync::Arc::new(desired));
    stage.until("ready", ready).await;
}

#[tokio::test]
async fn a_container_whose_liveness_fails_is_restarted() {
    let probe = json!({"exec": {"command": ["true"]}});
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c", "livenessProbe": probe}]}))]).await;
    stage.until("runs", |view| runs(view, "c")).await;
    stage.probes.say("c", |results| results.liveness = Some(Outcome::Failure));
    stage.until("restarted", |view| runs(view, "c") && container(view, "c").unwrap().restart_count == 1).await;
    assert!(stage.events().contains(&"Killing: Container c failed liveness probe, will be restarted".to_owned()));
}

#[tokio::test]
async fn a_pod_is_ready_when_its_probe_says_so() {
    let probe = json!({"exec": {"command": ["true"]}});
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c", "readinessProbe": probe}]}))]).await;
    let view = stage.until("runs", |view| runs(view, "c")).await;
    assert!(!ready(&view));
    stage.probes.say("c", |results| results.readiness = Some(Outcome::Success));
    stage.until("ready", ready).await;
    stage.probes.say("c", |results| results.readiness = Some(Outcome::Failure));
    let view = stage.until("not ready", |view| !ready(view)).await;
    let message = view.status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap().message;
    assert_eq!(message.as_deref(), Some("containers with unready status: [c]"));
}

#[tokio::test]
async fn another_image_replaces_the_container_in_its_sandbox() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("runs", |view| runs(view, "c")).await;
    stage.want(vec![pod(json!({"containers": [{"name": "c", "image": "busybox:2"}]}))]);
    let view = stage.until("replaced", |view| {
        runs(view, "c") && container(view, "c").is_some_and(|status| status.image == "busybox:2")
    });
    assert_eq!(container(&view.await, "c").unwrap().restart_count, 1);
    assert_eq!(stage.runtime.count("RunPodSandbox web"), 1);
    assert!(stage.events().contains(&"Killing: Container c definition changed, will be restarted".to_owned()));
}

#[tokio::test]
async fn a_lost_sandbox_is_made_again() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("ready", ready).await;
    stage.runtime.lose_sandbox();
    stage.until("again", |view| ready(view) && container(view, "c").unwrap().restart_count == 1).await;
    assert_eq!(stage.runtime.count("RunPodSandbox web"), 2);
}

#[tokio::test]
async fn another_start_of_the_agent_finds_everything_and_restarts_nothing() {
    let probe = json!({"exec": {"command": ["true"]}});
    let spec = json!({"containers": [{"name": "c", "readinessProbe": probe}]});
    let mut stage = Stage::new(vec![pod(spec)]).await;
    stage.until("runs", |view| runs(view, "c")).await;
    stage.probes.say("c", |results| results.readiness = Some(Outcome::Success));
    let before = stage.until("ready", ready).await;
    stage.end().await;
    let calls = stage.runtime.calls();
    stage.begin().await;
    let timelines = stage.node.as_ref().unwrap().handle().timelines;
    let steps = timelines.of(&PodUid::try_from("u-1".to_owned()).unwrap()).unwrap().entries;
    let starts = |entry: &&Entry| entry.work == Work::Container && entry.outcome == Some(timeline::Outcome::Done);
    assert_eq!(steps.iter().filter(starts).count(), 1, "what the former run tried is known: {steps:#?}");
    let after = stage.until("known", |view| view.status.container_statuses.is_some()).await;
    assert!(ready(&after), "what was ready stays ready: {:#?}", after.status);
    assert_eq!(after.status, before.status);
    assert_eq!(stage.runtime.calls(), calls);
}

#[tokio::test]
async fn what_nobody_wants_after_a_restart_is_ended() {
    let mut stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("ready", ready).await;
    stage.end().await;
    stage.want(vec![]);
    stage.begin().await;
    stage.runtime.until("empty", |runtime| runtime.is_empty()).await;
}

#[tokio::test]
async fn a_stop_goes_on_where_the_agent_was_killed() {
    let spec = json!({"terminationGracePeriodSeconds": 600, "containers": [{"name": "c"}]});
    let mut stage = Stage::new(vec![pod(spec.clone())]).await;
    stage.until("ready", ready).await;
    stage.runtime.ignores_sigterm("c");
    stage.want(vec![]);
    stage.until("stopping", |view| view.stopping).await;
    stage.end().await;
    // Wanted again: but containers may be dying, so it is ended first.
    stage.want(vec![pod(spec)]);
    stage.begin().await;
    let view = stage.until("known", |view| view.status.container_statuses.is_some()).await;
    assert!(view.stopping);
    stage.runtime.exit("c", 143);
    stage.until("a new one", |view| ready(view) && !view.stopping).await;
    assert_eq!(stage.runtime.count("RunPodSandbox web"), 2);
}

#[tokio::test]
async fn hooks_run_and_a_failing_post_start_stops_its_container() {
    let hooks = json!({"postStart": {"exec": {"command": ["begin"]}}, "preStop": {"exec": {"command": ["finish"]}}});
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c", "lifecycle": hooks}]}))]).await;
    stage.runtime.exec_answers("begin", 1);
    stage.until("refused", |view| waits(view, "c", "PostStartHookError")).await;
    assert!(stage.events().contains(&"FailedPostStartHook: PostStartHook failed".to_owned()));
    stage.runtime.exec_answers("begin", 0);
    stage.until("ready", ready).await;
    stage.want(vec![]);
    stage.until_gone("u-1").await;
    assert!(stage.runtime.count("ExecSync finish") >= 1);
}

#[tokio::test]
async fn a_container_that_cannot_run_backs_off_like_one_that_crashes() {
    let hooks = json!({"postStart": {"exec": {"command": ["begin"]}}});
    let stage = Stage::new(vec![]).await;
    stage.runtime.exec_answers("begin", 1);
    stage.want(vec![pod(json!({"containers": [{"name": "c", "lifecycle": hooks}]}))]);
    stage.until("refused", |view| waits(view, "c", "PostStartHookError")).await;
    let backs_off = |view: &PodView| waits(view, "c", "CrashLoopBackOff");
    let view = stage.until("backs off", backs_off).await;
    assert!(container(&view, "c").unwrap().restart_count >= 1);
}

#[tokio::test]
async fn a_hanging_post_start_does_not_keep_a_pod_from_ending() {
    let hooks = json!({"postStart": {"exec": {"command": ["hang"]}}});
    let stage = Stage::new(vec![]).await;
    stage.runtime.hang("ExecSync hang");
    stage.want(vec![pod(json!({"containers": [{"name": "c", "lifecycle": hooks}, {"name": "d"}]}))]);
    stage.runtime.until("in the hook", |runtime| runtime.count("ExecSync hang") == 1).await;
    let view = stage.until("known", |_| true).await;
    assert!(!runs(&view, "c"), "it is shown once its hook is through");
    assert_eq!(stage.runtime.count("CreateContainer d"), 0, "the next one waits for the hook");
    stage.want(vec![]);
    stage.until_gone("u-1").await;
}

#[tokio::test]
async fn sidecars_start_before_and_stop_after_the_others() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "c"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    stage.until("i runs beside s", |view| runs(view, "s") && runs(view, "i")).await;
    stage.runtime.exit("i", 0);
    stage.until("ready", ready).await;
    stage.want(vec![]);
    stage.until_gone("u-1").await;
    let stops: Vec<_> = stage.runtime.calls().into_iter().filter(|call| call.starts_with("StopContainer")).collect();
    assert_eq!(stops, ["StopContainer c", "StopContainer s"]);
}

#[tokio::test]
async fn a_deadline_ends_the_pod_as_failed() {
    let spec = json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    let view = stage.until("failed", |view| phase(view) == "Failed").await;
    assert_eq!(view.status.reason.as_deref(), Some("DeadlineExceeded"));
    assert!(stage.runtime.running("c").is_none());
}

#[tokio::test]
async fn stopping_all_ends_everything_and_starts_nothing_more() {
    let mut other = pod(json!({"containers": [{"name": "d"}]}));
    other.metadata.uid = Some("u-2".into());
    other.metadata.name = Some("other".into());
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]})), other]).await;
    stage.until("ready", ready).await;
    stage.until_of("u-2", "ready", ready).await;
    let handle = stage.node.as_ref().unwrap().handle();
    tokio::time::timeout(Duration::from_secs(10), handle.stop_all()).await.expect("an end");
    assert!(handle.views.borrow().is_empty() && stage.runtime.is_empty());
}

#[tokio::test]
async fn a_stopped_pod_stays_away_until_its_manifest_changes() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("ready", ready).await;
    let handle = stage.node.as_ref().unwrap().handle();
    handle.stop_pod(&crate::names::ObjectName::new("shop", "web"), None).await.unwrap();
    assert!(handle.views.borrow().is_empty() && stage.runtime.is_empty());
    stage.want(vec![pod(json!({"containers": [{"name": "c", "args": ["x"]}]}))]);
    stage.until("ready", ready).await;
}

#[tokio::test]
async fn one_stuck_pod_holds_up_no_other() {
    let mut other = pod(json!({"containers": [{"name": "d"}]}));
    other.metadata.uid = Some("u-2".into());
    other.metadata.name = Some("other".into());
    let stage = Stage::new(vec![]).await;
    stage.runtime.hang("CreateContainer c");
    stage.want(vec![pod(json!({"containers": [{"name": "c"}]})), other]);
    stage.until_of("u-2", "ready", ready).await;
    stage.runtime.let_go("CreateContainer c");
    stage.until("ready", ready).await;
}

#[tokio::test]
async fn a_disk_that_takes_nothing_begins_nothing_and_keeps_nothing_running() {
    let stage = Stage::new(vec![pod(json!({"containers": [{"name": "c"}]}))]).await;
    stage.until("ready", ready).await;
    // A directory where the memory's next file would go refuses every write.
    let next = stage.dir.path().join("kubelet/pods/u-1/longshore.json.next");
    std::fs::create_dir(&next).unwrap();
    stage.want(vec![]);
    stage.runtime.until("stopped", |runtime| runtime.count("StopContainer c") == 1).await;
    let pods = stage.dir.path().join("kubelet/pods/u-2/longshore.json.next");
    std::fs::create_dir_all(&pods).unwrap();
    let mut other = pod(json!({"containers": [{"name": "d"}]}));
    other.metadata.uid = Some("u-2".into());
    other.metadata.name = Some("other".into());
    stage.want(vec![other]);
    stage.until_of("u-2", "known", |_| true).await;
    assert_eq!(stage.runtime.count("RunPodSandbox other"), 0);
    std::fs::remove_dir(&pods).unwrap();
    stage.until_of("u-2", "ready", ready).await;
}

fn sized(cpu: &str, memory: &str) -> serde_json::Value {
    json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu, "memory": memory}}}, {"name": "d"}]})
}

#[tokio::test]
async fn a_resize_is_made_without_a_restart() {
    let stage = Stage::new(vec![pod(sized("1", "64Mi"))]).await;
    let before = stage.until("ready", ready).await;
    stage.want(vec![pod(sized("2", "128Mi"))]);
    let limit = |view: &PodView| {
        let resources = container(view, "c").and_then(|c| c.resources.clone())?.limits?;
        Some(resources["memory"].0.clone())
    };
    let after = stage.until("resized", |view| limit(view).as_deref() == Some("128Mi")).await;
    let id = |view: &PodView| container(view, "c").unwrap().container_id.clone();
    assert_eq!(id(&before), id(&after));
    let updates: Vec<_> = stage.runtime.calls().into_iter().filter(|call| call.starts_with("Update")).collect();
    assert_eq!(updates, ["UpdateContainerResources c memory 134217728", "UpdateContainerResources c quota 200000"]);
    let events = stage.events().join("\n");
    assert!(
        events.contains("ResizeStarted: Pod resize started: {\"containers\":[") && events.contains("ResizeCompleted")
    );
    // A mebibyte is in use: less cannot be had, and says so until the manifest is right again.
    stage.want(vec![pod(sized("2", "512Ki"))]);
    let in_progress = |view: &PodView| {
        let conditions = view.status.conditions.iter().flatten();
        conditions.into_iter().find(|c| c.type_ == "PodResizeInProgress").cloned()
    };
    let refused = |view: &PodView| in_progress(view).is_some_and(|c| c.reason.as_deref() == Some("Error"));
    let view = stage.until("refused", refused).await;
    assert_eq!(
        in_progress(&view).unwrap().message.as_deref(),
        Some(
            "cannot decrease memory limits: attempting to set container \"c\" memory limit (524288) below current usage (1048576)"
        )
    );
    assert_eq!(limit(&view).as_deref(), Some("128Mi"), "what it has is what is told");
    stage.want(vec![pod(sized("2", "128Mi"))]);
    stage.until("as before", |view| in_progress(view).is_none()).await;
}

#[tokio::test]
async fn a_resize_that_was_put_off_is_made_as_soon_as_another_pod_leaves_room() {
    let of_another = |cpu: &str| {
        let mut other = pod(sized(cpu, "64Mi"));
        other.metadata.uid = Some("u-2".into());
        other.metadata.name = Some("other".into());
        other
    };
    let room = Allocatable { cpu_millis: 3_000, ..Allocatable::default() };
    let stage = Stage::with_room(room, vec![pod(sized("1", "64Mi")), of_another("2")]).await;
    stage.until_of("u-2", "ready", ready).await;
    stage.until("ready", ready).await;
    stage.want(vec![pod(sized("2", "64Mi")), of_another("2")]);
    let deferred = |view: &PodView| {
        let mut conditions = view.status.conditions.iter().flatten();
        conditions.any(|c| c.type_ == "PodResizePending" && c.reason.as_deref() == Some("Deferred"))
    };
    stage.until("deferred", deferred).await;
    stage.want(vec![pod(sized("2", "64Mi")), of_another("1")]);
    stage.until("granted", |view| !deferred(view)).await;
    stage.want(vec![pod(sized("3", "64Mi")), of_another("1")]);
    stage.until("deferred again", deferred).await;
    stage.want(vec![pod(sized("3", "64Mi"))]);
    stage.until("granted again", |view| !deferred(view)).await;
}

#[tokio::test]
async fn a_status_says_which_change_of_the_spec_it_knows_and_counts_on_after_a_restart() {
    let wanted = |cpu: &str| {
        let mut pod = pod(sized(cpu, "64Mi"));
        pod.metadata.generation = Some(1);
        pod
    };
    let observed = |number: i64| move |view: &PodView| view.status.observed_generation == Some(number) && ready(view);
    let mut stage = Stage::new(vec![wanted("1")]).await;
    stage.until("first", observed(1)).await;
    stage.want(vec![wanted("2")]);
    let view = stage.until("second", observed(2)).await;
    assert!(view.status.conditions.iter().flatten().all(|condition| condition.observed_generation == Some(2)));
    stage.end().await;
    stage.begin().await;
    stage.until("the same after a restart", observed(2)).await;
    stage.end().await;
    stage.want(vec![wanted("3")]);
    stage.begin().await;
    stage.until("a change while nobody looked", observed(3)).await;
}

#[tokio::test]
async fn an_ephemeral_container_joins_a_running_pod() {
    let spec = json!({"containers": [{"name": "c"}]});
    let stage = Stage::new(vec![pod(spec.clone())]).await;
    stage.until("ready", ready).await;
    let mut looked_into = spec;
    looked_into["ephemeralContainers"] = json!([{"name": "e", "image": "busybox:1", "targetContainerName": "c"}]);
    stage.want(vec![pod(looked_into)]);
    let told = |view: &PodView| view.status.ephemeral_container_statuses.clone().unwrap_or_default();
    let state = |view: &PodView| told(view).first().and_then(|status| status.state.clone());
    stage.until("e runs", |view| state(view).is_some_and(|state| state.running.is_some())).await;
    stage.runtime.exit("e", 3);
    let view = stage.until("e is over", |view| state(view).is_some_and(|state| state.terminated.is_some())).await;
    assert!(ready(&view) && !told(&view)[0].ready);
    assert_eq!(stage.runtime.count("StartContainer e"), 1);
}

#[tokio::test]
async fn one_end_takes_all_containers_with_it_and_all_come_back() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "b"}]});
    let stage = Stage::new(vec![pod(spec)]).await;
    stage.until("i runs", |view| runs(view, "i")).await;
    stage.runtime.exit("i", 0);
    stage.until("ready", ready).await;
    stage.runtime.exit("a", 42);
    let view = stage.until("i runs again", |view| runs(view, "i")).await;
    assert!(!runs(&view, "b"));
    stage.runtime.exit("i", 0);
    let view = stage.until("ready again", ready).await;
    for name in ["i", "a", "b"] {
        let status = container(&view, name).unwrap();
        assert_eq!(status.restart_count, 1, "{name}");
    }
    assert_eq!(stage.runtime.count("RunPodSandbox web"), 1);
}

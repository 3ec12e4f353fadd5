//! A pod as people see it: what `ps`, the live table and the proxy read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use tokio::sync::watch;

use crate::names::PodUid;

/// One pod with its newest status.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The pod as wanted, defaults applied.
    pub pod: Arc<Pod>,
    /// The status as computed by `pods::status`.
    pub status: PodStatus,
    /// From the moment the pod was first wanted to all of its containers running; `None` until then.
    pub started_in: Option<Duration>,
    /// The pod is on its way out.
    pub stopping: bool,
}

impl PodView {
    /// The status of a container, of whatever kind.
    pub fn container(&self, name: &str) -> Option<&ContainerStatus> {
        let status = &self.status;
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        lists.into_iter().filter_map(Option::as_deref).flatten().find(|container| container.name == name)
    }

    /// The runtime's id of a container that runs.
    pub fn running(&self, name: &str) -> Option<String> {
        let status = self.container(name)?;
        status.state.as_ref()?.running.as_ref()?;
        status.container_id.as_deref()?.split_once("://").map(|(_, id)| id.to_owned())
    }
}

/// All pods, whole, whenever one of them changes.
pub type PodViews = watch::Receiver<Arc<BTreeMap<PodUid, PodView>>>;

/// One line of `longshore ps`, in the words `kubectl get pods` uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `namespace/name`.
    pub name: String,
    /// Ready and all containers, as `1/2`; started sidecars count.
    pub ready: String,
    /// Phase, or the reason that says more.
    pub status: String,
    /// Restarts of all containers.
    pub restarts: i64,
    /// When the newest of those restarts was, if there was one.
    pub last_restart: Option<Timestamp>,
    /// First address of the pod.
    pub address: Option<String>,
    /// When the pod was first seen.
    pub since: Option<Timestamp>,
}

impl Row {
    /// Sums a pod up.
    pub fn of(pod: &Pod, status: &PodStatus, stopping: bool) -> Self {
        let name = |field: &Option<String>| field.clone().unwrap_or_default();
        let containers = Containers::of(pod, status);
        Self {
            name: format!("{}/{}", name(&pod.metadata.namespace), name(&pod.metadata.name)),
            ready: format!("{}/{}", containers.ready, containers.total),
            status: if stopping { "Terminating".into() } else { containers.word(status) },
            restarts: containers.restarts,
            last_restart: containers.last_restart,
            address: status.pod_ip.clone(),
            since: status.start_time.as_ref().map(|time| time.0),
        }
    }
}

/// What the containers of a pod add up to.
struct Containers<'a> {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    /// The first init container that is neither done nor a started sidecar, with its place.
    initialising: Option<(usize, &'a ContainerStatus)>,
    inits: usize,
    regular: &'a [ContainerStatus],
}

impl<'a> Containers<'a> {
    fn of(pod: &Pod, status: &'a PodStatus) -> Self {
        let spec = pod.spec.as_ref();
        let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
        let is_sidecar =
            |name: &str| inits.iter().any(|init| init.name == name && init.restart_policy.as_deref() == Some("Always"));
        let init_statuses = status.init_container_statuses.as_deref().unwrap_or_default();
        let regular = status.container_statuses.as_deref().unwrap_or_default();
        let sidecars: Vec<_> = init_statuses.iter().filter(|status| is_sidecar(&status.name)).collect();
        let all = || regular.iter().chain(init_statuses);
        Self {
            ready: regular.iter().chain(sidecars.iter().copied()).filter(|container| container.ready).count(),
            total: spec.map_or(0, |spec| spec.containers.len()) + sidecars.len(),
            restarts: all().map(|container| i64::from(container.restart_count)).sum(),
            last_restart: all().filter_map(last_finish).max(),
            initialising: init_statuses.iter().enumerate().find(|(_, container)| {
                let done = terminated(container).is_some_and(|end| end.exit_code == 0);
                let started_sidecar = is_sidecar(&container.name) && container.started == Some(true);
                !done && !started_sidecar
            }),
            inits: inits.len(),
            regular,
        }
    }

    fn word(&self, status: &PodStatus) -> String {
        let phase = status.reason.clone().or_else(|| status.phase.clone()).unwrap_or_else(|| "Pending".into());
        if let Some((place, container)) = self.initialising
            && phase != "Succeeded"
        {
            return self.init_word(place, container);
        }
        let mut telling = self.regular.iter().filter_map(|container| {
            let state = container.state.as_ref()?;
            let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
            waiting.or_else(|| state.terminated.as_ref().map(end_word))
        });
        let running = self.regular.iter().any(|container| container.ready && is_running(container));
        match telling.next() {
            Some(word) if word == "Completed" && running => "Running".into(),
            Some(word) => word,
            None => phase,
        }
    }

    fn init_word(&self, place: usize, container: &ContainerStatus) -> String {
        let state = container.state.as_ref();
        let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
        match (terminated(container), waiting) {
            (Some(end), _) => format!("Init:{}", end_word(end)),
            (None, Some(reason)) if reason != "PodInitializing" && reason != "ContainerCreating" => {
                format!("Init:{reason}")
            }
            _ => format!("Init:{place}/{}", self.inits),
        }
    }
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn is_running(container: &ContainerStatus) -> bool {
    container.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn last_finish(container: &ContainerStatus) -> Option<Timestamp> {
    container.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
}

fn end_word(end: &ContainerStateTerminated) -> String {
    match (&end.reason, end.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.clone(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", end.exit_code),
    }
}

/// A length of time as `kubectl` prints ages: two units at most, fewer as it grows.
pub fn human(length: Duration) -> String {
    let s = length.as_secs();
    let two = |big: u64, unit: char, small: u64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => two(s / 60, 'm', s % 60, 's'),
        600..10_800 => format!("{}m", s / 60),
        10_800..28_800 => two(s / 3_600, 'h', s % 3_600 / 60, 'm'),
        28_800..172_800 => format!("{}h", s / 3_600),
        172_800..691_200 => two(s / 86_400, 'd', s % 86_400 / 3_600, 'h'),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(spec: Value, status: Value) -> Row {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap();
        Row::of(&pod, &serde_json::from_value(status).unwrap(), false)
    }

    fn one() -> Value {
        json!({"containers": [{"name": "a"}]})
    }

    fn state(ready: bool, restarts: i32, state: Value) -> Value {
        json!({"name": "a", "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state})
    }

    #[test]
    fn a_pod_says_the_most_telling_word() {
        let word = |container: Value| row(one(), json!({"phase": "Running", "containerStatuses": [container]})).status;
        assert_eq!(word(state(true, 0, json!({"running": {}}))), "Running");
        assert_eq!(word(state(false, 3, json!({"waiting": {"reason": "CrashLoopBackOff"}}))), "CrashLoopBackOff");
        assert_eq!(word(state(false, 0, json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}))), "OOMKilled");
        assert_eq!(word(state(false, 0, json!({"terminated": {"exitCode": 3}}))), "ExitCode:3");
        assert_eq!(word(state(false, 0, json!({"terminated": {"exitCode": 0, "signal": 9}}))), "Signal:9");
    }

    #[test]
    fn an_init_container_that_runs_is_counted() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let init = |name: &str, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let status = json!({"phase": "Pending", "initContainerStatuses": [
            init("i", json!({"terminated": {"exitCode": 0}})), init("j", json!({"running": {}}))]});
        assert_eq!(row(spec.clone(), status).status, "Init:1/2");
        let status = json!({"phase": "Pending", "initContainerStatuses": [
            init("i", json!({"terminated": {"exitCode": 1, "reason": "Error"}}))]});
        assert_eq!(row(spec, status).status, "Init:Error");
    }

    #[test]
    fn restarts_add_up_and_the_newest_is_told() {
        let container = json!({"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 2,
            "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-02T03:04:05Z"}}});
        let row = row(one(), json!({"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [container]}));
        assert_eq!((row.ready.as_str(), row.restarts, row.address.as_deref()), ("1/1", 2, Some("10.0.0.7")));
        assert_eq!(row.last_restart.unwrap().to_string(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 59, 119, 120, 187, 600, 10_799, 10_800, 11_000, 90_000, 200_000, 1_000_000];
        let words: Vec<_> = ages.into_iter().map(|s| human(Duration::from_secs(s))).collect();
        assert_eq!(words.join(" "), "0s 59s 119s 2m 3m7s 10m 179m 3h 3h3m 25h 2d7h 11d");
    }
}

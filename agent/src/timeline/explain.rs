use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};
use serde::{Deserialize, Serialize};

use super::{Entry, Timeline, Wait, Work};
use crate::events::{About, Event};
use crate::images::with_default_tag;
use crate::names::{ObjectName, PodUid};
use crate::pods::roles;
use crate::view::{PodView, Row};

/// How many of a pod's events are told: what is older is in `longshore events`.
const EVENTS: usize = 16;

/// Everything there is to say about one pod: `GET /v1/explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Namespace and name.
    pub pod: ObjectName,
    /// Uid.
    pub uid: PodUid,
    /// The word that `longshore ps` shows.
    pub status: String,
    /// Ready and all containers, as `1/2`.
    pub ready: String,
    /// `status.reason` and `status.message`, where the whole pod has them.
    pub why: Option<String>,
    /// Restarts of all containers.
    pub restarts: i64,
    /// When this run of the agent began.
    pub agent_started: Timestamp,
    /// When the agent began with the pod; this run of it, where nothing is known of a former one.
    pub since: Timestamp,
    /// The pod was left by a former run of the agent.
    pub adopted: bool,
    /// From wanted to all containers running, milliseconds.
    pub started_in_ms: Option<u64>,
    /// What was tried, oldest first.
    pub steps: Vec<Entry>,
    /// How many steps in the middle are no longer known.
    pub steps_forgotten: u64,
    /// Each container as it is.
    pub containers: Vec<ContainerLine>,
    /// What is awaited now, and why.
    pub awaits: Vec<Wait>,
    /// The newest events of the pod.
    pub events: Vec<Event>,
    /// What is wrong with the pod's manifest now; the pod runs as it was before.
    pub problems: Vec<String>,
}

/// One container as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLine {
    /// Its name.
    pub name: String,
    /// It runs before the regular ones.
    pub init: bool,
    /// Its state, with reason, message and times.
    pub state: String,
    /// How the instance before ended, if there was one.
    pub before: Option<String>,
    /// How often it was restarted.
    pub restarts: i32,
}

/// What is known of a pod in different places.
pub struct Known<'a> {
    /// Its name.
    pub pod: ObjectName,
    /// Its uid.
    pub uid: PodUid,
    /// Spec and status.
    pub view: &'a PodView,
    /// What was tried.
    pub timeline: Timeline,
    /// When this run of the agent began.
    pub agent_started: Timestamp,
    /// All events, oldest first.
    pub events: Vec<Event>,
    /// What is wrong with its manifest.
    pub problems: Vec<String>,
    /// Pulls that run: the image, bytes that are here, bytes there are (0 where nobody knows yet).
    pub pulls: Vec<(String, u64, u64)>,
}

/// Joins what is known. Pure.
pub fn explain(known: Known<'_>, now: Timestamp) -> Explanation {
    let Known { pod, uid, view, timeline, agent_started, events, problems, pulls } = known;
    let row = Row::of(&view.pod, &view.status, view.stopping);
    let of_this = |event: &Event| matches!(&event.about, About::Pod { uid: of, .. } if *of == uid);
    let mut events: Vec<_> = events.into_iter().filter(of_this).collect();
    events.drain(..events.len().saturating_sub(EVENTS));
    let mut awaits = under_way(&timeline, view, &pulls, now);
    awaits.extend(timeline.waits);
    if awaits.is_empty() {
        awaits.push(Wait::new("nothing", settled(view), None));
    }
    let why = [&view.status.reason, &view.status.message].into_iter().flatten().cloned().collect::<Vec<_>>();
    Explanation {
        pod,
        uid,
        status: row.status,
        ready: row.ready,
        why: (!why.is_empty()).then(|| why.join(": ")),
        restarts: row.restarts,
        agent_started,
        since: timeline.since,
        adopted: timeline.adopted,
        started_in_ms: view.started_in.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        steps: timeline.entries.into(),
        steps_forgotten: timeline.forgotten,
        containers: containers(view),
        awaits,
        events,
        problems,
    }
}

fn settled(view: &PodView) -> &'static str {
    match view.status.phase.as_deref() {
        Some("Succeeded" | "Failed") => "the pod has ended; it starts again when its manifest changes",
        Some("Running") => "all containers run and are ready",
        _ => "the agent has just begun with the pod",
    }
}

fn under_way(timeline: &Timeline, view: &PodView, pulls: &[(String, u64, u64)], now: Timestamp) -> Vec<Wait> {
    let open = timeline.entries.iter().filter(|entry| entry.outcome.is_none());
    open.map(|entry| {
        let ms = now.duration_since(entry.began).as_millis().max(0);
        let so_far = if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", ms / 1_000) };
        let since = entry.began.strftime("%H:%M:%S");
        let far = pulled(entry, view, pulls).unwrap_or_else(|| doing(entry.work).to_owned());
        Wait::new(title(entry), format!("{far}; in progress since {since} ({so_far})"), None)
    })
    .collect()
}

/// How far the pull of the entry's image is, if that is what the entry is busy with.
fn pulled(entry: &Entry, view: &PodView, pulls: &[(String, u64, u64)]) -> Option<String> {
    let name = entry.of.as_deref().filter(|_| entry.work == Work::Image)?;
    let image = roles::member(&view.pod, name)?.container.image.clone()?;
    let (_, done, all) = pulls.iter().find(|(pulled, ..)| *pulled == with_default_tag(&image))?;
    Some(match all {
        0 => format!("image pull of {image:?}: the registry has not told its size yet"),
        all => format!("image pull of {image:?}: {done} of {all} bytes"),
    })
}

/// What a step is about, such as `image of main`.
pub(crate) fn title(entry: &Entry) -> String {
    let of = entry.of.as_deref().unwrap_or_default();
    match entry.work {
        Work::Volumes => "volumes".into(),
        Work::Refresh => "volumes' contents".into(),
        Work::Image => format!("image of {of}"),
        Work::Sandbox => "sandbox".into(),
        Work::StopSandbox => "old sandbox".into(),
        Work::Container => format!("start of {of}"),
        Work::Resize => "resize".into(),
        Work::PreStop => format!("preStop of {of}"),
        Work::Stop => format!("stop of {of}"),
        Work::GiveBack => format!("giving back {of}"),
    }
}

fn doing(work: Work) -> &'static str {
    match work {
        Work::Volumes => "directories and volumes are made and mounted",
        Work::Refresh => "their contents follow changed objects",
        Work::Image => "it is looked for, and pulled where the policy says so",
        Work::Sandbox => "namespaces, network and address are made",
        Work::StopSandbox => "it is stopped before another one is made",
        Work::Container => "it is made and started, and its postStart hook runs if it has one",
        Work::Resize => "limits of running containers are changed",
        Work::PreStop => "the hook runs until the grace period is over",
        Work::Stop => "it was asked to end, and is killed when the grace period is over",
        Work::GiveBack => "it is taken down for good",
    }
}

fn containers(view: &PodView) -> Vec<ContainerLine> {
    let status = &view.status;
    let lists = [
        (true, &status.init_container_statuses),
        (false, &status.container_statuses),
        (false, &status.ephemeral_container_statuses),
    ];
    let all = lists.into_iter().flat_map(|(init, list)| list.iter().flatten().map(move |one| (init, one)));
    all.map(|(init, one)| line(init, one)).collect()
}

fn line(init: bool, container: &ContainerStatus) -> ContainerLine {
    let mut state = container.state.as_ref().map(state).unwrap_or_default();
    let runs = container.state.as_ref().is_some_and(|state| state.running.is_some());
    if runs && !init {
        state.push_str(if container.ready { ", ready" } else { ", not ready" });
    }
    ContainerLine {
        name: container.name.clone(),
        init,
        state,
        before: container.last_state.as_ref().filter(|last| last.terminated.is_some()).map(self::state),
        restarts: container.restart_count,
    }
}

fn state(state: &ContainerState) -> String {
    let with = |word: &str, message: &Option<String>| match message.as_deref().map(str::trim) {
        Some(message) if !message.is_empty() => format!("{word}: {message}"),
        _ => word.to_owned(),
    };
    if let Some(running) = &state.running {
        let since = running.started_at.as_ref().map(|at| format!(" since {}", at.0.strftime("%H:%M:%S")));
        return format!("running{}", since.unwrap_or_default());
    }
    if let Some(end) = &state.terminated {
        let at = end.finished_at.as_ref().map(|at| format!(" at {}", at.0.strftime("%H:%M:%S"))).unwrap_or_default();
        let reason = end.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        return with(&format!("exited {}{reason}{at}", end.exit_code), &end.message);
    }
    let waiting = state.waiting.clone().unwrap_or_default();
    with(&format!("waiting {}", waiting.reason.as_deref().unwrap_or("to be started")), &waiting.message)
}

//! `GET /v1/top`: what containers use, as counters: whoever asks twice knows the rate. Nothing is measured in between.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use cri_proto::{Deadline, v1};
use serde::{Deserialize, Serialize};

use super::{PodRow, Refusal, Surface};
use crate::container::labels;
use crate::events::{About, Event};
use crate::names::PodUid;
use crate::timeline::Work;

/// Reading some files for each container.
const WITHIN: Duration = Duration::from_secs(10);

/// Pods with what their containers use.
#[derive(Debug, Serialize, Deserialize)]
pub struct Top {
    /// In no order.
    pub pods: Vec<TopPod>,
}

/// One pod.
#[derive(Debug, Serialize, Deserialize)]
pub struct TopPod {
    /// With its status.
    pub row: PodRow,
    /// By container name; only what runs.
    pub used: BTreeMap<String, Used>,
    /// The newest event.
    pub event: Option<Event>,
    /// What its start was spent on, in the order of a start: kinds of steps, microseconds.
    #[serde(default)]
    pub phases: Vec<(Work, u64)>,
}

/// What a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// When this was read, nanoseconds since 1970.
    pub at_ns: i64,
    /// All cpu time so far, nanoseconds of one core.
    pub cpu_ns: u64,
    /// Memory that cannot be taken back from it, bytes.
    pub memory: u64,
}

pub(super) async fn list(State(surface): State<Surface>) -> Result<Json<Top>, Refusal> {
    let request = v1::ListContainerStatsRequest { filter: None };
    let answer = surface.runtime.list_container_stats(request, Deadline::within(WITHIN)).await;
    let mut used = by_pod(answer.map_err(|error| Refusal::failed(&error))?.stats);
    let mut events = newest(surface.recorder.recent());
    let views = surface.views.borrow().clone();
    let pods = views.iter().map(|(uid, view)| TopPod {
        row: PodRow::from(view),
        used: used.remove(uid.as_str()).unwrap_or_default(),
        event: events.remove(uid),
        phases: view.started_in.map(|took| phases(&surface, uid, took)).unwrap_or_default(),
    });
    Ok(Json(Top { pods: pods.collect() }))
}

fn phases(surface: &Surface, uid: &PodUid, started_in: Duration) -> Vec<(Work, u64)> {
    let timeline = surface.timelines.of(uid);
    timeline.map(|timeline| timeline.phases(started_in)).unwrap_or_default()
}

fn newest(events: Vec<Event>) -> BTreeMap<PodUid, Event> {
    let of_pod = |event: Event| match &event.about {
        About::Pod { uid, .. } => Some((uid.clone(), event)),
        _ => None,
    };
    events.into_iter().filter_map(of_pod).collect()
}

fn by_pod(stats: Vec<v1::ContainerStats>) -> BTreeMap<String, BTreeMap<String, Used>> {
    let mut pods: BTreeMap<String, BTreeMap<String, Used>> = BTreeMap::new();
    for one in stats {
        let attributes = one.attributes.unwrap_or_default();
        let Some(uid) = attributes.labels.get(labels::POD_UID) else { continue };
        let Some(name) = attributes.metadata.map(|metadata| metadata.name) else { continue };
        let (cpu, memory) = (one.cpu.unwrap_or_default(), one.memory.unwrap_or_default());
        let used = Used {
            at_ns: cpu.timestamp,
            cpu_ns: cpu.usage_core_nano_seconds.map_or(0, |value| value.value),
            memory: memory.working_set_bytes.map_or(0, |value| value.value),
        };
        pods.entry(uid.clone()).or_default().insert(name, used);
    }
    pods
}

//! What steps and starts add up to, for `/metrics`. Names without `longshore_` are the kubelet's (`pkg/kubelet/metrics`).

use std::time::Duration;

use super::{Entry, Outcome, Work};
use crate::metrics::{Figures, Metric, exponential};

const STEP: Metric = Metric::histogram(
    "longshore_pod_step_duration_seconds",
    "How long steps of pods took: the phases of a start, and what follows.",
    || exponential(0.001, 2.0, 16),
);
const SYNC: Metric = Metric::histogram(
    "kubelet_pod_worker_duration_seconds",
    "How long a worker took to look at its pod, to decide and to remember.",
    || exponential(0.001, 2.0, 14),
);
const START: Metric = Metric::histogram(
    "kubelet_pod_start_duration_seconds",
    "From the moment a pod was first wanted to all of its containers running.",
    starts,
);
const START_SLI: Metric =
    Metric::histogram("kubelet_pod_start_sli_duration_seconds", "The same without the time that images took.", starts);
const PODS: Metric = Metric::counter("kubelet_started_pods_total", "Sandboxes of pods that were to be started.");
const PODS_FAILED: Metric = Metric::counter("kubelet_started_pods_errors_total", "Those of them that failed.");
const CONTAINERS: Metric = Metric::counter("kubelet_started_containers_total", "Containers that were to be started.");
const CONTAINERS_FAILED: Metric =
    Metric::counter("kubelet_started_containers_errors_total", "Those of them that failed, by reason.");

/// The kubelet's own bounds begin at half a second: those before them are where starts are here.
fn starts() -> Vec<f64> {
    let small = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25];
    let theirs = [0.5, 1., 2., 3., 4., 5., 6., 8., 10., 20., 30., 45., 60., 120., 180., 240., 300., 360., 480., 600.];
    small.into_iter().chain(theirs).chain([900., 1_200., 1_800., 2_700., 3_600.]).collect()
}

/// A step ended.
pub(super) fn step(figures: &Figures, ended: &Entry) {
    let (came_out, reason) = match &ended.outcome {
        Some(Outcome::Done) => ("ok", None),
        Some(Outcome::Failed { reason, .. }) => ("failed", Some(reason.as_str())),
        Some(Outcome::CutOff) | None => ("cut_off", None),
    };
    let took = ended.ended.map(|end| end.duration_since(ended.began)).unwrap_or_default();
    let labels = [("step", ended.work.word()), ("outcome", came_out)];
    figures.took(STEP, &labels, Duration::try_from(took).unwrap_or_default());
    match (ended.work, reason) {
        (Work::Sandbox, reason) => {
            figures.add(PODS, &[], 1.0);
            figures.add(PODS_FAILED, &[], f64::from(u8::from(reason.is_some())));
        }
        (Work::Container, reason) => {
            figures.add(CONTAINERS, &[], 1.0);
            if let Some(reason) = reason {
                figures.add(CONTAINERS_FAILED, &[("code", reason)], 1.0);
            }
        }
        _ => {}
    }
}

/// A pod's containers run.
pub(super) fn start(figures: &Figures, took: Duration, images: Duration) {
    figures.took(START, &[], took);
    figures.took(START_SLI, &[], took.saturating_sub(images));
}

/// A pass of a worker.
pub(super) fn sync(figures: &Figures, is_ending: bool, took: Duration) {
    figures.took(SYNC, &[("operation_type", if is_ending { "kill" } else { "sync" })], took);
}

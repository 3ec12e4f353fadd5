//! What probes found, for `/metrics/probes`, under the kubelet's names (`pkg/kubelet/prober`). They go with their pod.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ProbeKind;
use super::attempt::Found;
use crate::metrics::{Exposition, Histogram, Kind, written};
use crate::names::{ObjectName, PodUid};

/// Prometheus' own: the kubelet names none.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One pod's, by container and kind of probe.
#[derive(Debug, Default)]
pub(super) struct PodFigures(BTreeMap<(String, ProbeKind), Counts>);

#[derive(Debug)]
struct Counts {
    successful: u64,
    failed: u64,
    unknown: u64,
    took: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self { successful: 0, failed: 0, unknown: 0, took: Histogram::new(BOUNDS.to_vec()) }
    }
}

impl PodFigures {
    /// An attempt has ended.
    pub(super) fn add(&mut self, container: &str, kind: ProbeKind, found: &Found, took: Duration) {
        let counts = self.0.entry((container.to_owned(), kind)).or_default();
        match found {
            Found::Success | Found::Warning(_) => counts.successful += 1,
            Found::Failure(_) => counts.failed += 1,
            Found::Error(_) | Found::Broken(_) => counts.unknown += 1,
        }
        // An attempt that could not be made took no time of the container's.
        if !matches!(found, Found::Error(_)) {
            counts.took.observe(took.as_secs_f64());
        }
    }
}

/// The whole text.
pub(super) fn text<'a>(pods: impl Iterator<Item = (&'a PodUid, &'a ObjectName, &'a PodFigures)> + Clone) -> String {
    let mut text = Exposition::default();
    let help = "How long attempts of probes took.";
    let mut family = text.family("prober_probe_duration_seconds", Kind::Histogram, help);
    for (_, pod, figures) in pods.clone() {
        for ((container, kind), counts) in &figures.0 {
            family.histogram(&written(&labels(container, pod, *kind)), &counts.took);
        }
    }
    let help = "Attempts of liveness, readiness and startup probes, by what they found.";
    let mut family = text.family("prober_probe_total", Kind::Counter, help);
    for (uid, pod, figures) in pods {
        for ((container, kind), counts) in &figures.0 {
            let found = [("failed", counts.failed), ("successful", counts.successful), ("unknown", counts.unknown)];
            for (result, count) in found.into_iter().filter(|(_, count)| *count > 0) {
                let more = [("pod_uid", uid.as_str()), ("result", result)];
                family.add(&[&labels(container, pod, *kind)[..], &more].concat(), count as f64);
            }
        }
    }
    text.finish()
}

fn labels<'a>(container: &'a str, pod: &'a ObjectName, kind: ProbeKind) -> [(&'a str, &'a str); 4] {
    [("container", container), ("namespace", &pod.namespace), ("pod", &pod.name), ("probe_type", kind.word())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn attempts_are_counted_by_what_they_found() {
        let (uid, pod) = (PodUid::try_from("u1".to_owned()).unwrap(), ObjectName::new("shop", "web"));
        let mut figures = PodFigures::default();
        figures.add("main", ProbeKind::Liveness, &Found::Success, Duration::from_millis(7));
        figures.add("main", ProbeKind::Liveness, &Found::Warning("redirected".into()), Duration::from_millis(30));
        figures.add("main", ProbeKind::Liveness, &Found::Failure("500".into()), Duration::from_secs(3));
        figures.add("main", ProbeKind::Liveness, &Found::Error("no shell".into()), Duration::from_secs(9));
        let text = text([(&uid, &pod, &figures)].into_iter());
        lint::check(&text);
        let own = r#"container="main",namespace="shop",pod="web",probe_type="Liveness""#;
        for line in [
            format!("prober_probe_total{{{own},pod_uid=\"u1\",result=\"successful\"}} 2"),
            format!("prober_probe_total{{{own},pod_uid=\"u1\",result=\"failed\"}} 1"),
            format!("prober_probe_total{{{own},pod_uid=\"u1\",result=\"unknown\"}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{own},le=\"0.01\"}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{own},le=\"+Inf\"}} 3"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

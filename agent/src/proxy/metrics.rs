//! What kube-proxy measures, under kube-proxy's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netfilter::Family;

/// The name of a family in labels and in bodies.
pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Clones share one set of figures.
#[derive(Clone, Default)]
pub(super) struct Metrics(Arc<Mutex<Figures>>);

/// Values by name and labels, in the order in which they are printed.
#[derive(Default)]
struct Figures {
    values: BTreeMap<(&'static str, String), (Kind, f64)>,
    histograms: BTreeMap<(&'static str, String), Histogram>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: Vec<f64>) -> Self {
        Self { counts: vec![0; bounds.len()], bounds, count: 0, sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            *count += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }
}

/// 15 buckets from a millisecond to 16 s.
fn sync_bounds() -> Vec<f64> {
    (0..15).map(|power| 0.001 * f64::from(1 << power)).collect()
}

/// From a quarter of a second to five minutes.
fn programming_bounds() -> Vec<f64> {
    let whole = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(whole.map(f64::from)).collect()
}

impl Metrics {
    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a counter.
    pub(super) fn add(&self, name: &'static str, labels: &str, more: f64) {
        let mut figures = self.figures();
        figures.values.entry((name, labels.to_owned())).or_insert((Kind::Counter, 0.0)).1 += more;
    }

    /// Sets a gauge.
    pub(super) fn set(&self, name: &'static str, labels: &str, value: f64) {
        self.figures().values.insert((name, labels.to_owned()), (Kind::Gauge, value));
    }

    /// How long something took that takes milliseconds.
    pub(super) fn took(&self, name: &'static str, labels: &str, time: Duration) {
        self.observe(name, labels, time, sync_bounds);
    }

    /// How long a change took from whoever made it to the kernel.
    pub(super) fn programmed(&self, labels: &str, time: Duration) {
        self.observe("kubeproxy_network_programming_duration_seconds", labels, time, programming_bounds);
    }

    fn observe(&self, name: &'static str, labels: &str, time: Duration, bounds: fn() -> Vec<f64>) {
        let mut figures = self.figures();
        let histogram = figures.histograms.entry((name, labels.to_owned()));
        histogram.or_insert_with(|| Histogram::new(bounds())).observe(time.as_secs_f64());
    }

    /// Everything in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let (figures, mut text, mut last) = (self.figures(), String::new(), "");
        for ((name, labels), (kind, value)) in &figures.values {
            let kind = if matches!(kind, Kind::Counter) { "counter" } else { "gauge" };
            header(&mut text, &mut last, name, kind);
            // Writing into a String does not fail.
            let _ = writeln!(text, "{name}{} {value}", braces(labels));
        }
        for ((name, labels), histogram) in &figures.histograms {
            header(&mut text, &mut last, name, "histogram");
            let comma = if labels.is_empty() { "" } else { "," };
            for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(text, "{name}_sum{} {}", braces(labels), histogram.sum);
            let _ = writeln!(text, "{name}_count{} {}", braces(labels), histogram.count);
        }
        text
    }
}

fn header(text: &mut String, last: &mut &'static str, name: &'static str, kind: &str) {
    if *last != name {
        let _ = writeln!(text, "# TYPE {name} {kind}");
        *last = name;
    }
}

fn braces(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn figures_are_printed_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.add("a_total", "", 1.0);
        metrics.add("a_total", "", 2.0);
        metrics.set("b", "ip_family=\"IPv4\"", 7.0);
        metrics.set("b", "ip_family=\"IPv6\"", 1.5);
        expect![[r#"
            # TYPE a_total counter
            a_total 3
            # TYPE b gauge
            b{ip_family="IPv4"} 7
            b{ip_family="IPv6"} 1.5
        "#]]
        .assert_eq(&metrics.text());
    }

    #[test]
    fn a_histogram_counts_upwards() {
        let metrics = Metrics::default();
        metrics.took("t", "ip_family=\"IPv4\"", Duration::from_millis(3));
        metrics.took("t", "ip_family=\"IPv4\"", Duration::from_secs(60));
        let text = metrics.text();
        for line in [
            "t_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0",
            "t_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
            "t_bucket{ip_family=\"IPv4\",le=\"16.384\"} 1",
            "t_bucket{ip_family=\"IPv4\",le=\"+Inf\"} 2",
            "t_sum{ip_family=\"IPv4\"} 60.003",
            "t_count{ip_family=\"IPv4\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(programming_bounds().len(), 2 + 59 + 12 + 7);
    }
}

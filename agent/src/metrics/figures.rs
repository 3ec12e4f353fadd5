use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Exposition, Histogram, Kind, Labels, written};

/// What is counted under one name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    bounds: fn() -> Vec<f64>,
}

impl Metric {
    /// Only ever grows.
    pub(crate) const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help, bounds: Vec::new }
    }

    /// Goes up and down.
    pub(crate) const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help, bounds: Vec::new }
    }

    /// How long something takes, in seconds.
    pub(crate) const fn histogram(name: &'static str, help: &'static str, bounds: fn() -> Vec<f64>) -> Self {
        Self { name, kind: Kind::Histogram, help, bounds }
    }
}

/// Figures that grow between scrapes, by metric and labels. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Arc<Mutex<BTreeMap<&'static str, Series>>>);

#[derive(Debug)]
struct Series {
    metric: Metric,
    values: BTreeMap<String, Value>,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Spread(Histogram),
}

impl Figures {
    /// Adds to a counter, or to a gauge.
    pub(crate) fn add(&self, metric: Metric, labels: Labels, more: f64) {
        self.add_written(metric, written(labels), more);
    }

    /// How long something took.
    pub(crate) fn took(&self, metric: Metric, labels: Labels, time: Duration) {
        self.took_written(metric, written(labels), time);
    }

    /// The same with labels as they stand between the braces.
    pub(crate) fn add_written(&self, metric: Metric, labels: String, more: f64) {
        self.change(metric, labels, |value| {
            if let Value::Number(number) = value {
                *number += more;
            }
        });
    }

    /// Sets a gauge; labels as they stand between the braces.
    pub(crate) fn set_written(&self, metric: Metric, labels: String, to: f64) {
        self.change(metric, labels, |value| *value = Value::Number(to));
    }

    /// How long something took; labels as they stand between the braces.
    pub(crate) fn took_written(&self, metric: Metric, labels: String, time: Duration) {
        self.change(metric, labels, |value| {
            if let Value::Spread(histogram) = value {
                histogram.observe(time.as_secs_f64());
            }
        });
    }

    fn change(&self, metric: Metric, labels: String, change: impl FnOnce(&mut Value)) {
        let fresh = || match metric.kind {
            Kind::Histogram => Value::Spread(Histogram::new((metric.bounds)())),
            Kind::Counter | Kind::Gauge => Value::Number(0.0),
        };
        let mut all = self.lock();
        let series = all.entry(metric.name).or_insert_with(|| Series { metric, values: BTreeMap::new() });
        change(series.values.entry(labels).or_insert_with(fresh));
    }

    /// Everything there is, by name.
    pub(crate) fn write(&self, text: &mut Exposition) {
        for Series { metric, values } in self.lock().values() {
            let mut family = text.family(metric.name, metric.kind, metric.help);
            for (labels, value) in values {
                match value {
                    Value::Number(number) => family.add_written(labels, *number),
                    Value::Spread(histogram) => family.histogram(labels, histogram),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Series>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::lint;
    use super::*;

    const COUNTED: Metric = Metric::counter("b_total", "How many.");
    const TOOK: Metric = Metric::histogram("a_seconds", "How long.", || vec![0.5, 1.0]);

    #[test]
    fn figures_are_shared_by_clones_and_written_by_name() {
        let figures = Figures::default();
        figures.clone().add(COUNTED, &[("kind", "a\"b")], 2.0);
        figures.add(COUNTED, &[("kind", "a\"b")], 1.0);
        for millis in [100, 700, 2_000] {
            figures.took(TOOK, &[], Duration::from_millis(millis));
        }
        let mut text = Exposition::default();
        figures.write(&mut text);
        let text = text.finish();
        lint::check(&text);
        expect![[r#"
            # HELP a_seconds How long.
            # TYPE a_seconds histogram
            a_seconds_bucket{le="0.5"} 1
            a_seconds_bucket{le="1"} 2
            a_seconds_bucket{le="+Inf"} 3
            a_seconds_sum 2.8
            a_seconds_count 3
            # HELP b_total How many.
            # TYPE b_total counter
            b_total{kind="a\"b"} 3
        "#]]
        .assert_eq(&text);
    }
}

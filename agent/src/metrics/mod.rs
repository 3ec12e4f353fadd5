//! Prometheus' text format (version 0.0.4), written in one place.
//!
//! A metric's `HELP` and `TYPE` come once, before its series; labels are escaped here and nowhere else.

mod figures;
mod histogram;
#[cfg(test)]
pub(crate) mod lint;

use std::fmt::Write as _;

use jiff::Timestamp;

pub(crate) use figures::{Figures, Metric};
pub(crate) use histogram::{Histogram, exponential};

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names and values.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

/// Labels as they stand between the braces.
pub(crate) fn written(labels: Labels) -> String {
    let mut text = String::new();
    for (index, (label, value)) in labels.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing into a String does not fail.
        let _ = write!(text, "{comma}{label}=\"");
        escape(value, &mut text);
        text.push('"');
    }
    text
}

/// A text that grows metric by metric.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// One metric's series.
pub(crate) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    kind: Kind,
    help: &'static str,
    begun: bool,
}

impl Exposition {
    /// The next metric; nothing is written of one that gets no series.
    pub(crate) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) -> Family<'_> {
        Family { text: &mut self.0, name, kind, help, begun: false }
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// One series.
    pub(crate) fn add(&mut self, labels: Labels, value: f64) {
        self.line("", &written(labels), value, None);
    }

    /// One series that was measured at a moment of its own.
    pub(crate) fn at(&mut self, labels: Labels, value: f64, at: Timestamp) {
        self.line("", &written(labels), value, Some(at));
    }

    /// One series whose labels were written before.
    fn add_written(&mut self, labels: &str, value: f64) {
        self.line("", labels, value, None);
    }

    /// The buckets, the sum and the count of one histogram.
    pub(crate) fn histogram(&mut self, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, count) in histogram.buckets() {
            self.line("_bucket", &format!("{labels}{comma}le=\"{bound}\""), count as f64, None);
        }
        self.line("_bucket", &format!("{labels}{comma}le=\"+Inf\""), histogram.count() as f64, None);
        self.line("_sum", labels, histogram.sum(), None);
        self.line("_count", labels, histogram.count() as f64, None);
    }

    fn line(&mut self, suffix: &str, labels: &str, value: f64, at: Option<Timestamp>) {
        let (name, text) = (self.name, &mut *self.text);
        // Writing into a String does not fail.
        if !self.begun {
            self.begun = true;
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", self.help, self.kind.word());
        }
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = write!(text, "{name}{suffix}{open}{labels}{close} {value}");
        if let Some(at) = at {
            let _ = write!(text, " {}", at.as_millisecond());
        }
        text.push('\n');
    }
}

fn escape(value: &str, into: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            other => into.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_metric_is_described_once_and_its_labels_are_escaped() {
        let mut text = Exposition::default();
        let mut used = text.family("used_bytes", Kind::Gauge, "What is used.");
        used.add(&[("name", "a\"b\\c\nd"), ("pod", "web")], 1.5);
        used.at(&[], 3.0, Timestamp::from_millisecond(1_500).unwrap());
        text.family("nothing_total", Kind::Counter, "What nobody counted.");
        let text = text.finish();
        lint::check(&text);
        expect![[r#"
            # HELP used_bytes What is used.
            # TYPE used_bytes gauge
            used_bytes{name="a\"b\\c\nd",pod="web"} 1.5
            used_bytes 3 1500
        "#]]
        .assert_eq(&text);
    }

    fn refused(text: &str, why: &str) {
        let text = text.to_owned();
        let said = std::panic::catch_unwind(move || lint::check(&text)).expect_err("it passes");
        let said = said.downcast_ref::<String>().expect("words").clone();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn the_lint_finds_what_promtool_would_refuse() {
        refused("a 1\n", "not with its metric");
        refused("# TYPE a gauge\na 1\n", "not described");
        refused("# HELP a x\n# TYPE a counter\na 1\n", "a counter's name");
        refused("# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", "only a counter");
        refused("# HELP a_milliseconds x\n# TYPE a_milliseconds gauge\na_milliseconds 1\n", "a base unit");
        refused("# HELP a x\n# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n", "a label twice");
        refused("# HELP a x\n# TYPE a gauge\na{b-c=\"d\"} 1\n", "a label");
        let histogram = |buckets: &str| format!("# HELP h x\n# TYPE h histogram\n{buckets}");
        refused(&histogram("h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"), "grows");
        refused(&histogram("h_bucket{le=\"1\"} 1\nh_sum 1\nh_count 1\n"), "+Inf");
        refused(&histogram("h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n"), "+Inf");
        refused(&histogram("h 1\n"), "a histogram's line");
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn the_lint_finds_a_series_that_is_there_twice() {
        let mut text = Exposition::default();
        let mut used = text.family("used", Kind::Gauge, "x");
        used.add(&[("a", "b")], 1.0);
        used.add(&[("a", "b")], 2.0);
        lint::check(&text.finish());
    }
}

//! Prometheus' text format (version 0.0.4), written in one place.
//!
//! A metric's `HELP` and `TYPE` come once, before its series; labels are escaped here and nowhere else.

#[cfg(test)]
pub(crate) mod lint;

use std::fmt::Write as _;

use jiff::Timestamp;

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// Names and values.
pub(crate) type Labels<'a> = &'a [(&'a str, &'a str)];

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
        self.line(labels, value, None);
    }

    /// One series that was measured at a moment of its own.
    pub(crate) fn at(&mut self, labels: Labels, value: f64, at: Timestamp) {
        self.line(labels, value, Some(at));
    }

    fn line(&mut self, labels: Labels, value: f64, at: Option<Timestamp>) {
        let (name, text) = (self.name, &mut *self.text);
        // Writing into a String does not fail.
        if !self.begun {
            self.begun = true;
            let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {}", self.help, self.kind.word());
        }
        text.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            let _ = write!(text, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            escape(value, text);
            text.push('"');
        }
        text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = write!(text, "{value}");
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

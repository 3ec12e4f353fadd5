//! What people are told, once for as long as it holds.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::events::{About, EventType, Recorder};

/// Tells, and remembers what was told.
pub(super) struct Told {
    recorder: Recorder,
    /// What was said and still holds: it is not said again.
    said: BTreeSet<String>,
}

impl Told {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, said: BTreeSet::new() }
    }

    /// Says it, as a warning about the node.
    pub(super) fn tell(&self, reason: &str, message: &str) {
        tracing::warn!(reason, "{message}");
        self.recorder.record(About::Node, EventType::Warning, reason, message, Timestamp::now());
    }

    /// Says each of these that was not said already; forgets those of the same reason that hold no more.
    pub(super) fn once(&mut self, reason: &str, now: impl IntoIterator<Item = String>) {
        let now: BTreeSet<String> = now.into_iter().map(|text| format!("{reason} {text}")).collect();
        for text in now.difference(&self.said) {
            self.tell(reason, text.split_once(' ').map_or(text.as_str(), |(_, text)| text));
        }
        self.said.retain(|text| !text.starts_with(&format!("{reason} ")));
        self.said.extend(now);
    }

    /// Logs it unless it was said before.
    pub(super) fn log(&mut self, text: String) {
        if self.said.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_said_once_and_again_when_it_comes_back() {
        let mut told = Told::new(Recorder::default());
        let mut say = |words: &[&str]| {
            told.once("ServiceClash", words.iter().map(|word| (*word).to_owned()));
            told.recorder.recent().iter().map(|event| event.count).sum::<u32>()
        };
        assert_eq!([say(&["a"]), say(&["a"]), say(&["a", "b"]), say(&[]), say(&["a"])], [1, 1, 2, 2, 3]);
    }
}

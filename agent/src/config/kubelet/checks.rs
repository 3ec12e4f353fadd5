use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::duration::GoDuration;

/// A field whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadField {
    pub(super) field: String,
    pub(super) problem: String,
}

/// Turns values into checked ones and remembers all that is wrong with them. What it returns for a bad value is never used.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) bad: Vec<BadField>,
}

impl Checks {
    pub(super) fn say(&mut self, field: &str, problem: impl Into<String>) {
        self.bad.push(BadField { field: field.to_owned(), problem: problem.into() });
    }

    pub(super) fn time(&mut self, field: &str, value: Option<GoDuration>) -> Duration {
        let value = value.unwrap_or_default();
        value.positive().unwrap_or_else(|| {
            self.say(field, format!("is {value}, must not be negative"));
            Duration::ZERO
        })
    }

    /// Longer than nothing; `None` where it is nothing.
    pub(super) fn time_if_any(&mut self, field: &str, value: Option<GoDuration>) -> Option<Duration> {
        Some(self.time(field, value)).filter(|time| !time.is_zero())
    }

    pub(super) fn number<T: TryFrom<i64> + Default>(
        &mut self,
        field: &str,
        value: Option<impl Into<i64>>,
        (least, most): (i64, i64),
    ) -> T {
        let value = value.map_or(0, Into::into);
        let fits = (least..=most).contains(&value).then(|| T::try_from(value).ok()).flatten();
        fits.unwrap_or_else(|| {
            let wanted = if most >= i64::from(i32::MAX) {
                format!("at least {least}")
            } else {
                format!("between {least} and {most}")
            };
            self.say(field, format!("is {value}, must be {wanted}"));
            T::default()
        })
    }

    pub(super) fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.say(field, format!("{text:?} is not an IP address"));
        }
        address
    }

    /// One of several words.
    pub(super) fn word<T: Copy>(&mut self, field: &str, text: Option<&str>, known: &[(&str, T)]) -> Option<T> {
        let text = text.unwrap_or_default();
        let found = known.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            self.say(field, format!("is {text:?}, must be one of: {}", words.join(", ")));
        }
        found
    }
}

/// A path that is set.
pub(super) fn path(text: Option<&String>) -> Option<PathBuf> {
    text.filter(|text| !text.is_empty()).map(PathBuf::from)
}

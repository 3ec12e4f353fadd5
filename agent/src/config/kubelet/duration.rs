use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A duration as the API writes it: `1h30m`, `100ms`, `0s`. May be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    /// Whole seconds.
    pub(crate) const fn seconds(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// Thousandths of a second.
    pub(crate) const fn millis(millis: i64) -> Self {
        Self(millis * 1_000_000)
    }

    /// Not at all long, which the kubelet reads as "the default".
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` when it is negative.
    pub(crate) fn positive(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (sign, mut rest) = match text.as_bytes().first()? {
            b'-' => (-1, &text[1..]),
            b'+' => (1, &text[1..]),
            _ => (1, text),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        let mut nanos = 0_i64;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, more) = rest.split_at(end);
            let end = more.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(more.len());
            let (unit, more) = more.split_at(end);
            nanos = nanos.checked_add(part(number, unit)?)?;
            rest = more;
        }
        (!text.trim_start_matches(['+', '-']).is_empty()).then_some(Self(sign * nanos))
    }
}

fn part(number: &str, unit: &str) -> Option<i64> {
    let scale: i64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, behind) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && behind.is_empty()) || !behind.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()?.checked_mul(scale)? };
    // Digits behind the tenth are less than a nanosecond of an hour's part.
    let digits = behind.get(..behind.len().min(12))?;
    let ten = 10_i128.pow(u32::try_from(digits.len()).ok()?);
    let fraction = if digits.is_empty() { 0 } else { digits.parse::<i128>().ok()? * i128::from(scale) / ten };
    whole.checked_add(i64::try_from(fraction).ok()?)
}

impl fmt::Display for GoDuration {
    /// As Go prints it: `1m30s`, `100ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        if nanos < 1_000_000_000 {
            return match nanos {
                0 => f.write_str("0s"),
                n if n < 1_000 => write!(f, "{n}ns"),
                n if n < 1_000_000 => write!(f, "{}µs", decimal(n, 1_000)),
                n => write!(f, "{}ms", decimal(n, 1_000_000)),
            };
        }
        let (hours, minutes) = (nanos / 3_600_000_000_000, nanos / 60_000_000_000 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
    }
}

fn decimal(value: u64, unit: u64) -> String {
    let places = unit.ilog10() as usize;
    let text = format!("{}.{:0places$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                GoDuration::parse(text)
                    .ok_or_else(|| E::custom(format!("{text:?} is not a duration; 10s, 1h30m and 100ms are")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, shown) in [
            ("0", "0s"),
            ("0s", "0s"),
            ("10s", "10s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1h30m", "1h30m0s"),
            ("1.5h", "1h30m0s"),
            ("100ms", "100ms"),
            ("1.5s", "1.5s"),
            (".5m", "30s"),
            ("-1s", "-1s"),
            ("3us", "3µs"),
            ("2562047h", "2562047h0m0s"),
        ] {
            assert_eq!(GoDuration::parse(text).map(|d| d.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in ["", "-", "1", "s", "1x", "1 s", "1s1", "1.2.3s", ".s", "9999999999h"] {
            assert_eq!(GoDuration::parse(text), None, "{text:?}");
        }
    }
}

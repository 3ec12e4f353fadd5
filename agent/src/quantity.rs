//! Kubernetes quantities (`250m`, `1Gi`, `1e3`), exact down to a billionth as the API keeps them.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANOS: i128 = 1_000_000_000;
/// The API caps a quantity's magnitude at the largest 64-bit integer instead of refusing it.
const LARGEST: i128 = i64::MAX as i128 * NANOS;

/// An exact amount, in billionths of its unit (cpus, bytes, pieces).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

/// Text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; a number with an optional unit is, such as 250m, 0.5, 64Mi or 1G")]
pub struct BadQuantity(pub String);

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `count` whole units.
    pub fn units(count: u64) -> Self {
        Self((i128::from(count) * NANOS).min(LARGEST))
    }

    /// `count` thousandths.
    pub fn millis(count: u64) -> Self {
        Self((i128::from(count) * (NANOS / 1_000)).min(LARGEST))
    }

    /// Reads a quantity as the API server does; smaller parts than a billionth round away from zero.
    pub fn parse(text: &str) -> Result<Self, BadQuantity> {
        parse(text).ok_or_else(|| BadQuantity(text.to_owned()))
    }

    /// Whole units, rounded up; negative amounts are 0.
    pub fn ceil_units(self) -> u64 {
        self.ceil_to(NANOS)
    }

    /// Thousandths, rounded up; negative amounts are 0.
    pub fn ceil_millis(self) -> u64 {
        self.ceil_to(NANOS / 1_000)
    }

    /// `ceil(self / divisor)`; a divisor of zero counts as 1. Negative amounts are 0.
    pub fn ceil_div(self, divisor: Self) -> u64 {
        self.ceil_to(if divisor.0 <= 0 { NANOS } else { divisor.0 })
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }

    fn ceil_to(self, step: i128) -> u64 {
        let up = self.0.max(0);
        u64::try_from(up / step + i128::from(up % step != 0)).unwrap_or(u64::MAX)
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).min(LARGEST))
    }
}

impl TryFrom<&Quantity> for Amount {
    type Error = BadQuantity;

    fn try_from(quantity: &Quantity) -> Result<Self, BadQuantity> {
        Self::parse(&quantity.0)
    }
}

impl fmt::Display for Amount {
    /// The plain decimal number: `1.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, size) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (whole, part) = (size / NANOS.unsigned_abs(), size % NANOS.unsigned_abs());
        match part {
            0 => write!(f, "{sign}{whole}"),
            _ => write!(f, "{sign}{whole}.{}", format!("{part:09}").trim_end_matches('0')),
        }
    }
}

fn parse(text: &str) -> Option<Amount> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.contains('.') || (whole.is_empty() && part.is_empty()) || number.len() > 100 {
        return None;
    }
    let size = scaled(whole, part, unit(suffix)?);
    Some(Amount(if negative { -size } else { size }))
}

/// As the API writes amounts of bytes that it computed.
pub fn binary(bytes: u64) -> String {
    let units = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fitting = units.into_iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    fitting.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// As the API writes counts that it computed.
pub fn decimal(count: u64) -> String {
    let units = [("E", 1_000_000_000_000_000_000), ("P", 1_000_000_000_000_000), ("T", 1_000_000_000_000)];
    let units = units.into_iter().chain([("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)]);
    let fitting = units.into_iter().find(|(_, size)| count > 0 && count.is_multiple_of(*size));
    fitting.map_or_else(|| count.to_string(), |(unit, size)| format!("{}{unit}", count / size))
}

/// What one unit of a suffix is worth.
enum Unit {
    Binary(u32),
    Decimal(i32),
}

fn unit(suffix: &str) -> Option<Unit> {
    Some(match suffix {
        "Ki" => Unit::Binary(10),
        "Mi" => Unit::Binary(20),
        "Gi" => Unit::Binary(30),
        "Ti" => Unit::Binary(40),
        "Pi" => Unit::Binary(50),
        "Ei" => Unit::Binary(60),
        "n" => Unit::Decimal(-9),
        "u" => Unit::Decimal(-6),
        "m" => Unit::Decimal(-3),
        "" => Unit::Decimal(0),
        "k" => Unit::Decimal(3),
        "M" => Unit::Decimal(6),
        "G" => Unit::Decimal(9),
        "T" => Unit::Decimal(12),
        "P" => Unit::Decimal(15),
        "E" => Unit::Decimal(18),
        _ => Unit::Decimal(exponent(suffix)?),
    })
}

fn exponent(suffix: &str) -> Option<i32> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let plain = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let fits = (1..=3).contains(&plain.len()) && plain.bytes().all(|b| b.is_ascii_digit());
    if fits { digits.parse().ok() } else { None }
}

/// `whole.part` of `unit` in billionths, rounded up and capped.
fn scaled(whole: &str, part: &str, unit: Unit) -> i128 {
    let (scale, shrink) = match unit {
        Unit::Binary(bits) => (NANOS << bits, 1),
        Unit::Decimal(power) if power >= -9 => (ten(power + 9), 1),
        Unit::Decimal(power) => (1, ten(-9 - power)),
    };
    // Eleven places times the largest scale still fit; what stands behind them can only round up.
    let (kept, rest) = part.split_at(part.len().min(11));
    let places = ten(i32::try_from(kept.len()).unwrap_or(0));
    let behind = ceil(number(kept).saturating_mul(scale), places) + i128::from(rest.bytes().any(|b| b != b'0'));
    ceil(number(whole).saturating_mul(scale).saturating_add(behind), shrink).min(LARGEST)
}

fn number(digits: &str) -> i128 {
    digits.bytes().fold(0, |all: i128, b| all.saturating_mul(10).saturating_add(i128::from(b - b'0')))
}

fn ten(power: i32) -> i128 {
    (0..power.min(40)).fold(1, |all: i128, _| all.saturating_mul(10))
}

fn ceil(size: i128, step: i128) -> i128 {
    size / step + i128::from(size % step != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Amount::parse(text).map_or_else(|_| "bad".to_owned(), |amount| amount.to_string())
    }

    #[test]
    fn quantities_mean_what_they_mean_to_the_api() {
        for (text, value) in [
            ("0", "0"),
            ("1", "1"),
            ("250m", "0.25"),
            ("0.1", "0.1"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1.5Gi", "1610612736"),
            ("1k", "1000"),
            ("1e3", "1000"),
            ("1E", "1000000000000000000"),
            ("1E2", "100"),
            ("100n", "0.0000001"),
            ("1e-12", "0.000000001"),
            ("-1", "-1"),
            ("64Mi", "67108864"),
            ("9999999999999999999999999Ei", "9223372036854775807"),
            ("0.00000000000000001", "0.000000001"),
        ] {
            assert_eq!(shown(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "1.2.3", "1 Gi", "1gi", "1KB", "e3", "1e", "abc", "1e+", "0x10", "1Gib", "∞"] {
            assert_eq!(shown(text), "bad", "{text}");
        }
    }

    #[test]
    fn computed_amounts_have_the_largest_unit_that_leaves_no_rest() {
        let binary: Vec<_> = [0, 1_023, 1_024, 100 << 20, 3 << 40, (1 << 30) + 1].map(binary).into();
        assert_eq!(binary, ["0", "1023", "1Ki", "100Mi", "3Ti", "1073741825"]);
        let decimal: Vec<_> = [0, 999, 2_000, 4_194_304, 5_000_000].map(decimal).into();
        assert_eq!(decimal, ["0", "999", "2k", "4194304", "5M"]);
    }

    #[test]
    fn divisions_round_up() {
        let amount = Amount::parse("1500m").unwrap();
        assert_eq!((amount.ceil_units(), amount.ceil_millis()), (2, 1500));
        assert_eq!(Amount::parse("1Gi").unwrap().ceil_div(Amount::parse("1Mi").unwrap()), 1024);
        assert_eq!(amount.ceil_div(Amount::ZERO), 2);
    }

    proptest::proptest! {
        #[test]
        fn whole_millis_survive_the_way_through_text(millis in 0_u64..u64::MAX / 1_000_000_000) {
            let amount = Amount::parse(&format!("{millis}m")).unwrap();
            proptest::prop_assert_eq!(amount.ceil_millis(), millis);
            proptest::prop_assert_eq!(Amount::parse(&amount.to_string()).unwrap(), amount);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = Amount::parse(&text);
        }
    }
}

//! Cron expressions: five fields, names, ranges, steps, lists and the `@` words, in a time zone.

use std::fmt;
use std::io::Read;
use std::path::{Component, Path};

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// Where time zones are on every Linux that has any.
const ZONES: &str = "/usr/share/zoneinfo";
/// The largest zone of the tz database has about 4 KiB.
const LARGEST_ZONE: u64 = 256 << 10;
/// An expression without a match for so long has none (29 February on a Monday comes within 28 years, but upstream
/// looks five years ahead too).
const FARTHEST: SignedDuration = SignedDuration::from_hours(24 * 366 * 5);

/// When a CronJob is due.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Fields(Fields),
    /// `@every 90s`.
    Every(SignedDuration),
}

/// Bit `n` stands for the value `n`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Days of month and week are both given: either is enough.
    either_day: bool,
}

/// Text that is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSchedule(String);

impl fmt::Display for BadSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadSchedule {}

struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of month", least: 1, most: 31, words: &[] },
    Field { name: "month", least: 1, most: 12, words: MONTHS },
    Field { name: "day of week", least: 0, most: 6, words: WEEKDAYS },
];

impl Schedule {
    /// Reads an expression, to be followed in `zone`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, BadSchedule> {
        let text = text.trim();
        if text.contains("TZ=") {
            return Err(BadSchedule("a time zone belongs into timeZone".to_owned()));
        }
        let rule = match text.strip_prefix("@every ") {
            Some(period) => Rule::Every(every(period)?),
            None => Rule::Fields(fields(text)?),
        };
        Ok(Self { rule, zone })
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(period) => whole(after, 1).checked_add(*period).ok(),
            Rule::Fields(fields) => fields.next(after, &self.zone),
        }
    }

    /// The last time after `after` that is not after `now`.
    pub fn last(&self, after: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if let Rule::Every(period) = &self.rule {
            let periods = now.duration_since(after).as_secs().checked_div(period.as_secs())?;
            let whole = period.checked_mul(i32::try_from(periods).ok()?)?;
            return (periods > 0).then(|| after.checked_add(whole).ok()).flatten();
        }
        // From windows that grow: an agent that was off for a year looks at some hundred times, not at half a million.
        for hours in [1, 24, 24 * 32, 24 * 366, 24 * 366 * 5] {
            let from = now.checked_sub(SignedDuration::from_hours(hours)).map_or(after, |from| from.max(after));
            let times = std::iter::successors(self.next(from), |time| self.next(*time));
            if let Some(last) = times.take_while(|time| *time <= now).last() {
                return Some(last);
            }
            if from == after {
                return None;
            }
        }
        None
    }
}

/// The beginning of the minute (or `unit` of seconds) that `time` is in.
fn whole(time: Timestamp, unit: i64) -> Timestamp {
    let second = time.as_second();
    Timestamp::from_second(second - second.rem_euclid(unit)).unwrap_or(time)
}

fn every(period: &str) -> Result<SignedDuration, BadSchedule> {
    let bad = || BadSchedule(format!("{period:?} is no length of time; 1h30m is one"));
    let (mut total, mut number) = (0_i64, String::new());
    for c in period.trim().chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return Err(bad()),
        };
        let count: i64 = std::mem::take(&mut number).parse().map_err(|_| bad())?;
        total = count.checked_mul(unit).and_then(|length| total.checked_add(length)).ok_or_else(bad)?;
    }
    // Ten years: more is a slip, and would not fit the arithmetic.
    if !number.is_empty() || !(1..=315_360_000).contains(&total) {
        return Err(bad());
    }
    Ok(SignedDuration::from_secs(total))
}

fn fields(text: &str) -> Result<Fields, BadSchedule> {
    let text = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        text => text,
    };
    let words: Vec<_> = text.split_whitespace().collect();
    if words.len() != FIELDS.len() {
        return Err(BadSchedule(format!(
            "has {} fields, must have 5: minute, hour, day of month, month, day of week",
            words.len()
        )));
    }
    let mut bits = [0; 5];
    for ((bits, field), word) in bits.iter_mut().zip(&FIELDS).zip(&words) {
        *bits = field.bits(word)?;
    }
    let [minutes, hours, days, months, weekdays] = bits;
    let given = |word: &str| !word.split(',').any(|part| part.starts_with(['*', '?']));
    Ok(Fields { minutes, hours, days, months, weekdays, either_day: given(words[2]) && given(words[4]) })
}

impl Field {
    fn bits(&self, text: &str) -> Result<u64, BadSchedule> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.part(part)?))
    }

    fn part(&self, part: &str) -> Result<u64, BadSchedule> {
        let bad = |why: String| BadSchedule(format!("{}: {why}", self.name));
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => {
                let step = step.parse::<u32>().ok().filter(|step| *step > 0);
                (range, Some(step.ok_or_else(|| bad(format!("{part:?} has no step such as /5")))?))
            }
        };
        let (from, to) = match (range, range.split_once('-')) {
            ("*" | "?", _) => (self.least, self.most),
            (_, Some((from, to))) => (self.value(from)?, self.value(to)?),
            // `5/15` is from 5 on.
            (from, None) if step.is_some() => (self.value(from)?, self.most),
            (one, None) => (self.value(one)?, self.value(one)?),
        };
        if from > to {
            return Err(bad(format!("{part:?} begins after its end")));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        Ok((from..=to).step_by(step).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u32, BadSchedule> {
        let word = self.words.iter().position(|word| text.eq_ignore_ascii_case(word));
        let word = word.and_then(|place| u32::try_from(place).ok()).map(|place| place + self.least);
        let value = word.or_else(|| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit())));
        value.filter(|value| (self.least..=self.most).contains(value)).ok_or_else(|| {
            BadSchedule(format!("{}: {text:?} is not between {} and {}", self.name, self.least, self.most))
        })
    }
}

fn has<T: TryInto<u32>>(bits: u64, value: T) -> bool {
    value.try_into().is_ok_and(|value: u32| value < 64 && bits & 1 << value != 0)
}

impl Fields {
    /// By real minutes, so that a clock that is put forward or back neither stops nor doubles an hourly Job.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let limit = after.checked_add(FARTHEST).ok()?;
        let mut at = whole(after, 60).checked_add(SignedDuration::from_mins(1)).ok()?;
        while at <= limit {
            let local = at.to_zoned(zone.clone());
            at = match self.misses(&local) {
                None => return Some(at),
                Some(Unit::Month) => midnight(&local, 32 - i64::from(local.day()), true)?,
                Some(Unit::Day) => midnight(&local, 1, false)?,
                Some(Unit::Hour) => at.checked_add(SignedDuration::from_mins(60 - i64::from(local.minute()))).ok()?,
                Some(Unit::Minute) => at.checked_add(SignedDuration::from_mins(1)).ok()?,
            };
        }
        None
    }

    /// The largest unit that does not match.
    fn misses(&self, at: &Zoned) -> Option<Unit> {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        let day = if self.either_day { day || weekday } else { day && weekday };
        if !has(self.months, at.month()) {
            Some(Unit::Month)
        } else if !day {
            Some(Unit::Day)
        } else if !has(self.hours, at.hour()) {
            Some(Unit::Hour)
        } else if !has(self.minutes, at.minute()) {
            Some(Unit::Minute)
        } else {
            None
        }
    }
}

enum Unit {
    Month,
    Day,
    Hour,
    Minute,
}

/// The first moment of a later day, or of that day's month.
fn midnight(at: &Zoned, days: i64, first: bool) -> Option<Timestamp> {
    let date = at.date().checked_add(days.days()).ok()?;
    let date = if first { date.first_of_month() } else { date };
    let start = date.to_datetime(Time::midnight()).to_zoned(at.time_zone().clone()).ok()?.timestamp();
    // Where midnight itself is skipped, the moment it would have been is on that day all the same.
    Some(start.max(at.timestamp().checked_add(SignedDuration::from_mins(1)).ok()?))
}

/// The time zone called `name`, or without a name the machine's own (UTC where it has none).
///
/// # Errors
/// In words, where there is no such zone.
pub fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    let Some(name) = name else {
        let local = read_zone(Path::new("/etc/localtime"));
        return Ok(local.and_then(|data| TimeZone::tzif("Local", &data).ok()).unwrap_or(TimeZone::UTC));
    };
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain || name.eq_ignore_ascii_case("local") {
        return Err(format!("{name:?} is no time zone; Europe/Berlin is one"));
    }
    if matches!(name, "UTC" | "Etc/UTC") {
        return Ok(TimeZone::UTC);
    }
    let data = read_zone(&Path::new(ZONES).join(name));
    let zone = data.and_then(|data| TimeZone::tzif(name, &data).ok());
    zone.ok_or_else(|| format!("{name:?} is not known on this machine ({ZONES}, of the package tzdata)"))
}

fn read_zone(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))?;
    let mut data = Vec::new();
    file.take(LARGEST_ZONE).read_to_end(&mut data).ok()?;
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, zone_name: &str, after: &str, count: usize) -> String {
        let schedule = Schedule::parse(text, zone(Some(zone_name)).unwrap()).unwrap();
        let first = schedule.next(after.parse().unwrap());
        let times = std::iter::successors(first, |time| schedule.next(*time)).take(count);
        times.map(|time| time.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn expressions_mean_what_cron_means() {
        let after = "2026-01-30T23:58:30Z";
        for (text, want) in [
            ("* * * * *", "2026-01-30T23:59:00Z 2026-01-31T00:00:00Z"),
            ("*/15 9-17 * * MON-FRI", "2026-02-02T09:00:00Z 2026-02-02T09:15:00Z"),
            ("5/20 * * * *", "2026-01-31T00:05:00Z 2026-01-31T00:25:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z 2026-03-31T00:00:00Z"),
            ("0 12 1 * SUN", "2026-02-01T12:00:00Z 2026-02-08T12:00:00Z"),
            ("0 0 29 feb ?", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z 2028-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-31T01:28:30Z 2026-01-31T02:58:30Z"),
        ] {
            assert_eq!(next(text, "UTC", after, 2), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told_why() {
        for (text, want) in [
            ("* * * *", "has 4 fields"),
            ("60 * * * *", "minute: \"60\" is not between 0 and 59"),
            ("* * * * 7", "day of week: \"7\" is not between 0 and 6"),
            ("*/0 * * * *", "minute: \"*/0\" has no step"),
            ("5-1 * * * *", "minute: \"5-1\" begins after its end"),
            ("@fortnightly", "has 1 fields"),
            ("@every soon", "is no length of time"),
            ("TZ=UTC * * * * *", "belongs into timeZone"),
        ] {
            let error = Schedule::parse(text, TimeZone::UTC).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn an_hour_that_is_skipped_is_skipped_and_days_go_on() {
        // 29 March 2026, 02:00 becomes 03:00 in Berlin.
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2),
            "2026-03-28T01:30:00Z 2026-03-30T00:30:00Z"
        );
        assert_eq!(
            next("0 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2),
            "2026-03-29T01:00:00Z 2026-03-29T02:00:00Z"
        );
    }

    #[test]
    fn the_last_time_is_found_however_long_ago() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let schedule = |text: &str| Schedule::parse(text, TimeZone::UTC).unwrap();
        let minutely = schedule("* * * * *");
        let last = minutely.last(at("2020-01-01T00:00:00Z"), at("2026-01-01T00:00:30Z"));
        assert_eq!(last, Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(minutely.last(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:59Z")), None);
        let yearly = schedule("@yearly");
        assert_eq!(
            yearly.last(at("2020-06-01T00:00:00Z"), at("2026-06-01T00:00:00Z")),
            Some(at("2026-01-01T00:00:00Z"))
        );
        let every = schedule("@every 10s");
        assert_eq!(
            every.last(at("2026-01-01T00:00:05Z"), at("2026-01-01T00:00:29Z")),
            Some(at("2026-01-01T00:00:25Z"))
        );
    }

    #[test]
    fn a_zone_that_is_no_zone_is_refused() {
        for bad in ["", "Local", "../../etc/passwd", "/etc/passwd", "Mars/Olympus"] {
            assert!(zone(Some(bad)).is_err(), "{bad:?}");
        }
        assert!(zone(None).is_ok());
    }
}

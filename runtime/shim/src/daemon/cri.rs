//! From a container's bytes to lines of a CRI log: `<time> <stdout|stderr> <F|P> <content>`.

/// Longest content of one log line, bytes; a longer line of the container's becomes several, all but the last with P.
pub(super) const LONGEST_CONTENT: usize = 16 * 1024;

/// Which of its two streams a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// One stream's beginning of a line that has not ended yet.
#[derive(Debug)]
pub(super) struct Lines {
    stream: Stream,
    held: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// Takes bytes until `out` has at least `enough`, appending whole log lines; how many bytes were taken.
    pub(super) fn push(&mut self, bytes: &[u8], time: &[u8], enough: usize, out: &mut Vec<u8>) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && out.len() < enough {
            let rest = &bytes[taken..];
            let room = LONGEST_CONTENT - self.held.len();
            match rest.iter().take(room + 1).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.line(b"F", &rest[..end], time, out);
                    taken += end + 1;
                }
                // Only when a byte too many is there: a line of just this length is whole.
                None if rest.len() > room => {
                    self.line(b"P", &rest[..room], time, out);
                    taken += room;
                }
                None => {
                    self.held.extend_from_slice(rest);
                    taken += rest.len();
                }
            }
        }
        taken
    }

    /// The stream has ended: what has no newline is a line all the same.
    pub(super) fn finish(&mut self, time: &[u8], out: &mut Vec<u8>) {
        if !self.held.is_empty() {
            self.line(b"F", b"", time, out);
        }
    }

    fn line(&mut self, tag: &[u8], rest: &[u8], time: &[u8], out: &mut Vec<u8>) {
        let stream: &[u8] = if self.stream == Stream::Out { b"stdout" } else { b"stderr" };
        for part in [time, b" ", stream, b" ", tag, b" ", &self.held, rest, b"\n"] {
            out.extend_from_slice(part);
        }
        // Given back, not cleared: one long line must not cost the pod 16 KiB for the rest of its life.
        self.held = Vec::new();
    }
}

/// RFC 3339 in UTC with nine digits, from nanoseconds since the epoch.
pub(super) fn timestamp(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        nanoseconds.rem_euclid(1_000_000_000)
    )
}

/// Gregorian date of a day counted from 1970-01-01. Years are counted from March here, so that the leap day is the
/// last of its year, and in cycles of 400 years (146,097 days), which all are alike.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // from 0000-03-01
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March; five months have 153 days
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + carry, month, of_month)
}

#[cfg(test)]
mod tests;

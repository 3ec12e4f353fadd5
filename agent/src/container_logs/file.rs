//! Reading one CRI log: from its end backwards to the first line wanted, then forwards, then as it grows, over rotations.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P>[:tags] <content>`; `P` is a part of a line that the next one ends.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, watch};

use super::chain::{Chain, Source};
use super::growth::Growth;

const BLOCK: usize = 64 << 10;

/// What of a log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Only this many lines from the end; parts of lines count, as they do for the kubelet.
    pub(crate) tail: Option<u64>,
    /// Only lines from then on.
    pub(crate) since: Option<Timestamp>,
    /// Each line begins with its time.
    pub(crate) timestamps: bool,
    /// Only this many bytes; the last line may be cut.
    pub(crate) limit: Option<u64>,
    /// Only this stream's lines.
    pub(crate) stream: Option<Stream>,
}

/// Where a container wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Sends the chosen lines of `path`, and with `running` what is added until that turns false.
pub(super) async fn follow(
    path: PathBuf,
    choice: Choice,
    running: Option<watch::Receiver<bool>>,
    lines: mpsc::Sender<std::io::Result<Bytes>>,
) {
    if let Err(error) = send(&path, choice, running, &lines).await {
        // The reader may be gone, and then nobody misses the error.
        let _ = lines.send(Err(error)).await;
    }
}

async fn send(
    path: &Path,
    choice: Choice,
    mut running: Option<watch::Receiver<bool>>,
    lines: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    // Watched before it is read, so that nothing is written unseen between the two.
    let mut growth = running.is_some().then(|| Growth::of(path)).transpose()?;
    let (mut chain, mut file) = Chain::open(path).await?;
    if let Some(count) = choice.tail {
        let start = tail_start(&mut file, count).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut source = Source::Plain(file);
    let mut reader = Reader { choice, rest: Vec::new(), line_open: false, left: choice.limit };
    loop {
        // Asked before reading on: what is written before the end is seen is read after it.
        let ended = running.as_ref().is_none_or(|running| !*running.borrow() || running.has_changed().is_err());
        if !reader.pass_on(&mut source, &mut chain, growth.as_mut(), lines).await? {
            return Ok(());
        }
        let (Some(growth), Some(running)) = (&mut growth, &mut running) else { return Ok(()) };
        if let Some(next) = chain.next().await? {
            // What was written between the last look and the rotation comes first.
            if !reader.pass_on(&mut source, &mut chain, Some(growth), lines).await? {
                return Ok(());
            }
            source = next;
            continue;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = growth.wait() => {}
            _ = running.changed() => {}
            () = lines.closed() => return Ok(()),
        }
    }
}

/// Turns blocks of a file into output.
struct Reader {
    choice: Choice,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// The last thing sent was a part of a line.
    line_open: bool,
    /// Bytes that may still be sent.
    left: Option<u64>,
}

impl Reader {
    /// Sends what there is. False when nobody listens any more, or all that was wanted is sent.
    async fn pass_on(
        &mut self,
        source: &mut Source,
        chain: &mut Chain,
        mut growth: Option<&mut Growth>,
        lines: &mpsc::Sender<std::io::Result<Bytes>>,
    ) -> std::io::Result<bool> {
        // The rotation that was heard of may be the last thing heard for as long as the reader stalls.
        if growth.is_some() {
            chain.note()?;
        }
        while let Some(block) = source.read(BLOCK).await? {
            self.rest.extend_from_slice(&block);
            let mut text = self.take_lines();
            self.cut(&mut text);
            if text.is_empty() && self.left != Some(0) {
                continue;
            }
            let mut sending = std::pin::pin!(lines.send(Ok(text.into())));
            loop {
                let Some(growth) = growth.as_deref_mut() else {
                    match sending.as_mut().await {
                        Ok(()) => break,
                        Err(_) => return Ok(false),
                    }
                };
                tokio::select! {
                    sent = &mut sending => match sent {
                        Ok(()) => break,
                        Err(_) => return Ok(false),
                    },
                    // A reader that stalls must not lose its place in the chain.
                    () = growth.wait() => chain.note()?,
                }
            }
            if self.left == Some(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes away what is more than was wanted.
    fn cut(&mut self, text: &mut Vec<u8>) {
        if let Some(left) = &mut self.left {
            text.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= text.len() as u64;
        }
    }

    fn take_lines(&mut self) -> Vec<u8> {
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let mut output = Vec::with_capacity(whole.len());
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            self.append(line, &mut output);
        }
        // No runtime writes lines this long; a file without line ends must not fill the memory.
        if self.rest.len() > 2 * BLOCK {
            output.append(&mut self.rest);
        }
        output
    }

    fn append(&mut self, line: &[u8], output: &mut Vec<u8>) {
        let Some(entry) = Entry::parse(line) else {
            output.extend_from_slice(line);
            return;
        };
        if self.choice.since.is_some_and(|since| entry.time().is_some_and(|time| time < since)) {
            return;
        }
        if self.choice.stream.is_some_and(|stream| stream != entry.stream) {
            return;
        }
        if self.choice.timestamps && !self.line_open {
            output.extend_from_slice(entry.time);
            output.push(b' ');
        }
        output.extend_from_slice(entry.content);
        self.line_open = entry.partial;
        if !entry.partial {
            output.push(b'\n');
        }
    }
}

struct Entry<'a> {
    time: &'a [u8],
    stream: Stream,
    partial: bool,
    content: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        let content = fields.next().unwrap_or_default();
        let partial = tags.split(|byte| *byte == b':').next()? == b"P";
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        Some(Self { time, stream, partial, content })
    }

    fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }
}

/// Where the last `count` lines begin, found from the end: a file of any size costs only its tail.
async fn tail_start(file: &mut File, count: u64) -> std::io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    if count == 0 {
        return Ok(length);
    }
    let mut position = length;
    let mut found = 0;
    let mut block = vec![0; BLOCK];
    while position > 0 {
        let size = position.min(BLOCK as u64);
        position -= size;
        file.seek(SeekFrom::Start(position)).await?;
        let part = &mut block[..usize::try_from(size).unwrap_or(BLOCK)];
        file.read_exact(part).await?;
        for (at, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = position + at as u64 + 1;
            // The line end at the very end belongs to the last line wanted.
            if after < length {
                found += 1;
            }
            if found == count {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr P tw\n\
                       2026-01-01T00:00:03.000000000Z stderr F o\n\
                       2026-01-01T00:00:04.000000000Z stdout F \n\
                       2026-01-01T00:00:05.000000000Z stdout F three four\n";

    fn log(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    async fn collect(path: &Path, choice: Choice) -> String {
        let (lines, mut received) = mpsc::channel(8);
        tokio::spawn(follow(path.into(), choice, None, lines));
        let mut text = Vec::new();
        while let Some(part) = received.recv().await {
            text.extend_from_slice(&part.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_lines_are_joined() {
        let file = log(LOG);
        assert_eq!(collect(file.path(), Choice::default()).await, "one\ntwo\n\nthree four\n");
    }

    #[tokio::test]
    async fn times_stand_at_the_beginning_of_lines_only() {
        let file = log(LOG);
        let text = collect(file.path(), Choice { timestamps: true, tail: Some(4), ..Choice::default() }).await;
        assert_eq!(
            text,
            "2026-01-01T00:00:02.000000000Z two\n2026-01-01T00:00:04.000000000Z \n2026-01-01T00:00:05.000000000Z three four\n"
        );
    }

    #[tokio::test]
    async fn a_tail_is_the_last_lines_whatever_the_blocks() {
        let line = |n: usize| format!("2026-01-01T00:00:01.000000001Z stdout F {n} {}\n", "x".repeat(n % 300));
        let file = log(&(0..2_000).map(line).collect::<String>());
        for count in [0, 1, 2, 999, 2_000, 5_000] {
            let text = collect(file.path(), Choice { tail: Some(count), ..Choice::default() }).await;
            let numbers: Vec<usize> =
                text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
            let first = 2_000_usize.saturating_sub(count as usize);
            assert_eq!(numbers, (first..2_000).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn the_tail_of_ten_gigabytes_is_its_end_alone() {
        let mut file = log("");
        // A hole: reading it would take minutes.
        file.as_file().set_len(10 << 30).unwrap();
        std::io::Seek::seek(&mut file, SeekFrom::End(0)).unwrap();
        file.write_all(format!("\n{LOG}").as_bytes()).unwrap();
        let text = collect(file.path(), Choice { tail: Some(1), ..Choice::default() }).await;
        assert_eq!(text, "three four\n");
    }

    #[tokio::test]
    async fn since_leaves_out_what_was_before() {
        let file = log(LOG);
        let since = Some("2026-01-01T00:00:04Z".parse().unwrap());
        assert_eq!(collect(file.path(), Choice { since, ..Choice::default() }).await, "\nthree four\n");
    }

    #[tokio::test]
    async fn a_follower_gets_what_is_added_until_the_container_ends() {
        let mut file = log(LOG);
        let (running, told) = watch::channel(true);
        let (lines, mut received) = mpsc::channel(8);
        tokio::spawn(follow(file.path().into(), Choice { tail: Some(1), ..Choice::default() }, Some(told), lines));
        assert_eq!(received.recv().await.unwrap().unwrap(), "three four\n");
        file.write_all(b"2026-01-01T00:00:06.0Z stdout F fi").unwrap();
        file.write_all(b"ve\n").unwrap();
        assert_eq!(received.recv().await.unwrap().unwrap(), "five\n");
        file.write_all(b"2026-01-01T00:00:07.0Z stdout F six\n").unwrap();
        running.send_replace(false);
        assert_eq!(received.recv().await.unwrap().unwrap(), "six\n");
        assert!(received.recv().await.is_none());
    }

    fn line(n: usize) -> String {
        format!("2026-01-01T00:00:01.000000001Z stdout F {n} {}\n", "x".repeat(n % 50))
    }

    /// What rotation does, with names that are a second apart.
    fn rotate(log: &Path, round: usize) {
        let dir = log.parent().unwrap();
        let stamp = |round: usize| dir.join(format!("0.log.20260101-{round:06}"));
        if let Some(before) = round.checked_sub(1).map(stamp).filter(|path| path.exists()) {
            let packed = std::fs::File::create(format!("{}.gz", before.display())).unwrap();
            let mut packer = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
            packer.write_all(&std::fs::read(&before).unwrap()).unwrap();
            packer.finish().unwrap();
            std::fs::remove_file(before).unwrap();
        }
        std::fs::rename(log, stamp(round)).unwrap();
    }

    /// Each number once and in order, whatever the rotations and however slow the reader.
    async fn follows_over_rotations(stall: bool) {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, line(0)).unwrap();
        let (running, told) = watch::channel(true);
        let (lines, mut received) = mpsc::channel(1);
        tokio::spawn(follow(log.clone(), Choice::default(), Some(told), lines));
        let mut text = received.recv().await.unwrap().unwrap().to_vec();
        let mut n = 1;
        for round in 0..6 {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
            for _ in 0..3_000 {
                file.write_all(line(n).as_bytes()).unwrap();
                n += 1;
            }
            rotate(&log, round);
            // The runtime goes on in the renamed file until it is told.
            file.write_all(line(n).as_bytes()).unwrap();
            n += 1;
            std::fs::write(&log, "").unwrap();
            while !stall && text.iter().filter(|byte| **byte == b'\n').count() < n {
                text.extend_from_slice(&received.recv().await.unwrap().unwrap());
            }
            // A stalled follower still hears of each rotation, given its turns.
            for _ in 0..40 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        running.send_replace(false);
        while let Some(part) = received.recv().await {
            text.extend_from_slice(&part.unwrap());
        }
        let text = String::from_utf8(text).unwrap();
        let numbers: Vec<usize> = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(0..n), "{} lines of {n}", numbers.len());
    }

    #[tokio::test]
    async fn a_log_that_goes_with_its_pod_ends_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, line(0)).unwrap();
        let (running, told) = watch::channel(true);
        let (lines, mut received) = mpsc::channel(1);
        tokio::spawn(follow(log, Choice::default(), Some(told), lines));
        assert!(received.recv().await.unwrap().is_ok());
        std::fs::remove_dir_all(dir.path()).unwrap();
        running.send_replace(false);
        assert!(received.recv().await.is_none());
    }

    #[tokio::test]
    async fn no_line_is_lost_or_doubled_over_rotations() {
        follows_over_rotations(false).await;
    }

    #[tokio::test]
    async fn a_reader_that_stalls_through_rotations_loses_nothing() {
        follows_over_rotations(true).await;
    }
}

//! Somebody who looks at a container's output and types into it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// What one client may lag behind per stream, bytes. When it is full the container's stream is not read on.
pub(super) const LARGEST_LAG: usize = 64 * 1024;

/// A client that takes nothing for this long while it holds up the container is let go, nanoseconds. A person who
/// stopped a terminal with ^S should not stop the pod's log for ever.
pub(super) const LONGEST_STALL: i64 = 10_000_000_000;

/// Where one stream goes to.
#[derive(Debug)]
pub(super) struct Sink {
    file: OwnedFd,
    lag: Vec<u8>,
    /// When it last took something, or began to lag.
    since: i64,
}

impl Sink {
    fn new(file: OwnedFd) -> Self {
        Self { file, lag: Vec::new(), since: 0 }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn lags(&self) -> bool {
        !self.lag.is_empty()
    }

    /// When its time is up, if it holds the container up.
    pub(super) fn deadline(&self) -> Option<i64> {
        (self.lag.len() >= LARGEST_LAG).then_some(self.since + LONGEST_STALL)
    }

    /// When it is let go after the container's exit.
    pub(super) fn last_deadline(&self) -> Option<i64> {
        self.lags().then_some(self.since + LONGEST_STALL)
    }

    /// Takes what it can now and keeps the rest. `Err` when nobody reads any more.
    fn put(&mut self, bytes: &[u8], now: i64) -> io::Result<()> {
        let mut rest = bytes;
        if self.lag.is_empty() {
            self.since = now;
            rest = &bytes[self.write(bytes)?..];
        }
        self.lag.extend_from_slice(rest);
        Ok(())
    }

    /// Passes on what waits.
    fn flush(&mut self, now: i64) -> io::Result<()> {
        let written = self.write(&self.lag)?;
        if written > 0 {
            self.since = now;
        }
        if written == self.lag.len() {
            self.lag = Vec::new();
        } else {
            self.lag.drain(..written);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match sys::write(self.file.as_fd(), &bytes[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

/// One attached client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) key: u32,
    /// What it types; `None` once it has ended.
    pub(super) typing: Option<OwnedFd>,
    /// Stdout and stderr.
    pub(super) sinks: [Option<Sink>; 2],
}

impl Client {
    /// From stdin, stdout and stderr, where `/dev/null` is a stream that is not wanted.
    pub(super) fn new(key: u32, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let [stdin, stdout, stderr] =
            <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let sink = |file| Ok::<_, io::Error>(wanted(file)?.map(Sink::new));
        Ok(Self { key, typing: wanted(stdin)?, sinks: [sink(stdout)?, sink(stderr)?] })
    }

    pub(super) fn gone(&self) -> bool {
        self.typing.is_none() && self.sinks.iter().all(Option::is_none)
    }

    /// Gives it output of one stream.
    pub(super) fn put(&mut self, stream: usize, bytes: &[u8], now: i64) {
        if self.sinks[stream].as_mut().is_some_and(|sink| sink.put(bytes, now).is_err()) {
            self.sinks[stream] = None;
        }
    }

    /// Its descriptor can take more, or is closed on the other side.
    pub(super) fn flush(&mut self, stream: usize, closed: bool, now: i64) {
        if self.sinks[stream].as_mut().is_some_and(|sink| closed || sink.flush(now).is_err()) {
            self.sinks[stream] = None;
        }
    }

    /// Lets streams go that held the container up for too long, and with `ended` those that have everything.
    pub(super) fn sweep(&mut self, ended: bool, now: i64) {
        for sink in &mut self.sinks {
            let done = |sink: &Sink| {
                sink.deadline().is_some_and(|deadline| deadline <= now)
                    || ended && sink.last_deadline().is_none_or(|deadline| deadline <= now)
            };
            if sink.as_ref().is_some_and(done) {
                *sink = None;
            }
        }
        if ended {
            self.typing = None;
        }
    }
}

fn wanted(file: OwnedFd) -> io::Result<Option<OwnedFd>> {
    let found = sys::fstat(file.as_fd())?;
    if found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == libc::makedev(1, 3) {
        return Ok(None);
    }
    sys::set_nonblocking(file.as_fd())?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests;

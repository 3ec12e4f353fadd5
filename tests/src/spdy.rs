//! A client of SPDY/3.1 on one thread, over the codec: `kubectl` is who tests that codec.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use runtime::spdy::session::{Event, Role, Session};
use runtime::spdy::{Headers, StreamId};

use crate::channel::{self, Channel};

/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection after its upgrade.
pub struct Spdy {
    session: Session,
    wire: Wire,
    streams: BTreeMap<StreamId, Heard>,
}

enum Wire {
    Plain(TcpStream),
    /// In the binary messages of a WebSocket.
    Tunnel(Channel),
}

/// What came on a stream.
#[derive(Debug, Default)]
pub struct Heard {
    /// Its bytes.
    pub data: Vec<u8>,
    /// The server has taken it.
    pub taken: bool,
    /// The server sends no more: it ended the stream, or gave it up.
    pub ended: bool,
}

/// Sends a request for an upgrade to a streaming URL; answers the head of the response and the connection.
///
/// # Errors
/// When the connection breaks.
pub fn ask(url: &str, headers: &str) -> Result<(String, TcpStream)> {
    let (address, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("not such a URL")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n{headers}\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok((String::from_utf8(head)?, stream))
}

/// Waits until something can be read or written.
fn ready(stream: &TcpStream) -> Result<PollFlags> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)];
    ensure!(poll(&mut fds, PollTimeout::try_from(PATIENCE)?)? > 0, "the server neither takes nor sends anything");
    fds[0].revents().context("unknown events")
}

impl Spdy {
    /// Connects with one subprotocol.
    ///
    /// # Errors
    /// When the upgrade is refused; the text holds the answer.
    pub fn connect(url: &str, protocol: &str) -> Result<Self> {
        let (head, stream) = ask(url, &format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"))?;
        let chosen = format!("X-Stream-Protocol-Version: {protocol}\r\n");
        ensure!(head.starts_with("HTTP/1.1 101") && head.contains(&chosen), "{head}");
        Ok(Self::over(Wire::Plain(stream)))
    }

    /// Connects through a WebSocket, for ports.
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub fn tunnel(url: &str) -> Result<Self> {
        Ok(Self::over(Wire::Tunnel(channel::connect(url, "SPDY/3.1+portforward.k8s.io")?)))
    }

    fn over(wire: Wire) -> Self {
        Self { session: Session::new(Role::Client), wire, streams: BTreeMap::new() }
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// When there are too many.
    pub fn open(&mut self, headers: &[(&str, &str)]) -> Result<StreamId> {
        let id = self.session.open(Headers::new(headers.iter().copied())).context("too many streams")?;
        self.streams.insert(id, Heard::default());
        Ok(id)
    }

    /// Opens the streams of a process, `error` first.
    ///
    /// # Errors
    /// When one is not taken.
    pub fn open_all<const N: usize>(&mut self, kinds: [&str; N]) -> Result<[StreamId; N]> {
        let mut ids = [StreamId(0); N];
        for (id, kind) in ids.iter_mut().zip(kinds) {
            *id = self.open(&[("streamtype", kind)])?;
        }
        self.until("streams are taken", |spdy| ids.iter().all(|id| spdy.heard(*id).taken))?;
        Ok(ids)
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(&mut self, id: StreamId, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            match self.session.send(id, data) {
                0 => self.receive()?,
                sent => data = &data[sent..],
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Ends our side of a stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn finish(&mut self, id: StreamId) -> Result<()> {
        self.session.finish(id);
        self.flush()
    }

    /// What came on a stream so far.
    pub fn heard(&self, id: StreamId) -> &Heard {
        &self.streams[&id]
    }

    /// Waits until the server has ended a stream, and answers what came on it.
    ///
    /// # Errors
    /// When the connection breaks before.
    pub fn until_ended(&mut self, id: StreamId) -> Result<Vec<u8>> {
        self.until("the stream is ended", |spdy| spdy.heard(id).ended)?;
        Ok(std::mem::take(&mut self.streams.get_mut(&id).context("no such stream")?.data))
    }

    /// Waits for something.
    ///
    /// # Errors
    /// When the connection breaks before.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        self.flush()?;
        while !is_so(self) {
            self.receive().with_context(|| format!("waiting until {what}: {:?}", self.streams))?;
            self.flush()?;
        }
        Ok(())
    }

    /// Sends what is to be sent, and hears what comes meanwhile: two ends that only write wait for each other.
    fn flush(&mut self) -> Result<()> {
        while !self.session.output().is_empty() {
            match &mut self.wire {
                Wire::Tunnel(channel) => {
                    let out = std::mem::take(self.session.output());
                    channel.send(out[0], &out[1..])?;
                }
                Wire::Plain(stream) => {
                    let can = ready(stream)?;
                    if can.contains(PollFlags::POLLIN) {
                        self.receive()?;
                    } else {
                        let sent = send(stream.as_raw_fd(), self.session.output(), MsgFlags::MSG_DONTWAIT)?;
                        self.session.output().drain(..sent);
                    }
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        match &mut self.wire {
            Wire::Plain(stream) => {
                let mut bytes = vec![0; 64 << 10];
                let length = stream.read(&mut bytes)?;
                ensure!(length > 0, "the server closed the connection");
                self.session.input().extend_from_slice(&bytes[..length]);
            }
            Wire::Tunnel(channel) => {
                let (first, rest) = channel.receive()?.context("the server closed the connection")?;
                self.session.input().extend_from_slice(&[&[first], &rest[..]].concat());
            }
        }
        while let Some(event) = self.session.event()? {
            self.note(event);
        }
        Ok(())
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Data(id, data) => {
                self.session.consumed(id, data.len());
                self.streams.entry(id).or_default().data.extend(data);
            }
            Event::Replied(id) => self.streams.entry(id).or_default().taken = true,
            Event::Ended(id) | Event::Reset(id, _) => self.streams.entry(id).or_default().ended = true,
            Event::Opened(..) | Event::Room | Event::GoAway => {}
        }
    }
}

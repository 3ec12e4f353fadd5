//! A container's streams: read, logged, shown to whoever is attached; and what those type.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::attach::{Client, LARGEST_LAG};
use super::cri::{Lines, Stream, timestamp};
use super::files;
use super::log::Log;
use crate::sys::{self, Moment};

/// Log lines are written to the file when this much is together, bytes.
const BATCH: usize = 32 * 1024;

/// Reads of one stream before the others have their turn.
const READS_PER_TURN: usize = 8;

/// What a pipe may hold at most when its reader comes to it after an exit: the default bound of F_SETPIPE_SZ.
const LARGEST_PIPE: usize = 1024 * 1024;

/// What stdin is, from the file `stdin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StdinMode {
    /// `/dev/null`
    No,
    /// Ends when the first client that typed has ended.
    Once,
    /// Never ends.
    Open,
}

/// Streams of one container.
#[derive(Debug)]
pub(super) struct Stdio {
    /// Stdout (or the terminal) and stderr.
    outputs: [Option<(OwnedFd, Lines)>; 2],
    input: Option<OwnedFd>,
    mode: StdinMode,
    /// Typed, and not taken by the container yet.
    typed: Vec<u8>,
    /// Nothing is typed any more; the input is closed when the container has it all.
    typed_last: bool,
    terminal: bool,
    log: Log,
    clients: Vec<Client>,
    last_client: u32,
    ended: bool,
}

/// Something of a container that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Output(usize),
    Input,
    Typing(u32),
    Sink(u32, usize),
}

/// The three descriptors a container is started with.
pub(super) type Inner = [OwnedFd; 3];

/// Content of the files the runtime has put into a container's directory.
pub(super) struct Wanted {
    pub(super) log: Option<PathBuf>,
    pub(super) mode: StdinMode,
}

impl Wanted {
    pub(super) fn read(directory: &Path) -> io::Result<Self> {
        let log = files::text(&directory.join("log"))?;
        let log = Some(PathBuf::from(log.trim_end_matches('\n'))).filter(|path| path.is_absolute());
        let mode = match files::text(&directory.join("stdin"))?.trim_end() {
            "once" => StdinMode::Once,
            "open" => StdinMode::Open,
            _ => StdinMode::No,
        };
        Ok(Self { log, mode })
    }
}

impl Stdio {
    fn new(log: Log, mode: StdinMode) -> Self {
        Self {
            outputs: [None, None],
            input: None,
            mode,
            typed: Vec::new(),
            typed_last: false,
            terminal: false,
            log,
            clients: Vec::new(),
            last_client: 0,
            ended: false,
        }
    }

    /// For a container with a terminal, whose master comes later.
    pub(super) fn for_terminal(wanted: Wanted) -> io::Result<Self> {
        let mut stdio = Self::new(Log::open(wanted.log)?, wanted.mode);
        stdio.terminal = true;
        Ok(stdio)
    }

    /// Makes the FIFOs of a container that is about to start; what the container gets of them.
    pub(super) fn make(directory: &Path, wanted: Wanted) -> io::Result<(Self, Inner)> {
        for name in ["out", "err", "in"] {
            let path = directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            if name != "in" || wanted.mode != StdinMode::No {
                sys::mkfifo(&path)?;
            }
        }
        let mode = wanted.mode;
        let mut stdio = Self::new(Log::open(wanted.log)?, mode);
        stdio.open_pipes(directory)?;
        let stdin = match mode {
            StdinMode::No => sys::open(Path::new("/dev/null"), libc::O_RDONLY),
            StdinMode::Once => sys::open(&directory.join("in"), libc::O_RDONLY),
            // Its own writer: it sees no end of file while a killed shim is replaced.
            StdinMode::Open => sys::open(&directory.join("in"), libc::O_RDWR),
        }?;
        let writer = |name| sys::open(&directory.join(name), libc::O_RDWR);
        Ok((stdio, [stdin, writer("out")?, writer("err")?]))
    }

    /// Takes over the streams of a container that another shim has started.
    pub(super) fn adopt(directory: &Path) -> io::Result<Self> {
        let wanted = Wanted::read(directory)?;
        let mut stdio = Self::new(Log::open_if_possible(wanted.log), wanted.mode);
        match stdio.open_pipes(directory) {
            // It had a terminal, which was lost with the shim that held its master.
            Err(error) if error.kind() == io::ErrorKind::NotFound => stdio.terminal = true,
            opened => opened?,
        }
        Ok(stdio)
    }

    /// Read-write, so that a stream which every process has closed can be opened again by one of them.
    fn open_pipes(&mut self, directory: &Path) -> io::Result<()> {
        let open = |name| sys::open(&directory.join(name), libc::O_RDWR | libc::O_NONBLOCK);
        self.outputs = [Some((open("out")?, Lines::new(Stream::Out))), Some((open("err")?, Lines::new(Stream::Err)))];
        if self.mode != StdinMode::No {
            self.input = Some(open("in")?);
        }
        Ok(())
    }

    /// The master of the container's terminal has come.
    pub(super) fn set_master(&mut self, master: OwnedFd) -> io::Result<()> {
        sys::set_nonblocking(master.as_fd())?;
        if self.mode != StdinMode::No {
            self.input = Some(master.try_clone()?);
        }
        self.outputs[0] = Some((master, Lines::new(Stream::Out)));
        Ok(())
    }

    pub(super) fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        match &self.outputs[0] {
            Some((master, _)) if self.terminal => sys::set_window(master, width, height),
            _ => Err(io::Error::from_raw_os_error(libc::ENOTTY)),
        }
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }

    /// Adds a client; what it types is not read when nobody would.
    pub(super) fn attach(&mut self, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        if self.terminal && self.outputs[0].is_none() {
            // Lost with the shim that held its master, or closed by the container.
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        self.last_client += 1;
        let mut client = Client::new(self.last_client, descriptors)?;
        if self.input.is_none() || self.typed_last {
            client.typing = None;
        }
        if self.terminal {
            client.sinks[1] = None;
        }
        self.clients.push(client);
        Ok(())
    }

    /// Whether there is nothing left to do after the container's exit.
    pub(super) fn idle(&self) -> bool {
        self.clients.is_empty()
    }

    /// What to wait for now: descriptors, events, and the earliest deadline.
    pub(super) fn interests(&self, mut wait: impl FnMut(End, i32, i16)) -> Option<i64> {
        use std::os::fd::AsRawFd;
        for (index, output) in self.outputs.iter().enumerate() {
            if let (Some((file, _)), false) = (output, self.held_up(index)) {
                wait(End::Output(index), file.as_raw_fd(), libc::POLLIN);
            }
        }
        if let (Some(input), false) = (&self.input, self.typed.is_empty()) {
            wait(End::Input, input.as_raw_fd(), libc::POLLOUT);
        }
        for client in &self.clients {
            if let (Some(typing), true) = (&client.typing, self.typed.len() < LARGEST_LAG) {
                wait(End::Typing(client.key), typing.as_raw_fd(), libc::POLLIN);
            }
            for (index, sink) in client.sinks.iter().enumerate() {
                if let Some(sink) = sink {
                    let events = if sink.lags() { libc::POLLOUT } else { 0 };
                    wait(End::Sink(client.key, index), sink.as_fd().as_raw_fd(), events);
                }
            }
        }
        let sinks = self.clients.iter().flat_map(|client| client.sinks.iter().flatten());
        sinks.filter_map(|sink| if self.ended { sink.last_deadline() } else { sink.deadline() }).min()
    }

    /// Somebody who is attached has not taken what was already read.
    fn held_up(&self, stream: usize) -> bool {
        !self.ended
            && self.clients.iter().any(|client| client.sinks[stream].as_ref().is_some_and(|s| s.deadline().is_some()))
    }

    /// One of the descriptors is ready.
    pub(super) fn handle(&mut self, end: End, events: i16, scratch: &mut [u8], now: Moment) {
        match end {
            End::Output(stream) => self.pump(stream, READS_PER_TURN, scratch, now),
            End::Input => self.feed(),
            End::Typing(key) => self.type_in(key, scratch),
            End::Sink(key, stream) => {
                let closed = events & (libc::POLLERR | libc::POLLNVAL) != 0 || events == libc::POLLHUP;
                if let Some(client) = self.clients.iter_mut().find(|client| client.key == key) {
                    client.flush(stream, closed, now.steady);
                }
            }
        }
        self.sweep(now.steady);
    }

    /// Forgets clients that are gone or too slow.
    pub(super) fn sweep(&mut self, now: i64) {
        let ended = self.ended;
        self.clients.iter_mut().for_each(|client| client.sweep(ended, now));
        self.clients.retain(|client| !client.gone());
    }

    /// Reads on until the stream is empty or has had its turn.
    fn pump(&mut self, stream: usize, turns: usize, scratch: &mut [u8], now: Moment) {
        for _ in 0..turns {
            if self.held_up(stream) {
                return;
            }
            let Some((file, _)) = &self.outputs[stream] else { return };
            match sys::read(file.as_fd(), scratch) {
                Ok(length) if length > 0 => self.pass_on(stream, &scratch[..length], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A terminal whose slave nobody has open any more says EIO.
                _ => return self.close_output(stream, now),
            }
        }
    }

    fn pass_on(&mut self, stream: usize, bytes: &[u8], now: Moment) {
        let Some((_, lines)) = &mut self.outputs[stream] else { return };
        let time = timestamp(now.wall);
        let mut taken = 0;
        while taken < bytes.len() {
            let mut out = Vec::new();
            taken += lines.push(&bytes[taken..], time.as_bytes(), BATCH, &mut out);
            self.log.write(&out, now.wall);
        }
        self.clients.iter_mut().for_each(|client| client.put(stream, bytes, now.steady));
    }

    fn close_output(&mut self, stream: usize, now: Moment) {
        self.end_line(stream, now);
        self.outputs[stream] = None;
    }

    fn end_line(&mut self, stream: usize, now: Moment) {
        if let Some((_, lines)) = &mut self.outputs[stream] {
            let mut out = Vec::new();
            lines.finish(timestamp(now.wall).as_bytes(), &mut out);
            self.log.write(&out, now.wall);
        }
    }

    /// The container has exited. What it wrote is in its pipes already, so they are read until they are empty, or
    /// until more came than a pipe holds: then a process it left behind goes on writing, and is read on as before.
    pub(super) fn finish(&mut self, scratch: &mut [u8], now: Moment) {
        self.ended = true;
        for stream in 0..self.outputs.len() {
            self.pump(stream, LARGEST_PIPE / scratch.len(), scratch, now);
            self.end_line(stream, now);
        }
        self.input = None;
        self.typed = Vec::new();
        self.sweep(now.steady);
    }

    fn type_in(&mut self, key: u32, scratch: &mut [u8]) {
        let Some(client) = self.clients.iter_mut().find(|client| client.key == key) else { return };
        let Some(typing) = &client.typing else { return };
        match sys::read(typing.as_fd(), scratch) {
            Ok(length) if length > 0 => self.typed.extend_from_slice(&scratch[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => {
                client.typing = None;
                self.end_of_typing();
            }
        }
        self.feed();
    }

    fn end_of_typing(&mut self) {
        if self.mode == StdinMode::Once && !self.typed_last {
            self.typed_last = true;
            if self.terminal {
                self.typed.push(0x04); // ^D: a terminal has no other end of file
            }
            self.clients.iter_mut().for_each(|client| client.typing = None);
        }
    }

    /// Passes on what was typed.
    fn feed(&mut self) {
        let Some(input) = &self.input else { return self.typed.clear() };
        while !self.typed.is_empty() {
            match sys::write(input.as_fd(), &self.typed) {
                Ok(written) => drop(self.typed.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.typed.clear(),
            }
        }
        self.typed = Vec::new();
        if self.typed_last {
            self.input = None;
        }
    }
}

//! The shim's life after its start: one loop that waits for children, peers and streams.

mod adopt;
mod attach;
mod connection;
mod cri;
mod exits;
mod files;
mod log;
mod pause;
mod process;
mod requests;
mod setup;
mod stdio;
mod task;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use shim::wire::{Event, Packet};

use crate::launch::Failure;
use crate::sys::{self, Moment};
use connection::Connection;
use pause::Pause;
use stdio::End;
use task::{Life, Task};

pub(crate) use setup::{report, run};

/// Peers at a time; the runtime needs two or three.
const MOST_CONNECTIONS: usize = 64;

/// One read of a stream, bytes: a quarter of a pipe.
const SCRATCH: usize = 16 * 1024;

/// How long killed processes may take to end at [`shim::wire::Request::Shutdown`], nanoseconds.
const SHUTDOWN_PATIENCE: i64 = 10_000_000_000;

/// How long the end waits for attached clients to take what was written last, nanoseconds after it was asked for.
const LAST_WORDS: i64 = 1_000_000_000;

/// Everything a shim knows; what must survive it is in the sandbox directory.
struct Shim {
    directory: PathBuf,
    /// Held for its lock: one shim per sandbox.
    _lock: OwnedFd,
    listener: OwnedFd,
    signals: OwnedFd,
    pause: Pause,
    tasks: Vec<Task>,
    connections: Vec<Connection>,
    last_task: u32,
    last_connection: u64,
    scratch: Box<[u8]>,
    /// Who asked for the end, and until when it may take.
    shutdown: Option<(u64, i64)>,
    done: bool,
}

/// What a descriptor in the list of those waited for belongs to. Keys are never used again, so a stale one finds
/// nothing.
#[derive(Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Connection(u64),
    /// A child on its way to its exec.
    Control(u32),
    /// An adopted process.
    Adopted(u32),
    AdoptedPause,
    Stream(u32, End),
}

impl Shim {
    /// Serves until it was asked to end.
    fn serve(mut self) {
        while !self.done {
            let (mut descriptors, tokens, deadline) = self.interests();
            if sys::poll(&mut descriptors, timeout(deadline, sys::steady())).is_err() {
                continue;
            }
            for (descriptor, token) in descriptors.iter().zip(tokens) {
                if descriptor.revents != 0 {
                    self.handle(token, descriptor.revents);
                }
            }
            self.settle();
        }
        let _ = std::fs::remove_file(self.directory.join("shim.sock"));
    }

    fn interests(&self) -> (Vec<libc::pollfd>, Vec<Token>, Option<i64>) {
        let mut descriptors = Vec::new();
        let mut tokens = Vec::new();
        let mut wait = |token, fd, events| {
            descriptors.push(libc::pollfd { fd, events, revents: 0 });
            tokens.push(token);
        };
        wait(Token::Signals, self.signals.as_raw_fd(), libc::POLLIN);
        if self.connections.len() < MOST_CONNECTIONS {
            wait(Token::Listener, self.listener.as_raw_fd(), libc::POLLIN);
        }
        for connection in &self.connections {
            let (fd, events) = connection.interest();
            wait(Token::Connection(connection.key), fd, events);
        }
        if let Some(pidfd) = self.pause.adopted() {
            wait(Token::AdoptedPause, pidfd.as_raw_fd(), libc::POLLIN);
        }
        let mut deadline = self.shutdown.map(|(_, deadline)| deadline);
        for task in &self.tasks {
            if let Life::Starting(starting) = &task.life {
                wait(Token::Control(task.key), starting.child.control.as_raw_fd(), libc::POLLIN);
            }
            if let (Some(pidfd), Life::Running) = (&task.process.adopted, &task.life) {
                wait(Token::Adopted(task.key), pidfd.as_raw_fd(), libc::POLLIN);
            }
            let stdio = task.stdio.as_ref();
            let due = stdio
                .and_then(|stdio| stdio.interests(|end, fd, events| wait(Token::Stream(task.key, end), fd, events)));
            deadline = deadline.into_iter().chain(due).min();
        }
        (descriptors, tokens, deadline)
    }

    fn handle(&mut self, token: Token, events: i16) {
        match token {
            Token::Signals => self.reap(),
            Token::Listener => self.accept(),
            Token::Connection(key) => self.hear(key, events),
            Token::Control(key) => self.hear_child(key),
            Token::Adopted(key) => self.adopted_ended(key),
            Token::AdoptedPause => self.adopted_pause_ended(),
            Token::Stream(key, end) => {
                let task = self.tasks.iter_mut().find(|task| task.key == key);
                if let Some(stdio) = task.and_then(|task| task.stdio.as_mut()) {
                    stdio.handle(end, events, &mut self.scratch, Moment::now());
                }
            }
        }
    }

    /// After each turn: what time or a departed peer has decided.
    fn settle(&mut self) {
        let now = sys::steady();
        for stdio in self.tasks.iter_mut().filter_map(|task| task.stdio.as_mut()) {
            stdio.sweep(now);
        }
        self.connections.retain(|connection| !connection.closed);
        self.go_on_with_shutdown(now);
    }

    fn accept(&mut self) {
        self.last_connection += 1;
        if let Ok(connection) = Connection::accept(self.listener.as_fd(), self.last_connection) {
            self.connections.push(connection);
        }
    }

    fn hear(&mut self, key: u64, events: i16) {
        let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) else { return };
        if events & libc::POLLOUT != 0 {
            connection.flush();
        }
        if events & libc::POLLIN != 0 && !connection.busy {
            if let Some((request, descriptors)) = connection.receive() {
                self.answer(key, request, descriptors);
            }
        } else if events & (libc::POLLHUP | libc::POLLERR) != 0 {
            connection.closed = true;
        }
    }

    /// Tells everybody who watches.
    fn tell(&mut self, event: &Event) {
        for connection in self.connections.iter_mut().filter(|connection| connection.watches) {
            connection.send(&Packet::Event(event.clone()), None);
        }
    }
}

/// Milliseconds for `poll`, rounded up so that a deadline has passed when it returns.
fn timeout(deadline: Option<i64>, now: i64) -> i32 {
    let Some(deadline) = deadline else { return -1 };
    let milliseconds = deadline.saturating_sub(now).max(0) / 1_000_000 + 1;
    milliseconds.try_into().unwrap_or(i32::MAX)
}

/// An error that a peer is told.
fn refusal(failure: Failure) -> shim::wire::Reply {
    shim::wire::Reply::Failed { reason: failure.reason, errno: failure.errno }
}

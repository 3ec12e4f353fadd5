//! What the runtime and a shim say to each other.
//!
//! One `SOCK_SEQPACKET` socket per sandbox, `<sandbox dir>/shim.sock` (0600): each packet is one [`Request`] or one
//! [`Reply`]/[`Event`]; descriptors travel beside a packet (`SCM_RIGHTS`). A connection that sent [`Request::Watch`]
//! receives events until it is closed. Everything large stays in files below the sandbox directory (on tmpfs):
//!
//! ```text
//! <sandbox dir>/shim.sock, shim.pid, shim.lock (one shim at a time holds it)
//! <sandbox dir>/pause.launch        Launch of the pause, written before the shim starts
//! <sandbox dir>/pause.pid           PidRecord, written by the shim before it answers anything
//! <sandbox dir>/pause.exit          ExitRecord, by rename
//! <sandbox dir>/shim.error          why the pause or the shim did not start, when it did not
//! <sandbox dir>/c/<container id>/launch     Launch, written by the runtime before `Start`
//! <sandbox dir>/c/<container id>/log        absolute path of the CRI log file, one line; empty: no log
//! <sandbox dir>/c/<container id>/stdin      "no", "once" or "open"
//! <sandbox dir>/c/<container id>/pid        PidRecord: "<pid> <start time in clock ticks, field 22 of stat> <unix ns>"
//! <sandbox dir>/c/<container id>/exit       ExitRecord: "<exit code> <unix ns>[ <note>]", by rename before anyone is told
//! <sandbox dir>/c/<container id>/{out,err}  FIFOs the container writes to; opened read-write on its side, so that it
//!                                           never sees a broken pipe while a killed shim is replaced
//! <sandbox dir>/c/<container id>/in         FIFO the container reads from, with stdin "once" or "open"
//! <sandbox dir>/x/<exec id>/launch          Launch of an exec
//! <sandbox dir>/x/<exec id>/{pid,exit}      as above
//! ```
//!
//! The runtime makes the directories `c/<id>` and `x/<id>` and the files it writes; the shim makes the rest. A start
//! that fails leaves neither `pid` nor `exit`.

use std::fmt;
use std::str::FromStr;

use crate::codec::{self, DecodeError, choice};

/// Longest packet in either direction, bytes.
pub const LARGEST_PACKET: usize = 64 * 1024;

/// What the runtime asks of a shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What is there? Answered with [`Reply::State`].
    State,
    /// Send [`Event`]s on this connection, after [`Reply::Done`]; every exit known so far that was not forgotten is
    /// told first.
    Watch,
    /// Start the container's init from its `launch` file.
    Start {
        /// Container id.
        id: String,
    },
    /// Start an exec from its `launch` file. Descriptors: stdin, stdout, stderr, or none for a terminal,
    /// whose master then comes beside the reply.
    Exec {
        /// Exec id, unique in the sandbox.
        id: String,
    },
    /// Send a signal to the init of a container or to an exec.
    Signal {
        /// Container or exec id.
        id: String,
        /// Signal number.
        signal: i32,
        /// Also to every process of its process group and session, for an exec that overran its time.
        whole_session: bool,
    },
    /// Connect the three descriptors beside this packet (stdin to read from, stdout and stderr to write to) to the
    /// container's stdio. With a terminal only the first two are used. `/dev/null` in one of the places means that
    /// this stream is not wanted. The shim makes the descriptors non-blocking: hand over ends that nobody else uses.
    /// They are closed when the container has exited and its output is out.
    Attach {
        /// Container id.
        id: String,
    },
    /// New size of a container's terminal. (The master of an exec's terminal is with the caller.)
    Resize {
        /// Container id.
        id: String,
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Close and reopen the log file by its path (after a rotation).
    ReopenLog {
        /// Container id.
        id: String,
    },
    /// Forget a container or exec that has exited; its files may then be removed.
    Forget {
        /// Container or exec id.
        id: String,
    },
    /// Kill what still runs, the pause last, answer, then end.
    Shutdown,
}

/// A shim's answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
    /// Started, with its pid in the shim's pid namespace. A terminal's master comes beside it for an exec.
    Started {
        /// Process id.
        pid: i32,
    },
    /// What there is.
    State {
        /// The pause, 0 once it is dead.
        pause: i32,
        /// `(id, pid)` of everything that runs; the pid is 0 for what has exited and was not forgotten.
        tasks: Vec<(String, i32)>,
    },
    /// Refused or failed: the step, the object and the errno, as text for a person.
    Failed {
        /// Why.
        reason: String,
        /// `ENOENT` and friends of the failing step; 0 where there is none.
        errno: i32,
    },
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A container's init or an exec ended. Its exit is on disk already.
    Exited {
        /// Container or exec id.
        id: String,
        /// 0–255, or 128 + signal.
        code: i32,
        /// When, in nanoseconds since the epoch.
        at: i64,
    },
    /// The pause ended: the sandbox is no longer ready.
    PauseExited {
        /// 0–255, or 128 + signal.
        code: i32,
        /// When, in nanoseconds since the epoch.
        at: i64,
    },
}

/// What a shim sends: the answer to a request, or on a watching connection an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Answer to the oldest request that has none yet.
    Reply(Reply),
    /// Only after [`Request::Watch`].
    Event(Event),
}

choice!(Request {
    0 => State {},
    1 => Watch {},
    2 => Start { id },
    3 => Exec { id },
    4 => Signal { id, signal, whole_session },
    5 => Attach { id },
    6 => Resize { id, width, height },
    7 => ReopenLog { id },
    8 => Forget { id },
    9 => Shutdown {},
});
choice!(Reply {
    0 => Done {},
    1 => Started { pid },
    2 => State { pause, tasks },
    3 => Failed { reason, errno },
});
choice!(Event {
    0 => Exited { id, code, at },
    1 => PauseExited { code, at },
});

impl codec::Field for Packet {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reply(reply) => {
                out.push(0);
                reply.put(out);
            }
            Self::Event(event) => {
                out.push(1);
                event.put(out);
            }
        }
    }
    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match u8::take(input)? {
            0 => Reply::take(input).map(Self::Reply),
            1 => Event::take(input).map(Self::Event),
            other => Err(DecodeError::Tag(other)),
        }
    }
}

impl Request {
    /// The packet to send.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a packet back.
    ///
    /// # Errors
    /// When it is longer than [`LARGEST_PACKET`] or not a request of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, LARGEST_PACKET)
    }
}

impl Packet {
    /// The packet to send.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a packet back.
    ///
    /// # Errors
    /// When it is longer than [`LARGEST_PACKET`] or neither a reply nor an event of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes, LARGEST_PACKET)
    }
}

/// Content of a `pid` file. The start time tells a process from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidRecord {
    /// Process id in the shim's pid namespace.
    pub pid: i32,
    /// Clock ticks after boot, field 22 of `/proc/<pid>/stat`.
    pub start: u64,
    /// When it was started, in nanoseconds since the epoch.
    pub at: i64,
}

/// Content of an `exit` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// 0–255, or 128 + signal.
    pub code: i32,
    /// When, in nanoseconds since the epoch.
    pub at: i64,
    /// Said when the code is not the process's own word, as after a shim was lost together with its child.
    pub note: Option<String>,
}

/// A `pid` or `exit` file that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a record a shim wrote")
    }
}

impl std::error::Error for BadRecord {}

impl fmt::Display for PidRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.pid, self.start, self.at)
    }
}

impl FromStr for PidRecord {
    type Err = BadRecord;
    fn from_str(text: &str) -> Result<Self, BadRecord> {
        let mut words = text.trim_end_matches('\n').split(' ');
        let record = Self { pid: word(&mut words)?, start: word(&mut words)?, at: word(&mut words)? };
        if words.next().is_none() && record.pid > 0 { Ok(record) } else { Err(BadRecord) }
    }
}

impl fmt::Display for ExitRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.at)?;
        if let Some(note) = &self.note {
            write!(f, " {}", note.replace('\n', " "))?;
        }
        writeln!(f)
    }
}

impl FromStr for ExitRecord {
    type Err = BadRecord;
    fn from_str(text: &str) -> Result<Self, BadRecord> {
        let mut words = text.trim_end_matches('\n').splitn(3, ' ');
        let (code, at) = (word(&mut words)?, word(&mut words)?);
        Ok(Self { code, at, note: words.next().map(str::to_owned) })
    }
}

fn word<'a, T: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Result<T, BadRecord> {
    words.next().and_then(|word| word.parse().ok()).ok_or(BadRecord)
}

#[cfg(test)]
mod tests;

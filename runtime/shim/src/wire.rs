//! What the runtime and a shim say to each other.
//!
//! One `SOCK_SEQPACKET` socket per sandbox, `<sandbox dir>/shim.sock` (0600): each packet is one [`Request`] or one
//! [`Reply`]/[`Event`]; descriptors travel beside a packet (`SCM_RIGHTS`). A connection that sent [`Request::Watch`]
//! receives events until it is closed. Everything large stays in files below the sandbox directory (on tmpfs):
//!
//! ```text
//! <sandbox dir>/shim.sock, shim.pid
//! <sandbox dir>/pause.launch        Launch of the pause, written before the shim starts
//! <sandbox dir>/pause.pid           written by the shim
//! <sandbox dir>/c/<container id>/launch     Launch, written by the runtime before `Start`
//! <sandbox dir>/c/<container id>/log        absolute path of the CRI log file, one line; empty: no log
//! <sandbox dir>/c/<container id>/stdin      "no", "once" or "open"
//! <sandbox dir>/c/<container id>/pid        "<pid> <start time in clock ticks, field 22 of /proc/pid/stat> <unix ns>"
//! <sandbox dir>/c/<container id>/exit       "<exit code> <unix ns>", written by rename before anyone is told
//! <sandbox dir>/c/<container id>/{out,err}  FIFOs the container writes to; opened read-write on its side, so that it
//!                                           never sees a broken pipe while a killed shim is replaced
//! <sandbox dir>/x/<exec id>/launch          Launch of an exec
//! ```

/// Longest packet in either direction, bytes.
pub const LARGEST_PACKET: usize = 64 * 1024;

/// What the runtime asks of a shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// What is there? Answered with [`Reply::State`].
    State,
    /// Send [`Event`]s on this connection; every exit known so far that was not forgotten is told first.
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
    /// container's stdio. With a terminal only the first two are used.
    Attach {
        /// Container id.
        id: String,
    },
    /// New size of a container's terminal.
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
    /// Kill what still runs, the pause last, then end.
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

//! Exec, attach and port-forward over a connection: what `Exec`, `Attach` and `PortForward` hand out a URL for.
//!
//! ```text
//! CRI call --Session--> tokens --URL--> caller ... connects to 127.0.0.1 --head--> tokens --Session--> upgrade
//!      upgrade --WebSocket--> channels --+                          +--> process (exec, attach)
//!      upgrade --SPDY/3.1---> lanes -----+---- Speaker, Listener ---+
//!      upgrade --SPDY/3.1, by itself or in a WebSocket--> pairs;  --WebSocket--> forward
//! ```
//!
//! A URL holds a token of 256 random bits, works once, and only for a minute. Every buffer is bounded: a slow client slows
//! the process down, nothing piles up. A connection on which nothing moves for four hours is closed, as the kubelet does.
//!
//! Reading order: [`head`] and [`upgrade`] (what a connection asks for), [`server`], [`process`] and its two codecs,
//! [`channels`] with [`websocket`] and [`lanes`]; [`pairs`] and [`forward`] (ports).
//! Nothing in here knows a container: a [`Session`] is a few streams.

pub(crate) mod channels;
pub(crate) mod forward;
#[cfg(test)]
mod fuzz;
pub(crate) mod head;
pub(crate) mod lanes;
pub(crate) mod pairs;
pub(crate) mod process;
pub(crate) mod server;
pub(crate) mod terminal;
pub(crate) mod tokens;
pub(crate) mod upgrade;
pub(crate) mod websocket;

use std::pin::Pin;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// What a one-time URL stands for.
pub(crate) enum Session {
    /// A process to start or to attach to, once the client is there with its streams.
    Process(Wanted, Begin<Streams>),
    /// Connections into a pod's network.
    Forward(Dial),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Process(..) => "Session::Process",
            Self::Forward(_) => "Session::Forward",
        })
    }
}

/// The streams that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The client sends input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// There is a terminal, whose size the client tells.
    pub tty: bool,
}

/// Begins when the client has connected; the error is for the client's eyes.
pub(crate) type Begin<T> = Box<dyn FnOnce() -> BoxFuture<'static, Result<T, String>> + Send>;

/// Connects to a port inside the pod; the error is for the client's eyes.
pub(crate) type Dial = Box<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// What the process reads.
pub(crate) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// What the process writes.
pub(crate) type Output = Pin<Box<dyn AsyncRead + Send>>;

/// A process's streams; those that nobody asked for are `None`.
pub(crate) struct Streams {
    /// Written to until it is dropped, which is the process's end of input.
    pub stdin: Option<Input>,
    /// Standard output, or all there is with a terminal.
    pub stdout: Option<Output>,
    /// Standard error.
    pub stderr: Option<Output>,
    /// Takes (columns, rows) of a terminal.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Resolves when the process has ended.
    pub ended: BoxFuture<'static, Ended>,
    /// Called when the client went away before the process ended.
    pub abandon: Box<dyn FnOnce() + Send>,
}

/// How a process ended, as far as a client of its streams is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this exit code.
    Exited(i32),
    /// It was lost; the text says how.
    Failed(String),
}

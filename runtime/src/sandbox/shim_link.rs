//! Asking a sandbox's shim, from async code.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use shim::client::Client;
use shim::wire::{Event, Packet, Reply, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::signals::SIGKILL;
use crate::state::layout::SandboxDir;

/// Far below what the shim's listen queue holds, so that `connect(2)` never waits.
const MOST_REQUESTS: usize = 8;

/// How long a shim that was killed may take to be replaced, and how often it is looked for meanwhile.
const REPLACEMENT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// A shim answers in milliseconds; this is for a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(20);

/// The way to one sandbox's shim, whichever process that is at the moment.
#[derive(Debug)]
pub(crate) struct ShimLink {
    dir: PathBuf,
    room: Semaphore,
}

/// Why a shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// Nobody listens there: it has not started yet, or was killed.
    #[error("connecting to the shim in {}", dir.display())]
    Connect {
        /// The sandbox's directory.
        dir: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The connection broke, or the answer was no answer.
    #[error("asking the shim in {} to {doing}", dir.display())]
    Lost {
        /// The sandbox's directory.
        dir: PathBuf,
        /// What it was asked to do.
        doing: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The shim said no.
    #[error("{reason}")]
    Refused {
        /// In the shim's words.
        reason: String,
        /// Errno of the failing step; 0 where there is none.
        errno: i32,
    },
}

impl ShimError {
    /// Nobody is there to ask, or nobody has read the question: a socket that is closed with something unread in it
    /// says "connection reset" to the other side.
    pub(crate) fn is_gone(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self {
            Self::Connect { .. } => true,
            Self::Lost { source, .. } => matches!(source.kind(), BrokenPipe | ConnectionReset),
            Self::Refused { .. } => false,
        }
    }
}

/// A connection on which a shim tells what ends.
#[derive(Debug)]
pub(crate) struct Events(AsyncFd<Client>);

impl ShimLink {
    /// The link to the shim of `dir`.
    pub(crate) fn new(dir: &SandboxDir) -> Self {
        Self { dir: dir.path().into(), room: Semaphore::new(MOST_REQUESTS) }
    }

    /// Asks and waits for the answer, which is never `Reply::Failed`. A shim that was killed is replaced within a moment;
    /// whoever asks for something to go on need not hear of it.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub(crate) async fn ask(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ShimError> {
        let _place = self.room.acquire().await;
        let until = Instant::now() + REPLACEMENT;
        loop {
            match self.ask_once(request, descriptors).await {
                Err(error) if error.is_gone() && can_wait(request) && Instant::now() < until => {
                    tokio::time::sleep(LOOK).await;
                }
                answer => return answer,
            }
        }
    }

    async fn ask_once(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ShimError> {
        let connection = self.connect()?;
        let lost = |source| ShimError::Lost { dir: self.dir.clone(), doing: verb(request), source };
        let exchange = async {
            connection.async_io(Interest::WRITABLE, |client| client.send(request, descriptors)).await?;
            connection.async_io(Interest::READABLE, Client::receive).await
        };
        let answer = timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match answer.map_err(lost)? {
            (Packet::Reply(Reply::Failed { reason, errno }), _) => Err(ShimError::Refused { reason, errno }),
            (Packet::Reply(reply), descriptors) => Ok((reply, descriptors)),
            (Packet::Event(_), _) => Err(lost(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Begins to watch: everything that has ended and was not forgotten comes first.
    ///
    /// # Errors
    /// See [`ShimError`].
    pub(crate) async fn watch(&self) -> Result<Events, ShimError> {
        let connection = self.connect()?;
        let lost = |source| ShimError::Lost { dir: self.dir.clone(), doing: "tell what ends", source };
        let sent = connection.async_io(Interest::WRITABLE, |client| client.send(&Request::Watch, &[])).await;
        sent.map_err(lost)?;
        Ok(Events(connection))
    }

    fn connect(&self) -> Result<AsyncFd<Client>, ShimError> {
        let connected = Client::connect(&self.dir).and_then(|client| {
            client.set_nonblocking(true)?;
            // SAFETY: a client owns its socket and is always the same descriptor until it is dropped.
            Ok(unsafe { AsyncFd::register(client) }?)
        });
        connected.map_err(|source| ShimError::Connect { dir: self.dir.clone(), source })
    }
}

impl Events {
    /// The next event; `None` once the shim is gone.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.async_io(Interest::READABLE, Client::receive).await {
                Ok((Packet::Event(event), _)) => return Some(event),
                // The answer to `Watch` itself.
                Ok((Packet::Reply(Reply::Done), _)) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// What ends things does not wait for somebody to be asked: there are other ways to an end.
fn can_wait(request: &Request) -> bool {
    match request {
        Request::Start { .. }
        | Request::Exec { .. }
        | Request::Attach { .. }
        | Request::Resize { .. }
        | Request::ReopenLog { .. } => true,
        Request::Signal { signal, .. } => *signal != SIGKILL,
        Request::State | Request::Watch | Request::Forget { .. } | Request::Shutdown => false,
    }
}

fn verb(request: &Request) -> &'static str {
    match request {
        Request::State => "say what there is",
        Request::Watch => "tell what ends",
        Request::Start { .. } => "start a container",
        Request::Exec { .. } => "start an exec",
        Request::Signal { .. } => "send a signal",
        Request::Attach { .. } => "attach",
        Request::Resize { .. } => "resize a terminal",
        Request::ReopenLog { .. } => "reopen a log",
        Request::Forget { .. } => "forget a process",
        Request::Shutdown => "shut down",
    }
}

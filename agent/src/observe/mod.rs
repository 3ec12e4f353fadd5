//! What the runtime has: one pod's sandboxes and containers as plain values, and how they are asked for.

mod events;
mod list;

use jiff::Timestamp;

use crate::names::ObjectName;

pub use events::{Waker, follow};
pub use list::{ObserveError, everything, pod};

/// One pod as the runtime shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Newest instance of each name first.
    pub containers: Vec<Container>,
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// The pod it was made for.
    pub pod: ObjectName,
    /// Counts re-creations, from 0.
    pub attempt: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Its processes and namespaces are there.
    pub ready: bool,
    /// Primary address first; empty on the host's network.
    pub ips: Vec<String>,
    /// It shares the host's network.
    pub host_network: bool,
}

/// One container instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// Which instance: the restart count it was made with.
    pub attempt: u32,
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// What it is doing.
    pub state: State,
    /// When it was made.
    pub created: Timestamp,
    /// Hash of the definition it was made from; `None` when the annotation is missing.
    pub hash: Option<u32>,
    /// The image's name as the runtime shows it.
    pub image: String,
    /// The image reference for `status.imageID`.
    pub image_ref: String,
    /// `terminationMessagePath` on the host, if it was made with one.
    pub message_file: Option<String>,
    /// User and groups of the first process, when the runtime says.
    pub user: Option<User>,
}

/// A process's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Uid.
    pub uid: i64,
    /// Gid.
    pub gid: i64,
    /// Supplementary groups.
    pub groups: Vec<i64>,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Its process lives.
    Running {
        /// Since when.
        started: Timestamp,
    },
    /// Its process is gone.
    Exited {
        /// When it had started; `None` when it never did.
        started: Option<Timestamp>,
        /// When it ended.
        finished: Timestamp,
        /// Exit code; 128 + n for signal n.
        code: i32,
        /// The runtime's reason: `Completed`, `Error`, `OOMKilled`, `StartError`, …
        reason: String,
        /// The runtime's message, and the termination message where there is one.
        message: String,
    },
    /// The runtime does not know.
    Unknown,
}

impl State {
    /// The process lives.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The process may live: everything but an end or a beginning that was never begun.
    pub fn may_run(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unknown)
    }
}

impl Observed {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The newest instance of a container.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// All instances of a container, newest first.
    pub fn instances<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// A container by its id.
    pub fn by_id(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// Some container's process may live.
    pub fn anything_runs(&self) -> bool {
        self.containers.iter().any(|container| container.state.may_run())
    }

    /// Puts everything in the order that the other methods count on.
    pub fn sorted(mut self) -> Self {
        self.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created)));
        self.containers.sort_by(|a, b| (&a.name, b.attempt, b.created).cmp(&(&b.name, a.attempt, a.created)));
        self
    }
}

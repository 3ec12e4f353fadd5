//! What a worker can do: each step is one job, and no two jobs of one pod touch the same thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::life::Undo;
use crate::container::ImageFacts;
use crate::observe::Container;
use crate::resources::resize::Amounts;
use crate::volumes::MountedVolumes;

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Directories, cgroup and volumes.
    SetUp,
    /// Volumes' contents follow changed objects.
    Refresh,
    /// The image of this container is made sure of.
    Image {
        /// The container.
        container: String,
        /// The image: it may be another one by the time this one is there.
        image: String,
    },
    /// A sandbox is made.
    Sandbox {
        /// Which re-creation it is.
        attempt: u32,
    },
    /// A sandbox that is no good any more is stopped.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// A container is made, started, and its postStart hook run.
    Start(Start),
    /// A preStop hook is run ahead of its container's turn to stop.
    PreStop {
        /// The container's id.
        id: String,
        /// Its name.
        container: String,
        /// When it is cut off.
        deadline: Timestamp,
    },
    /// A container is stopped.
    Kill(Kill),
    /// A dead container is removed.
    Remove(Remains),
    /// The cgroups of what runs follow what was granted.
    Resize(Resize),
    /// A dead sandbox is removed.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Something is given back for good.
    Undo(Undo),
}

/// How a container is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The container.
    pub container: String,
    /// Which instance; `None` where only the logs can tell.
    pub restarts: Option<u32>,
    /// The sandbox it joins.
    pub sandbox: String,
    /// An instance that was made and never started: it goes first.
    pub replaces: Option<String>,
    /// The end of the former instance, for its back-off.
    pub after: Option<Timestamp>,
}

/// How a container is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub container: String,
    /// The `Killing` event's message; `None` where it was said before.
    pub message: Option<String>,
    /// When it is killed for good.
    pub deadline: Timestamp,
    /// Its preStop hook was run already.
    pub hook_done: bool,
    /// Whatever its exit code, it is started again.
    pub again: bool,
}

/// A change of resources under running containers.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// What the cgroups have now.
    pub from: Amounts,
    /// Name and id of every container that runs.
    pub running: Vec<(String, String)>,
    /// The pod's sandbox.
    pub sandbox: String,
}

/// What is left of a container that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Its id.
    pub id: String,
    /// Its name.
    pub container: String,
    /// Which instance it was: its log carries this number.
    pub attempt: u32,
    /// Its termination message on this node.
    pub message_file: Option<String>,
    /// Its log stays: nothing that follows takes its place.
    pub keep_log: bool,
}

impl From<&Container> for Remains {
    fn from(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            container: container.name.clone(),
            attempt: container.attempt,
            message_file: container.message_file.clone(),
            keep_log: false,
        }
    }
}

/// What a job is busy with; one job at a time for each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Directories, cgroup and volumes.
    Volumes,
    /// A container's image.
    Image(String),
    /// Making or stopping sandboxes.
    Sandbox,
    /// Making and starting a container, by name.
    Start(String),
    /// A hook ahead of a stop, by container id.
    PreStop(String),
    /// Stopping a container, by id.
    Kill(String),
    /// Removing a container or sandbox, by id.
    Remove(String),
    /// Changing the cgroups of what runs.
    Resize,
    /// Giving back.
    Undo,
}

impl Step {
    /// Nothing new comes of it.
    pub fn takes_away(&self) -> bool {
        let new = matches!(self, Self::SetUp | Self::Refresh | Self::Image { .. } | Self::Sandbox { .. });
        !new && !matches!(self, Self::Start(_) | Self::Resize(_))
    }

    /// What the step is busy with.
    pub fn job(&self) -> Job {
        match self {
            Self::SetUp | Self::Refresh => Job::Volumes,
            Self::Image { container, .. } => Job::Image(container.clone()),
            Self::Sandbox { .. } | Self::StopSandbox { .. } => Job::Sandbox,
            Self::Start(start) => Job::Start(start.container.clone()),
            Self::PreStop { id, .. } => Job::PreStop(id.clone()),
            Self::Kill(kill) => Job::Kill(kill.id.clone()),
            Self::Remove(Remains { id, .. }) | Self::RemoveSandbox { id } => Job::Remove(id.clone()),
            Self::Resize(_) => Job::Resize,
            Self::Undo(_) => Job::Undo,
        }
    }
}

/// Why something does not go on, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The reason that a status shows, such as `ErrImagePull`.
    pub reason: String,
    /// The message beside it.
    pub message: String,
    /// When it happened.
    pub since: Timestamp,
    /// When it is tried again.
    pub retry: Timestamp,
    /// An image that could not be pulled: the status alternates between the error and the wait.
    pub pull_of: Option<String>,
    /// The container was made and has ended: what it waits for is its restart delay.
    pub has_run: bool,
}

/// What is known of a pod's way besides what the runtime shows: lost when the agent ends, and then found out again.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Jobs under way; a kill says by when.
    pub doing: BTreeMap<Job, Option<Timestamp>>,
    /// Images that are there, by container name; used up by a start.
    pub images: BTreeMap<String, ImageFacts>,
    /// Volumes, once all are mounted.
    pub volumes: Option<Arc<MountedVolumes>>,
    /// The volumes' contents are those of this set of objects.
    pub stale: bool,
    /// What keeps volumes from being mounted.
    pub volume_trouble: Option<Trouble>,
    /// What keeps the sandbox from being made.
    pub sandbox_trouble: Option<Trouble>,
    /// What keeps containers from starting, by name.
    pub container_trouble: BTreeMap<String, Trouble>,
    /// What keeps a resize from being done.
    pub resize_trouble: Option<Trouble>,
    /// What keeps things from being removed or given back.
    pub undo_trouble: Option<Trouble>,
    /// Containers whose preStop hook was run, by id.
    pub hooks_done: Vec<String>,
    /// When containers were stopped that are still shown, by id.
    pub killed: BTreeMap<String, Timestamp>,
}

impl Progress {
    /// A job of this kind is under way.
    pub fn is_doing(&self, job: &Job) -> bool {
        self.doing.contains_key(job)
    }

    /// Something is being made that a stop must wait for.
    pub fn is_making(&self) -> bool {
        self.doing.keys().any(|job| matches!(job, Job::Start(_) | Job::Sandbox | Job::Volumes))
    }
}

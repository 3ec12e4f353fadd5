//! One step -> calls on the seams. Too dull to hold a decision.

mod hooks;
mod image_volumes;
mod resize;
mod setup;
mod start;
mod stop;
mod undo;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::life::Undo;
use super::mailbox::Want;
use super::step::Step;
use super::tools::Tools;
use crate::container::ImageFacts;
use crate::images::ImageError;
use crate::names::PodUid;
use crate::resources::resize::Amounts;
use crate::volumes::MountedVolumes;

/// What a step is done with: copied when it begins.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) tools: Arc<Tools>,
    pub(super) uid: PodUid,
    pub(super) want: Want,
    /// The pod's addresses.
    pub(super) ips: Vec<String>,
    /// The container's image, where the step needs one.
    pub(super) image: Option<ImageFacts>,
    /// The pod's volumes, where the step needs them.
    pub(super) volumes: Option<Arc<MountedVolumes>>,
    /// The attempt of the newest sandbox.
    pub(super) attempt: u32,
    /// Set when the pod is to end: hooks and pulls are cut off.
    pub(super) ending: CancellationToken,
}

/// How a step came out.
#[derive(Debug)]
pub(super) enum Done {
    SetUp(Result<Arc<MountedVolumes>, Failed>),
    Refreshed(Result<(), Failed>),
    Image {
        container: String,
        image: String,
        result: Result<ImageFacts, ImageError>,
    },
    Sandbox(Result<(), Failed>),
    Started {
        container: String,
        result: Result<(), Failed>,
    },
    PreStopped {
        id: String,
    },
    Killed {
        id: String,
        result: Result<(), Failed>,
    },
    Resized(Result<Amounts, Failed>),
    Removed {
        result: Result<(), Failed>,
    },
    Undone {
        undo: Undo,
        result: Result<(), Failed>,
    },
    /// Cut off because the pod ends.
    CutOff,
}

impl Done {
    /// Why the step failed, if it did; an image's own error is not among these.
    pub(super) fn failed(&self) -> Option<&Failed> {
        match self {
            Self::SetUp(result) => result.as_ref().err(),
            Self::Refreshed(result) | Self::Sandbox(result) => result.as_ref().err(),
            Self::Resized(result) => result.as_ref().err(),
            Self::Started { result, .. }
            | Self::Killed { result, .. }
            | Self::Removed { result }
            | Self::Undone { result, .. } => result.as_ref().err(),
            Self::Image { .. } | Self::PreStopped { .. } | Self::CutOff => None,
        }
    }
}

/// Why a step failed: what a status shows. The event has been told.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Failed {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl Job {
    pub(super) fn pod(&self) -> &Pod {
        &self.want.pod
    }

    pub(super) async fn run(self, step: Step) -> Done {
        match step {
            Step::SetUp => Done::SetUp(self.set_up().await),
            Step::Refresh => Done::Refreshed(self.refresh().await),
            Step::Image { container, image } => {
                let ending = self.ending.clone();
                let result = tokio::select! {
                    () = ending.cancelled() => return Done::CutOff,
                    result = self.image(&container) => result,
                };
                Done::Image { container, image, result }
            }
            Step::Sandbox { attempt } => Done::Sandbox(self.sandbox(attempt).await),
            Step::StopSandbox { id } => Done::Sandbox(self.stop_sandbox(&id).await),
            Step::Start(start) => {
                let container = start.container.clone();
                Done::Started { container, result: self.start(start).await }
            }
            Step::PreStop { id, container, deadline } => {
                self.pre_stop(&id, &container, deadline).await;
                Done::PreStopped { id }
            }
            Step::Kill(kill) => Done::Killed { id: kill.id.clone(), result: self.kill(kill).await },
            Step::Remove(remains) => Done::Removed { result: self.remove(&remains).await },
            Step::RemoveSandbox { id } => Done::Removed { result: self.remove_sandbox(&id).await },
            Step::Resize(resize) => Done::Resized(self.resize(&resize).await),
            Step::Undo(undo) => Done::Undone { undo, result: self.undo(undo).await },
        }
    }
}

/// What is left until `deadline`.
pub(super) fn left(deadline: Timestamp) -> std::time::Duration {
    deadline.duration_since(Timestamp::now()).try_into().unwrap_or(std::time::Duration::ZERO)
}

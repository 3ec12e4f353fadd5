//! Removes images that nobody uses, when they are too old or the disk is too full, and what is left of pods that have ended,
//! when the node is short of disk. Which images, and when, is decided in [`crate::images::collect`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri_proto::{Deadline, RuntimeError, v1};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Handle;
use crate::container::labels;
use crate::errors::chain;
use crate::events::{About, EventType};
use crate::images::collect::{self, Found, Records};
use crate::machine::FileSystem;
use crate::names::PodUid;
use crate::resources::pressure::Level;

/// After a start the images of pods that are just being taken over are looked at first.
const FIRST: Duration = Duration::from_secs(5);

/// Why not enough was removed.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("asking the runtime for images and containers")]
    Runtime(#[from] RuntimeError),
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    #[error("{0}")]
    Short(String),
    #[error("removing images: {0}")]
    Removal(String),
}

/// Clones share what is known of the images.
#[derive(Clone)]
pub(super) struct Collector {
    node: Handle,
    records: Arc<Mutex<Records>>,
    began: Instant,
}

impl Collector {
    pub(super) fn new(node: Handle) -> Self {
        Self { node, records: Arc::default(), began: Instant::now() }
    }

    /// Collects until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let collecting = async {
            if let Err(error) = self.note(&mut *self.records.lock().await).await {
                warn!(error = chain(&error), "looking at the images");
            }
            let (mut pause, mut failed) = (FIRST, false);
            loop {
                tokio::time::sleep(pause).await;
                pause = collect::EVERY;
                failed = self.round(failed).await;
            }
        };
        stop.run_until_cancelled(collecting).await;
    }

    /// Says whether it failed; an event is told from the second time on.
    async fn round(&self, failed_before: bool) -> bool {
        let Err(error) = self.collect().await else { return false };
        warn!(error = chain(&error), "collecting images");
        if failed_before {
            self.say("ImageGCFailed", chain(&error));
        }
        true
    }

    fn say(&self, reason: &str, message: String) {
        self.node.recorder.record(About::Node, EventType::Warning, reason, message, Timestamp::now());
    }

    async fn collect(&self) -> Result<(), CollectError> {
        let mut records = self.records.lock().await;
        self.note(&mut records).await?;
        let (policy, now) = (self.node.config.images, Instant::now());
        for id in records.outlived(&policy, self.began, now) {
            self.remove_image(&id).await?;
        }
        if policy.high_percent >= 100 {
            return Ok(());
        }
        let Some(full) = collect::full(&policy, self.level().await?) else { return Ok(()) };
        info!(percent = full.percent, "the file system of the images is too full");
        let freed = self.free(&records, full.excess).await?;
        if freed >= full.excess {
            return Ok(());
        }
        let message = full.failure(freed);
        self.say("FreeDiskSpaceFailed", message.clone());
        Err(CollectError::Short(message))
    }

    async fn level(&self) -> Result<Level, CollectError> {
        let root = self.node.config.dirs.root.clone();
        let found = tokio::task::spawn_blocking(move || FileSystem::of(&root)).await.ok().flatten();
        let found = found.filter(|found| found.capacity > 0).ok_or_else(|| {
            self.say("InvalidDiskCapacity", CollectError::NoCapacity.to_string());
            CollectError::NoCapacity
        })?;
        Ok(Level { available: found.available, capacity: found.capacity })
    }

    /// Removes every image that nobody uses: the node is short of disk.
    pub(super) async fn remove_unused(&self) {
        let mut records = self.records.lock().await;
        let removed = match self.note(&mut records).await {
            Ok(()) => self.free(&records, u64::MAX).await.map(drop),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = removed {
            warn!(error = chain(&error), "removing unused images");
        }
    }

    /// Removes the containers of pods that have ended. Their statuses and logs stay.
    pub(super) async fn remove_ended(&self) {
        let containers = match self.containers().await {
            Ok(containers) => containers,
            Err(error) => return warn!(error = chain(&error), "looking for containers that have ended"),
        };
        let views = self.node.views.borrow().clone();
        let has_ended = |container: &v1::Container| {
            let uid = container.labels.get(labels::POD_UID).cloned().and_then(|uid| PodUid::try_from(uid).ok());
            let view = uid.and_then(|uid| views.get(&uid));
            view.is_some_and(|view| matches!(view.status.phase.as_deref(), Some("Failed" | "Succeeded")))
        };
        let exited = v1::ContainerState::ContainerExited as i32;
        for container in containers.into_iter().filter(|one| one.state == exited && has_ended(one)) {
            let request = v1::RemoveContainerRequest { container_id: container.id.clone() };
            if let Err(error) = self.node.runtime.remove_container(request, self.by()).await {
                warn!(container = container.id, error = chain(&error), "removing a container that has ended");
            }
        }
    }

    fn by(&self) -> Deadline {
        Deadline::within(self.node.config.timing.request)
    }

    async fn containers(&self) -> Result<Vec<v1::Container>, RuntimeError> {
        let request = v1::ListContainersRequest { filter: None };
        Ok(self.node.runtime.list_containers(request, self.by()).await?.containers)
    }

    /// Looks at what is here and what of it is in use: by containers, those that have ended too, and as volumes of images.
    async fn note(&self, records: &mut Records) -> Result<(), RuntimeError> {
        let images = self.node.runtime.list_images(v1::ListImagesRequest { filter: None }, self.by()).await?.images;
        let mut in_use = BTreeSet::new();
        for container in self.containers().await? {
            in_use.extend([container.image_id, container.image_ref]);
            in_use.extend(self.mounted(container.id).await?);
        }
        let found = |image: v1::Image| Found {
            stays: image.pinned || image.repo_digests.is_empty(),
            size: image.size,
            id: image.id,
        };
        records.note(images.into_iter().map(found).collect(), &in_use, Instant::now());
        Ok(())
    }

    /// The images that a container has as volumes.
    async fn mounted(&self, container_id: String) -> Result<Vec<String>, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id, verbose: false };
        let mounts = match self.node.runtime.container_status(request, self.by()).await {
            Ok(answer) => answer.status.unwrap_or_default().mounts,
            Err(error) if error.kind == cri_proto::Kind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut ids = Vec::new();
        for name in mounts.into_iter().filter_map(|mount| mount.image).map(|image| image.image) {
            // By name or by id; an image that is gone is nobody's.
            ids.extend(self.node.images.find(&name).await.ok().flatten().map(|found| found.reference));
        }
        Ok(ids)
    }

    /// Removes unused images until so many bytes are free, and says how many were.
    async fn free(&self, records: &Records, wanted: u64) -> Result<u64, CollectError> {
        let (mut freed, mut failed) = (0_u64, None);
        for (id, size) in records.unused(&self.node.config.images, Instant::now()) {
            match self.remove_image(&id).await {
                Ok(()) => freed = freed.saturating_add(size),
                Err(error) => failed = Some(error),
            }
            if freed >= wanted {
                break;
            }
        }
        failed.map_or(Ok(freed), Err)
    }

    async fn remove_image(&self, id: &str) -> Result<(), CollectError> {
        info!(image = id, "removing an image that nobody uses");
        let image = Some(v1::ImageSpec { image: id.to_owned(), ..v1::ImageSpec::default() });
        let removed = self.node.runtime.remove_image(v1::RemoveImageRequest { image }, self.by()).await;
        removed.map(drop).map_err(|error| CollectError::Removal(format!("{id}: {}", chain(&error))))
    }
}

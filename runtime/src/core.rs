//! What all rooms share: the machine's layout, the store, the network, and who exists.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use cri_proto::{Kind, v1};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blocking::now_ns;
use crate::cgroups::Cgroups;
use crate::container::{Container, ContainerName};
use crate::containers::HostFacts;
use crate::containers::seccomp::Programs;
use crate::error::LifeError;
use crate::events::EventHub;
use crate::ids::{ContainerId, SandboxId};
use crate::images::ImageStore;
use crate::sandbox::{Sandbox, SandboxName};
use crate::service::view;
use crate::state::layout::Layout;
use crate::state::names::Names;

/// Shared by every call.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) layout: Layout,
    pub(crate) cgroups: Cgroups,
    pub(crate) host: HostFacts,
    pub(crate) images: ImageStore,
    pub(crate) network: cni::Bridge,
    /// Where images and writable layers are, as statistics name it.
    pub(crate) image_fs: PathBuf,
    /// Compiled seccomp filters, which most containers share.
    pub(crate) programs: Programs,
    pub(crate) events: EventHub,
    pub(crate) sandbox_names: Names<SandboxName, Arc<Sandbox>>,
    pub(crate) container_names: Names<ContainerName, Arc<Container>>,
    index: RwLock<Index>,
    /// Everything that runs beside the calls.
    pub(crate) tasks: TaskTracker,
    /// Ends those tasks; containers and shims go on.
    pub(crate) stop: CancellationToken,
}

/// By id; held for a look-up, never while anything is done.
#[derive(Debug, Default)]
struct Index {
    sandboxes: HashMap<SandboxId, Arc<Sandbox>>,
    containers: HashMap<ContainerId, Arc<Container>>,
}

/// What [`Core`] is made of.
pub(crate) struct Parts {
    pub(crate) layout: Layout,
    pub(crate) cgroups: Cgroups,
    pub(crate) host: HostFacts,
    pub(crate) images: ImageStore,
    pub(crate) network: cni::Bridge,
    pub(crate) image_fs: PathBuf,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { layout, cgroups, host, images, network, image_fs } = parts;
        Self {
            layout,
            cgroups,
            host,
            images,
            network,
            image_fs,
            programs: Programs::default(),
            events: EventHub::default(),
            sandbox_names: Names::default(),
            container_names: Names::default(),
            index: RwLock::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.read(|index| index.sandboxes.values().cloned().collect())
    }

    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.read(|index| index.containers.values().cloned().collect())
    }

    /// # Errors
    /// `NotFound`.
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, LifeError> {
        let parsed = SandboxId::try_from(id).map_err(|bad| LifeError::new(Kind::NotFound, bad.to_string()))?;
        self.read(|index| index.sandboxes.get(&parsed).cloned())
            .ok_or_else(|| LifeError::new(Kind::NotFound, format!("there is no sandbox {id}")))
    }

    /// # Errors
    /// `NotFound`.
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>, LifeError> {
        let parsed = ContainerId::try_from(id).map_err(|bad| LifeError::new(Kind::NotFound, bad.to_string()))?;
        self.read(|index| index.containers.get(&parsed).cloned())
            .ok_or_else(|| LifeError::new(Kind::NotFound, format!("there is no container {id}")))
    }

    /// # Errors
    /// `NotFound`: it is being removed with its containers.
    pub(crate) fn sandbox_of(&self, container: &Container) -> Result<Arc<Sandbox>, LifeError> {
        self.sandbox(container.sandbox.as_str())
    }

    pub(crate) fn add_sandbox(&self, sandbox: &Arc<Sandbox>) {
        self.write(|index| index.sandboxes.insert(sandbox.id.clone(), sandbox.clone()));
    }

    pub(crate) fn add_container(&self, sandbox: &Sandbox, container: &Arc<Container>) {
        sandbox.add(container.clone());
        self.write(|index| index.containers.insert(container.id.clone(), container.clone()));
    }

    pub(crate) fn forget_sandbox(&self, sandbox: &Sandbox) {
        self.write(|index| index.sandboxes.remove(&sandbox.id));
        self.sandbox_names.release(&sandbox.name, |held| held.id == sandbox.id);
    }

    pub(crate) fn forget_container(&self, sandbox: &Sandbox, container: &Container) {
        sandbox.forget(&container.id);
        self.write(|index| index.containers.remove(&container.id));
        self.container_names.release(&container.name, |held| held.id == container.id);
    }

    /// Tells listeners what happened to a container.
    pub(crate) fn tell(&self, what: v1::ContainerEventType, sandbox: &Sandbox, container: &Container) {
        self.tell_about(what, container.id.as_str(), sandbox);
    }

    /// Tells listeners what happened to a sandbox: an event in whose `container_id` is the sandbox's own.
    pub(crate) fn tell_sandbox(&self, what: v1::ContainerEventType, sandbox: &Sandbox) {
        self.tell_about(what, sandbox.id.as_str(), sandbox);
    }

    fn tell_about(&self, what: v1::ContainerEventType, id: &str, sandbox: &Sandbox) {
        if !self.events.has_listeners() {
            return;
        }
        let containers = sandbox.containers();
        self.events.tell(v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: what.into(),
            created_at: now_ns(),
            pod_sandbox_status: Some(view::sandbox_status(sandbox)),
            containers_statuses: containers
                .iter()
                .map(|container| view::container_status(sandbox, container))
                .collect(),
        });
    }

    fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }
}

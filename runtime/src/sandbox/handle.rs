//! One sandbox in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri_proto::v1;
use tokio::sync::{RwLock, watch};
use tracing::warn;

use super::execs::Execs;
use super::shim_link::ShimLink;
use crate::container::Container;
use crate::containers::UserIds;
use crate::error::chain;
use crate::ids::{ContainerId, SandboxId};
use crate::state::files::FileError;
use crate::state::layout::SandboxDir;
use crate::state::records::{self, SandboxPhase, SandboxRecord};

/// What makes a sandbox the one that a caller means: name, namespace, uid and attempt of its pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SandboxName(String);

impl SandboxName {
    /// The name of the pod's `attempt`.
    pub(crate) fn of(metadata: &v1::PodSandboxMetadata) -> Self {
        let v1::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
        Self(format!("{namespace}/{name} (uid {uid}, attempt {attempt})"))
    }
}

impl fmt::Display for SandboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One pod sandbox. What it is in memory is a copy of what is in its directory.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Its name.
    pub name: SandboxName,
    /// Its directory.
    pub dir: SandboxDir,
    /// What it was asked to be.
    pub config: v1::PodSandboxConfig,
    /// The way to its shim.
    pub link: ShimLink,
    /// Commands that run in its containers.
    pub execs: Execs,
    /// Held for reading while something is made in it, for writing while it is being stopped or removed.
    pub changes: RwLock<()>,
    record: watch::Sender<SandboxRecord>,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
}

impl Sandbox {
    /// The handle of what `record` describes.
    pub(crate) fn new(dir: SandboxDir, config: v1::PodSandboxConfig, record: SandboxRecord) -> Self {
        let metadata = config.metadata.clone().unwrap_or_default();
        Self {
            id: record.id.clone(),
            name: SandboxName::of(&metadata),
            link: ShimLink::new(&dir),
            dir,
            config,
            execs: Execs::default(),
            changes: RwLock::default(),
            record: watch::Sender::new(record),
            containers: Mutex::default(),
        }
    }

    /// What is written about it.
    pub(crate) fn record(&self) -> SandboxRecord {
        self.record.borrow().clone()
    }

    /// How far it is.
    pub(crate) fn phase(&self) -> SandboxPhase {
        self.record.borrow().phase
    }

    /// Changes what is written about it, on disk first. Blocks for one small file.
    ///
    /// # Errors
    /// When it cannot be written; then nothing has changed.
    pub(crate) fn update(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<(), FileError> {
        let mut result = Ok(());
        self.record.send_if_modified(|record| {
            let mut changed = record.clone();
            change(&mut changed);
            if changed == *record {
                return false;
            }
            result = records::save(&self.dir.state(), &changed);
            if result.is_ok() {
                *record = changed;
            }
            result.is_ok()
        });
        result
    }

    /// Goes on towards its end, also when a full disk does not take the note: a start after that finds its processes
    /// gone, and comes to the same. Blocks for one small file.
    pub(crate) fn advance(&self, phase: SandboxPhase) {
        if let Err(error) = self.update(|record| record.phase = phase) {
            warn!(sandbox = %self.id, ?phase, error = chain(&error), "noting how far a sandbox is");
            self.record.send_modify(|record| record.phase = phase);
        }
    }

    /// Its containers, in no particular order.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        self.lock().values().cloned().collect()
    }

    /// Notes a container that was made or found.
    pub(crate) fn add(&self, container: Arc<Container>) {
        self.lock().insert(container.id.clone(), container);
    }

    /// Forgets a container that was removed.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.lock().remove(id);
    }

    /// One of its containers.
    pub(crate) fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.lock().get(id).cloned()
    }

    /// Where its network namespace is pinned; `None` when it uses the node's.
    pub(crate) fn netns(&self) -> Option<PathBuf> {
        self.record.borrow().own_network.then(|| self.dir.netns())
    }

    /// Its user namespace, where it has one.
    pub(crate) fn users(&self) -> Option<UserIds> {
        // Checked before it was made.
        let ids = super::users::ids(&self.namespace_options()).ok().flatten()?;
        Some(UserIds { path: self.dir.users(), uid: ids.uid, gid: ids.gid, length: ids.length })
    }

    /// A namespace mode that it was asked for.
    pub(crate) fn namespace_options(&self) -> v1::NamespaceOption {
        namespace_options(&self.config)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespace modes that `config` asks for; what it leaves out is `POD`.
pub(crate) fn namespace_options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

//! One container in memory.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cri_proto::v1;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ids::{ContainerId, SandboxId};
use crate::state::files::FileError;
use crate::state::layout::ContainerDir;
use crate::state::records::{self, ContainerPhase, ContainerRecord, Exited, Running, UserRecord};

/// What makes a container the one that a caller means: its sandbox, its name and its attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContainerName {
    sandbox: SandboxId,
    name: String,
    attempt: u32,
}

impl ContainerName {
    /// The name of the container's `attempt` in `sandbox`.
    pub(crate) fn of(sandbox: &SandboxId, metadata: &v1::ContainerMetadata) -> Self {
        Self { sandbox: sandbox.clone(), name: metadata.name.clone(), attempt: metadata.attempt }
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (attempt {}) of sandbox {}", self.name, self.attempt, self.sandbox)
    }
}

/// One container. What it is in memory is a copy of what is in its directory.
#[derive(Debug)]
pub(crate) struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The sandbox it belongs to.
    pub sandbox: SandboxId,
    /// Its name.
    pub name: ContainerName,
    /// Its directory.
    pub dir: ContainerDir,
    /// Held while it is started, while its end is worked out, and while it is removed; never while one waits for it.
    pub changes: tokio::sync::Mutex<()>,
    config: Mutex<Arc<v1::ContainerConfig>>,
    record: watch::Sender<ContainerRecord>,
    /// What every exec has alike, from the first one on: reading the spec costs more than all the rest of an exec, and
    /// a probe asks every few seconds. A container is started once, so nothing of it changes.
    pub(super) beside: OnceLock<shim::plan::Launch>,
}

impl Container {
    /// The handle of what `record` describes.
    pub(crate) fn new(
        dir: ContainerDir,
        sandbox: SandboxId,
        config: v1::ContainerConfig,
        record: ContainerRecord,
    ) -> Self {
        let metadata = config.metadata.clone().unwrap_or_default();
        Self {
            id: record.id.clone(),
            name: ContainerName::of(&sandbox, &metadata),
            sandbox,
            dir,
            changes: tokio::sync::Mutex::default(),
            config: Mutex::new(Arc::new(config)),
            record: watch::Sender::new(record),
            beside: OnceLock::new(),
        }
    }

    /// What it was asked to be.
    pub(crate) fn config(&self) -> Arc<v1::ContainerConfig> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces what it was asked to be, on disk first. Blocks for one small file.
    ///
    /// # Errors
    /// When it cannot be written; then nothing has changed.
    pub(crate) fn set_config(&self, config: v1::ContainerConfig) -> Result<(), FileError> {
        records::save_message(&self.dir.config(), &config)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    /// What is known about it.
    pub(crate) fn record(&self) -> ContainerRecord {
        self.record.borrow().clone()
    }

    /// Its first process, while it runs.
    pub(crate) fn running(&self) -> Option<Running> {
        match self.record.borrow().phase {
            ContainerPhase::Running(running) => Some(running),
            _ => None,
        }
    }

    /// It runs. Nothing is written: the shim's `pid` file says so already. `false` when it is past that.
    pub(crate) fn runs(&self, running: Running) -> bool {
        self.record.send_if_modified(|record| {
            let fits = record.phase == ContainerPhase::Created;
            if fits {
                record.phase = ContainerPhase::Running(running);
            }
            fits
        })
    }

    /// It is made, and will run as `user`. Blocks for one small file.
    ///
    /// # Errors
    /// When it cannot be written; then it still counts as half made.
    pub(crate) fn made(&self, user: UserRecord) -> Result<(), FileError> {
        self.write(|record| {
            record.user = user;
            record.phase = ContainerPhase::Created;
        })
    }

    /// It ended. Blocks for one small file; whoever waits for the end is woken after it is written.
    ///
    /// # Errors
    /// When it cannot be written. It has ended all the same, and is told so.
    pub(crate) fn ended(&self, exited: Exited) -> Result<(), FileError> {
        let result = self.write(|record| record.phase = ContainerPhase::Exited(exited.clone()));
        if result.is_err() {
            // The shim's `exit` file says the same after a restart.
            self.record.send_modify(|record| record.phase = ContainerPhase::Exited(exited));
        }
        result
    }

    fn write(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<(), FileError> {
        let mut changed = self.record();
        change(&mut changed);
        records::save(&self.dir.state(), &changed)?;
        self.record.send_replace(changed);
        Ok(())
    }

    /// Waits until it has ended, at most for `patience`.
    pub(crate) async fn wait(&self, patience: Duration) -> Option<Exited> {
        let mut record = self.record.subscribe();
        let ended = async {
            let record = record.wait_for(|record| matches!(record.phase, ContainerPhase::Exited(_))).await.ok()?;
            match &record.phase {
                ContainerPhase::Exited(exited) => Some(exited.clone()),
                _ => None,
            }
        };
        timeout(patience, ended).await.ok().flatten()
    }
}

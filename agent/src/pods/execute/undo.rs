use std::io;

use super::{Failed, Job};
use crate::container::logs;
use crate::errors::chain;
use crate::events::EventType::Warning;
use crate::observe;
use crate::pods::life::Undo;

impl Job {
    /// Gives one thing back; each can be repeated.
    pub(super) async fn undo(&self, undo: Undo) -> Result<(), Failed> {
        match undo {
            Undo::Sandboxes => self.stop_sandboxes().await,
            Undo::Remains => self.remove_remains().await,
            Undo::Volumes => self.told(self.tools.volumes.unmount_all(&self.uid).await),
            Undo::Cgroup => self.told(self.tools.cgroups.remove(&self.cgroup()).await),
            Undo::Logs => self.remove_logs(),
            Undo::Directory => self.told(self.tools.volumes.remove_pod_dir(&self.uid).await),
        }
    }

    fn told<E: std::error::Error + 'static>(&self, done: Result<(), E>) -> Result<(), Failed> {
        done.map_err(|error| {
            let message = format!("error killing pod: {}", chain(&error));
            self.tools.say(self.pod(), Warning, "FailedKillPod", &message);
            Failed::new("FailedKillPod", message)
        })
    }

    pub(super) async fn stop_sandboxes(&self) -> Result<(), Failed> {
        for sandbox in self.present().await?.sandboxes {
            // Also those that are not ready: their network may still have to be given back.
            self.stop_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    async fn remove_remains(&self) -> Result<(), Failed> {
        let seen = self.present().await?;
        for container in seen.containers {
            self.remove(&(&container).into()).await?;
        }
        for sandbox in seen.sandboxes {
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    pub(super) async fn present(&self) -> Result<observe::Observed, Failed> {
        let limit = self.tools.config.timing.request;
        let seen = observe::pod(self.tools.runtime.as_ref(), &self.uid, limit).await;
        seen.map_err(|error| Failed::new("FailedKillPod", chain(&error)))
    }

    fn remove_logs(&self) -> Result<(), Failed> {
        let dir = logs::pod_dir(&self.tools.config.dirs.logs, self.pod());
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failed::new("FailedRemove", format!("removing {}: {error}", dir.display())))
            }
            _ => Ok(()),
        }
    }
}

use std::path::Path;
use std::time::Duration;

use cri_proto::{Kind, v1};

use super::{Failed, Job, left};
use crate::container::logs;
use crate::events::EventType::{Normal, Warning};
use crate::pods::step::{Kill, Remains};

/// The runtime is never given less between SIGTERM and SIGKILL.
const LEAST: Duration = Duration::from_secs(2);

impl Job {
    pub(super) async fn kill(&self, kill: Kill) -> Result<(), Failed> {
        if let Some(message) = &kill.message {
            self.tools.say_of(self.pod(), &kill.container, Normal, "Killing", message);
        }
        if !kill.hook_done && !left(kill.deadline).is_zero() {
            self.pre_stop(&kill.id, &kill.container, kill.deadline).await;
        }
        // Rounded, because the time that the steps themselves took is not taken from the container.
        let grace = left(kill.deadline).max(LEAST);
        let timeout = i64::try_from(grace.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: kill.id.clone(), timeout };
        match self.tools.runtime.stop_container(request, self.tools.after(grace)).await {
            Err(error) if error.kind != Kind::NotFound => {
                let message = format!("error killing pod: {error}");
                self.tools.say(self.pod(), Warning, "FailedKillPod", &message);
                Err(Failed::new("FailedKillPod", message))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn remove(&self, remains: &Remains) -> Result<(), Failed> {
        let request = v1::RemoveContainerRequest { container_id: remains.id.clone() };
        match self.tools.runtime.remove_container(request, self.tools.soon()).await {
            Err(error) if error.kind != Kind::NotFound => Err(Failed::new("FailedRemove", error.to_string())),
            _ => {
                self.remove_files(remains);
                Ok(())
            }
        }
    }

    /// `<n>.log` and what rotation made of it, the legacy link, and the last words. What stays behind goes with the pod.
    fn remove_files(&self, remains: &Remains) {
        if !remains.keep_log {
            self.remove_log(remains);
        }
        // The runtime names it: only what lies where we put such files is ours to remove.
        let ours = self.tools.memory.dir(&self.uid).join("containers").join(&remains.container);
        let message = remains.message_file.as_deref().map(Path::new);
        if let Some(message) = message.filter(|file| file.parent() == Some(&ours)) {
            let _ = std::fs::remove_file(message);
        }
    }

    fn remove_log(&self, remains: &Remains) {
        let dirs = &self.tools.config.dirs;
        let dir = logs::pod_dir(&dirs.logs, self.pod()).join(&remains.container);
        let own = format!("{}.log", remains.attempt);
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&own) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        if let Some(links) = &dirs.log_links {
            let _ = std::fs::remove_file(links.join(logs::link_name(self.pod(), &remains.container, &remains.id)));
        }
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), Failed> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let by = self.tools.soon();
        let gone = |error: &cri_proto::RuntimeError| error.kind == Kind::NotFound;
        match self.tools.runtime.stop_pod_sandbox(stop, by).await {
            Err(error) if !gone(&error) => return Err(Failed::new("FailedKillPod", error.to_string())),
            _ => {}
        }
        match self.tools.runtime.remove_pod_sandbox(remove, by).await {
            Err(error) if !gone(&error) => Err(Failed::new("FailedRemove", error.to_string())),
            _ => Ok(()),
        }
    }
}

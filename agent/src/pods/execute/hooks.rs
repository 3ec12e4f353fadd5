use std::time::Duration;

use cri_proto::{Deadline, v1};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use super::{Failed, Job, left};
use crate::events::EventType::Warning;
use crate::pods::roles;
use crate::pods::step::Kill;

impl Job {
    /// Runs the postStart hook; a container whose hook fails is stopped.
    pub(super) async fn post_start(&self, container: &Container, id: &str) -> Result<(), Failed> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let ran = tokio::select! {
            // The pod ends: the container is stopped like every other, its hook with it.
            () = self.ending.cancelled() => return Ok(()),
            ran = self.hook(hook, container, id) => ran,
        };
        let Err(error) = ran else { return Ok(()) };
        tracing::debug!(pod = %self.uid, container = container.name, error, "a postStart hook failed");
        self.tools.say_of(self.pod(), &container.name, Warning, "FailedPostStartHook", "PostStartHook failed");
        let kill = Kill {
            id: id.to_owned(),
            container: container.name.clone(),
            message: Some("FailedPostStartHook".to_owned()),
            deadline: crate::pods::plan::grace(self.pod(), Timestamp::now()),
            hook_done: false,
            again: false,
        };
        if let Err(failed) = self.kill(kill).await {
            tracing::warn!(pod = %self.uid, container = container.name, error = failed.message, "stopping it");
        }
        Err(Failed::new("PostStartHookError", format!("PostStartHook failed: {error}")))
    }

    /// Runs the preStop hook until it ends or the deadline comes; a failure is only told.
    pub(super) async fn pre_stop(&self, id: &str, container: &str, deadline: Timestamp) {
        let Some(member) = roles::member(self.pod(), container) else { return };
        let Some(hook) = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        let ran = tokio::time::timeout(left(deadline), self.hook(hook, &member.container, id)).await;
        if !matches!(ran, Ok(Ok(()))) {
            self.tools.say_of(self.pod(), container, Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }

    async fn hook(&self, hook: &LifecycleHandler, container: &Container, id: &str) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            return self.exec_hook(id, exec.command.clone().unwrap_or_default()).await;
        }
        if let Some(action) = &hook.http_get {
            let ip = self.ips.first().map(String::as_str);
            return self.tools.hooks.get(action, container, ip).await.map_err(|error| error.to_string());
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        Err("invalid handler".to_owned())
    }

    async fn exec_hook(&self, id: &str, cmd: Vec<String>) -> Result<(), String> {
        // No time-out of its own: whoever waits for the hook has one.
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
        match self.tools.runtime.exec_sync(request, Deadline::never()).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => Err(format!("command exited with {}", done.exit_code)),
            Err(error) => Err(error.to_string()),
        }
    }
}

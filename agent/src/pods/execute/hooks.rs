use std::time::Duration;

use cri_proto::{Deadline, v1};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler};

use super::{Failed, Job, left};
use crate::container::pod_name_for_messages;
use crate::events::EventType::Warning;
use crate::pods::roles;
use crate::pods::step::Kill;
use crate::probes::HookAnswer;

/// What is kept of a failed hook's output, bytes: it becomes part of a status.
const OUTPUT: usize = 1 << 10;

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
        Err(Failed::new("PostStartHookError", error))
    }

    /// Runs the preStop hook until it ends or the deadline comes; a failure is only told.
    pub(super) async fn pre_stop(&self, id: &str, container: &str, deadline: Timestamp) {
        let Some(member) = roles::member(self.pod(), container) else { return };
        let Some(hook) = member.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        let ran = tokio::time::timeout(left(deadline), self.hook(hook, &member.container, id)).await;
        let failed = match ran {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                // Not in the event: what the hook printed may be a secret.
                tracing::debug!(pod = %self.uid, container, error, "a preStop hook failed");
                true
            }
            // What still runs is killed with its container, and that is how it fails. A sleep just ends.
            Err(_) => hook.sleep.is_none(),
        };
        if failed {
            self.tools.say_of(self.pod(), container, Warning, "FailedPreStopHook", "PreStopHook failed");
        }
    }

    /// Runs a hook; a failure is told in the kubelet's words.
    async fn hook(&self, hook: &LifecycleHandler, container: &Container, id: &str) -> Result<(), String> {
        let place = || format!("for Container {:?} in Pod {:?}", container.name, pod_name_for_messages(self.pod()));
        if let Some(exec) = &hook.exec {
            let cmd = exec.command.clone().unwrap_or_default();
            let words = cmd.join(" ");
            let ran = self.exec_hook(id, cmd).await;
            return ran.map_err(|(error, output)| {
                format!("Exec lifecycle hook ([{words}]) {} failed - error: {error}, message: {output:?}", place())
            });
        }
        if let Some(action) = &hook.http_get {
            let path = action.path.as_deref().unwrap_or_default();
            let failed = |error| format!("HTTP lifecycle hook ({path}) {} failed - error: {error}", place());
            return self.http_hook(action, container).await.map_err(failed);
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            return Ok(());
        }
        Err("Cannot run handler: invalid handler".to_owned())
    }

    async fn http_hook(&self, action: &HTTPGetAction, container: &Container) -> Result<(), String> {
        let ip = self.ips.first().map(String::as_str);
        if ip.is_none() && action.host.as_deref().is_none_or(str::is_empty) {
            return Err("failed to find networking container: the pod has no address".to_owned());
        }
        match self.tools.hooks.get(action, container, ip).await {
            Ok(HookAnswer::Answered) => Ok(()),
            Ok(HookAnswer::AnsweredInPlainText { host }) => {
                let message =
                    format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
                self.tools.say(self.pod(), Warning, "LifecycleHTTPFallback", message);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The error, and what the command had to say.
    async fn exec_hook(&self, id: &str, cmd: Vec<String>) -> Result<(), (String, String)> {
        let words = cmd.join(" ");
        // No time-out of its own: whoever waits for the hook has one.
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 0 };
        match self.tools.runtime.exec_sync(request, Deadline::never()).await {
            Ok(done) if done.exit_code == 0 => Ok(()),
            Ok(done) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(OUTPUT)]).into_owned();
                let error = format!("command '{words}' exited with {}: {}", done.exit_code, text(&done.stderr));
                Err((error, text(&[done.stdout, done.stderr].concat())))
            }
            Err(error) => Err((error.to_string(), String::new())),
        }
    }
}

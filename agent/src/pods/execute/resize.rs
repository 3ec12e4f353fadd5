use cri_proto::v1;

use super::{Failed, Job};
use crate::errors::chain;
use crate::events::EventType::{Normal, Warning};
use crate::pods::step::Resize;
use crate::resources::resize::{self, Action, Amounts};

impl Job {
    /// Brings the cgroups to what was granted, and says what they have now.
    pub(super) async fn resize(&self, wanted: &Resize) -> Result<Amounts, Failed> {
        let pod = self.pod();
        let from = resize::with(pod, &wanted.from);
        for action in resize::actions(&from, pod, &wanted.running, &self.tools.cgroup_facts) {
            if let Err(text) = self.act(action, &wanted.sandbox).await {
                let message = format!("Pod resize error: {}", resize::shown(pod, Some(&text)));
                self.tools.say(pod, Warning, "ResizeError", message);
                return Err(Failed::new("Error", text));
            }
        }
        self.tools.say(pod, Normal, "ResizeCompleted", format!("Pod resize completed: {}", resize::shown(pod, None)));
        Ok(resize::amounts(pod))
    }

    async fn act(&self, action: Action, sandbox: &str) -> Result<(), String> {
        match action {
            Action::Check { container: None, limit } => self.check_pod(sandbox, limit).await,
            Action::Check { container: Some((name, id)), limit } => self.check_container(&name, id, limit).await,
            Action::Pod(resources) => {
                self.tools.cgroups.update(&self.cgroup(), &resources).await.map_err(|error| chain(&error))
            }
            Action::Container { id, name, resources } => {
                let request = v1::UpdateContainerResourcesRequest {
                    container_id: id,
                    linux: Some(resources),
                    ..Default::default()
                };
                let done = self.tools.runtime.update_container_resources(request, self.tools.soon()).await;
                done.map(drop).map_err(|error| format!("updating container {name}: {error}"))
            }
        }
    }

    async fn check_pod(&self, sandbox: &str, limit: u64) -> Result<(), String> {
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.to_owned() };
        let stats = self.tools.runtime.pod_sandbox_stats(request, self.tools.soon()).await;
        let linux = stats.ok().and_then(|answer| answer.stats?.linux);
        let used = usage(linux.and_then(|linux| linux.memory));
        below(used, limit, || ("missing pod memory usage".to_owned(), "pod".to_owned()))
    }

    async fn check_container(&self, name: &str, id: String, limit: u64) -> Result<(), String> {
        let request = v1::ContainerStatsRequest { container_id: id };
        let stats = self.tools.runtime.container_stats(request, self.tools.soon()).await;
        let used = usage(stats.ok().and_then(|answer| answer.stats?.memory));
        let words = || (format!("missing container {name:?} memory usage"), format!("container {name:?}"));
        below(used, limit, words)
    }
}

fn usage(memory: Option<v1::MemoryUsage>) -> Option<u64> {
    Some(memory?.usage_bytes?.value)
}

/// The kernel would kill for it, or refuse in words that nobody understands.
fn below(used: Option<u64>, limit: u64, words: impl FnOnce() -> (String, String)) -> Result<(), String> {
    match used {
        Some(used) if used < limit => Ok(()),
        Some(used) => {
            let what = words().1;
            Err(format!(
                "cannot decrease memory limits: attempting to set {what} memory limit ({limit}) below current usage ({used})"
            ))
        }
        None => Err(format!("cannot decrease memory limits: {}", words().0)),
    }
}

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, v1};

use super::{Failed, Job};
use crate::container::dns::{DnsWarning, resolver};
use crate::container::hostname::hostname;
use crate::container::{ImageFacts, SandboxInputs, logs, sandbox_config, users};
use crate::errors::chain;
use crate::events::EventType::{Normal, Warning};
use crate::images::{ImageError, Policy, Pulled, keyring};
use crate::pods::roles;
use crate::resources::cgroup_values;
use crate::volumes::MountedVolumes;

const MISSING_DNS: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";

impl Job {
    pub(super) async fn set_up(&self) -> Result<Arc<MountedVolumes>, Failed> {
        self.directories().map_err(|error| {
            let message = format!("error making pod data directories: {error}");
            self.tools.say(self.pod(), Warning, "Failed", &message);
            Failed::new("FailedMount", message)
        })?;
        let (objects, node) = (&self.want.within.objects, &self.tools.allocatable);
        let mounted = self.tools.volumes.ensure_mounted(&self.want.pod, &self.uid, objects, node).await;
        mounted.map_err(|error| self.volumes_failed(&error))
    }

    fn directories(&self) -> std::io::Result<()> {
        let dir = self.tools.memory.dir(&self.uid);
        make_dir(&dir, 0o750)?;
        make_dir(&dir.join("volumes"), 0o750)?;
        make_dir(&dir.join("plugins"), 0o750)
    }

    pub(super) async fn refresh(&self) -> Result<(), Failed> {
        let (objects, node) = (&self.want.within.objects, &self.tools.allocatable);
        let refreshed = self.tools.volumes.refresh(&self.want.pod, &self.uid, objects, node).await;
        refreshed.map_err(|error| self.volumes_failed(&error))
    }

    fn volumes_failed(&self, error: &crate::volumes::VolumeError) -> Failed {
        let message = chain(error);
        self.tools.say(self.pod(), Warning, "FailedMount", &message);
        Failed::new("FailedMount", message)
    }

    /// The container's image, with the kubelet's events.
    pub(super) async fn image(&self, container: &str) -> Result<ImageFacts, ImageError> {
        let (tools, pod) = (&self.tools, self.pod());
        let Some(member) = roles::member(pod, container) else {
            return Err(ImageError::Name(String::new()));
        };
        let image = member.container.image.clone().unwrap_or_default();
        let keyring = keyring(pod, &self.want.within.objects);
        if !keyring.missing.is_empty() {
            let names = keyring.missing.join(", ");
            let message = format!(
                "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
            );
            tools.say(pod, Warning, "FailedToRetrieveImagePullSecret", message);
        }
        let sandbox = v1::PodSandboxConfig::default();
        let pulling = || tools.say_of(pod, container, Normal, "Pulling", format!("Pulling image \"{image}\""));
        let pulled = tools.images.ensure(&image, Policy::of(&member.container), &keyring, &sandbox, pulling).await;
        self.say_image(container, &image, &pulled);
        let facts = match pulled? {
            Pulled::Present(facts) | Pulled::Now { facts, .. } => facts,
        };
        self.image_volumes(&member.container, &keyring).await?;
        Ok(facts)
    }

    pub(super) fn say_image(&self, container: &str, image: &str, pulled: &Result<Pulled, ImageError>) {
        let (tools, pod) = (&self.tools, self.pod());
        let say = |kind, reason: &str, message: String| tools.say_of(pod, container, kind, reason, message);
        match pulled {
            Ok(Pulled::Present(_)) => {
                let message =
                    format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
                say(Normal, "Pulled", message);
            }
            Ok(Pulled::Now { facts, took, with_waiting }) => say(
                Normal,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {} ({} including waiting). Image size: {} bytes.",
                    millis(*took),
                    millis(*with_waiting),
                    facts.size
                ),
            ),
            Err(error @ (ImageError::Name(_) | ImageError::Inspect { .. })) => {
                say(Warning, "InspectFailed", chain(error));
            }
            Err(error @ ImageError::NeverPull(_)) => say(Warning, "ErrImageNeverPull", error.to_string()),
            Err(error @ ImageError::Pull { .. }) => {
                say(Warning, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            }
        }
        if let Err(error) = pulled {
            say(Warning, "Failed", format!("Error: {}", error.reason()));
        }
    }

    pub(super) async fn sandbox(&self, attempt: u32) -> Result<(), Failed> {
        let (tools, pod) = (&self.tools, self.pod());
        if attempt > 0 {
            tools.say(pod, Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            // A sandbox whose process died still holds its address: it is given back before another one is taken.
            self.stop_sandboxes().await?;
        }
        let cgroup = self.cgroup();
        tools.cgroups.ensure(&cgroup, &cgroup_values::pod_resources(pod, &tools.cgroup_facts)).await.map_err(
            |error| {
                let message = format!("unable to ensure pod container exists: {}", chain(&error));
                tools.say(pod, Warning, "FailedCreatePodContainer", &message);
                Failed::new("FailedCreatePodContainer", message)
            },
        )?;
        let config = self.sandbox_config(attempt, true).await.map_err(|error| self.no_sandbox(&error))?;
        make_dir(&logs::pod_dir(&tools.config.dirs.logs, pod), 0o755)
            .map_err(|error| self.no_sandbox(&error.to_string()))?;
        let runtime_handler = self.handler().map_err(|error| self.no_sandbox(&error))?;
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler };
        // Twice the usual: the network may be slow to come.
        let by = Deadline::within(tools.config.timing.request.saturating_mul(2));
        match tools.runtime.run_pod_sandbox(request, by).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.no_sandbox(&error.to_string())),
        }
    }

    /// What the runtime calls the pod's RuntimeClass. Its own names need no object.
    fn handler(&self) -> Result<String, String> {
        let name = self.pod().spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref()).unwrap_or_default();
        match self.want.within.objects.runtime_classes.get(name) {
            Some(class) => Ok(class.handler.clone()),
            None if ["", "longshore", "embedded"].contains(&name) => Ok(name.to_owned()),
            None => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
        }
    }

    fn no_sandbox(&self, error: &str) -> Failed {
        let message = format!("Failed to create pod sandbox: {error}");
        if !self.ending.is_cancelled() {
            self.tools.say(self.pod(), Warning, "FailedCreatePodSandBox", &message);
        }
        Failed::new("FailedCreatePodSandBox", message)
    }

    pub(super) fn cgroup(&self) -> String {
        cgroup_values::pod_cgroup(&self.tools.config.cgroup_root, self.pod(), &self.uid)
    }

    /// The sandbox's configuration; `aloud` tells warnings as events.
    pub(super) async fn sandbox_config(&self, attempt: u32, aloud: bool) -> Result<v1::PodSandboxConfig, String> {
        let (tools, pod) = (&self.tools, self.pod());
        let dns = tools.node_dns().await.map_err(|error| format!("reading the node's resolver file: {error}"))?;
        let (resolver, warnings) = resolver(pod, &dns);
        for warning in warnings.iter().filter(|_| aloud) {
            match warning {
                // On a node of its own nobody expects cluster servers.
                DnsWarning::MissingClusterDns if !tools.config.dns.in_cluster => {}
                DnsWarning::MissingClusterDns => tools.say(pod, Warning, "MissingClusterDNS", MISSING_DNS),
                DnsWarning::Forming(text) => tools.say(pod, Warning, "DNSConfigForming", text),
            }
        }
        let hostname = hostname(pod, &dns.cluster_domain).map_err(|error| error.to_string())?;
        Ok(sandbox_config(&SandboxInputs {
            pod,
            attempt,
            hostname: &hostname.of_sandbox,
            resolver: &resolver,
            cgroup_parent: &self.cgroup(),
            resources: cgroup_values::pod_resources(pod, &tools.cgroup_facts),
            logs: &tools.config.dirs.logs,
            ids: self.ids()?,
        }))
    }

    /// The ids of the pod's user namespace, where it wants one.
    pub(super) fn ids(&self) -> Result<Option<users::Range>, String> {
        let range = users::range(self.pod(), &self.tools.memory.dir(&self.uid));
        range.map_err(|error| format!("choosing user ids for the pod: {error}"))
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), Failed> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        match self.tools.runtime.stop_pod_sandbox(request, self.tools.soon()).await {
            Err(error) if error.kind != cri_proto::Kind::NotFound => {
                let message = format!("error killing pod: {error}");
                self.tools.say(self.pod(), Warning, "FailedKillPod", &message);
                Err(Failed::new("FailedKillPod", message))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn make_dir(path: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Go prints durations with their parts; milliseconds are exact enough for a message.
fn millis(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..1_000 => format!("{millis}ms"),
        millis => {
            let text = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
    }
}

//! Tells the probes which containers run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::roles;
use super::seams::Probed;
use super::step::{Job, Progress};
use super::tools::Tools;
use crate::container::on_host_network;
use crate::names::PodUid;
use crate::observe::{Observed, State};

/// What the probes were told: by container name the instance that runs.
pub(super) struct Told {
    running: BTreeMap<String, String>,
    /// Containers that were started since the agent began; all others were found.
    ours: Vec<String>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { running: BTreeMap::new(), ours: Vec::new() }
    }

    /// Tells what changed. A container whose postStart hook is still busy does not count as running.
    pub(super) fn tell(&mut self, tools: &Tools, uid: &PodUid, pod: &Pod, seen: &Observed, progress: &Progress) {
        for member in roles::members(pod).iter().filter(|member| is_probed(&member.container)) {
            let name = &member.container.name;
            let starting = progress.is_doing(&Job::Start(name.clone()));
            if starting && !self.ours.contains(name) {
                self.ours.push(name.clone());
            }
            let running = seen.newest(name).filter(|_| !starting).and_then(|instance| match instance.state {
                State::Running { started } => Some((instance, started)),
                _ => None,
            });
            match (running, self.running.get(name)) {
                (Some((instance, _)), Some(told)) if *told == instance.id => {}
                (Some((instance, started)), _) => {
                    self.running.insert(name.clone(), instance.id.clone());
                    let (container, id) = (name.clone(), instance.id.clone());
                    let restored = !self.ours.contains(name);
                    let probed = Probed { container, id, started, restored, pod_ip: address(tools, pod, seen) };
                    tools.probes.running(uid, probed);
                }
                (None, Some(_)) => {
                    self.running.remove(name);
                    tools.probes.stopped(uid, name);
                }
                (None, None) => {}
            }
        }
    }
}

fn is_probed(container: &Container) -> bool {
    container.startup_probe.is_some() || container.readiness_probe.is_some() || container.liveness_probe.is_some()
}

fn address(tools: &Tools, pod: &Pod, seen: &Observed) -> Option<String> {
    if on_host_network(pod) {
        return tools.node_ips().into_iter().next();
    }
    seen.sandbox()?.ips.first().cloned()
}

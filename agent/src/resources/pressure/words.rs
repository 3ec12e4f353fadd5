//! What is said, in the kubelet's words.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{Condition, PodUsage, Starved};
use crate::config::kubelet::Signal;
use crate::container::all_containers;
use crate::quantity::{Amount, binary, decimal};

/// How the message of every pod begins that goes because the node is short of something.
const LOW: &str = "The node was low on resource: ";

impl Condition {
    /// The reason of the Node's condition.
    pub fn reason(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "KubeletHasInsufficientMemory",
            (Self::Memory, false) => "KubeletHasSufficientMemory",
            (Self::Disk, true) => "KubeletHasDiskPressure",
            (Self::Disk, false) => "KubeletHasNoDiskPressure",
            (Self::Pid, true) => "KubeletHasInsufficientPID",
            (Self::Pid, false) => "KubeletHasSufficientPID",
        }
    }

    /// Its message.
    pub fn said(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "kubelet has insufficient memory available",
            (Self::Memory, false) => "kubelet has sufficient memory available",
            (Self::Disk, true) => "kubelet has disk pressure",
            (Self::Disk, false) => "kubelet has no disk pressure",
            (Self::Pid, true) => "kubelet has insufficient PID available",
            (Self::Pid, false) => "kubelet has sufficient PID available",
        }
    }

    /// The event when it turns.
    pub fn event(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, true) => "NodeHasInsufficientMemory",
            (Self::Memory, false) => "NodeHasSufficientMemory",
            (Self::Disk, true) => "NodeHasDiskPressure",
            (Self::Disk, false) => "NodeHasNoDiskPressure",
            (Self::Pid, true) => "NodeHasInsufficientPID",
            (Self::Pid, false) => "NodeHasSufficientPID",
        }
    }
}

impl Starved {
    /// What the node is short of.
    pub fn resource(&self) -> &'static str {
        match self.signal {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => "memory",
            Signal::NodefsAvailable | Signal::ImagefsAvailable | Signal::ContainerfsAvailable => "ephemeral-storage",
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree | Signal::ContainerfsInodesFree => "inodes",
            Signal::PidAvailable => "pids",
        }
    }

    fn shown(&self, amount: u64) -> String {
        if matches!(self.resource(), "inodes" | "pids") { decimal(amount) } else { binary(amount) }
    }
}

/// Whether a pod with this message went for the node's sake, not for what it did itself.
pub fn is_about_pressure(message: &str) -> bool {
    message.starts_with(LOW)
}

/// What the pod is told: what is missing, and which of its containers use more of it than they asked for.
pub fn message(starved: &Starved, pod: &Pod, usage: Option<&PodUsage>) -> String {
    let (resource, threshold) = (starved.resource(), starved.shown(starved.threshold));
    let available = starved.shown(starved.level.available);
    let mut text = format!("{LOW}{resource}. Threshold quantity: {threshold}, available: {available}. ");
    let Some(usage) = usage else { return text };
    let mut blame = |what: &str, name: &str, used: u64, request: &str| {
        let used = binary(used);
        // A String takes every write.
        let _ = write!(
            text,
            "{what} {name} was using {used}, request is {request}, has larger consumption of {resource}. "
        );
    };
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()).and_then(|own| own.requests.as_ref());
    if let Some(request) = whole.and_then(|requests| requests.get(resource)).filter(|_| resource == "memory") {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        blame("Pod", name, usage.memory, &request.0);
    }
    for container in all_containers(pod) {
        let Some(used) = used(usage, container, resource) else { continue };
        let request = request(container, resource);
        let asked = request.and_then(|request| Amount::try_from(request).ok()).unwrap_or_default();
        if Amount::units(used) > asked {
            blame("Container", &container.name, used, request.map_or("0", |request| &request.0));
        }
    }
    text
}

fn request<'a>(container: &'a Container, resource: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.requests.as_ref()?.get(resource)
}

fn used(usage: &PodUsage, container: &Container, resource: &str) -> Option<u64> {
    let of = usage.containers.get(&container.name)?;
    match resource {
        "memory" => Some(of.memory),
        "ephemeral-storage" => Some((of.layer + of.logs).bytes),
        _ => None,
    }
}

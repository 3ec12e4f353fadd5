//! Wanted + seen + probe results -> `PodStatus`. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodIP, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::life::Life;
use super::plan::{Inputs, Plan};
use super::roles::Role;
use super::{conditions, container_status, sandbox};
use crate::container::on_host_network;
use crate::resources::qos;

/// What a status is computed from, besides what decisions are made from.
pub struct StatusInputs<'a> {
    /// See there.
    pub inputs: Inputs<'a>,
    /// What is waited for.
    pub plan: &'a Plan,
    /// The former status, for what must not go back or get lost.
    pub before: Option<&'a PodStatus>,
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// The node's addresses, primary first.
    pub node_ips: &'a [String],
    /// The runtime's name, for container ids.
    pub runtime: &'a str,
}

/// The status at `now`.
pub fn status(of: &StatusInputs<'_>, now: Timestamp) -> PodStatus {
    let inputs = &of.inputs;
    let pod = inputs.pod;
    if inputs.kept.rejected {
        return rejected(of, now);
    }
    let containers = container_status::all(of, now);
    let phase = phase(of, &containers);
    let (init, rest): (Vec<_>, Vec<_>) = containers.into_iter().partition(|(role, _)| role.is_init());
    let (mut regular, mut ephemeral): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(role, _)| *role == Role::Regular);
    regular.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    ephemeral.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let (allocated, resources) = whole(of);
    let plain = |list: Vec<(Role, ContainerStatus)>| {
        let list: Vec<_> = list.into_iter().map(|(_, status)| status).collect();
        (!list.is_empty()).then_some(list)
    };
    let conditions = conditions::all(of, phase, &init, &regular, now);
    let ips = pod_ips(of);
    let verdict = inputs.life.end().and_then(|end| end.verdict.as_ref());
    let sticky = of.before.filter(|before| before.phase.as_deref() == Some(phase));
    let keep = |field: fn(&PodStatus) -> &Option<String>| sticky.and_then(|before| field(before).clone());
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: verdict.and_then(|verdict| verdict.reason.clone()).or_else(|| keep(|s| &s.reason)),
        message: verdict.and_then(|verdict| verdict.message.clone()).or_else(|| keep(|s| &s.message)),
        conditions: Some(conditions),
        init_container_statuses: plain(init),
        container_statuses: plain(regular),
        ephemeral_container_statuses: plain(ephemeral),
        allocated_resources: allocated,
        resources,
        host_ip: of.node_ips.first().cloned(),
        host_ips: (!of.node_ips.is_empty()).then(|| of.node_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        start_time: inputs.kept.started.map(time),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

/// A pod that the node did not take has neither conditions nor containers.
fn rejected(of: &StatusInputs<'_>, now: Timestamp) -> PodStatus {
    let inputs = &of.inputs;
    let verdict = inputs.life.end().and_then(|end| end.verdict.clone()).unwrap_or_default();
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: verdict.reason,
        message: verdict.message,
        ..pending(inputs.pod, inputs.kept.started.unwrap_or(now))
    }
}

/// What a pod with resources of its own was granted, and what its cgroup has.
fn whole(of: &StatusInputs<'_>) -> (Option<BTreeMap<String, Quantity>>, Option<ResourceRequirements>) {
    let granted = of.inputs.pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let actuated = of.inputs.kept.actuated.as_ref().and_then(|actuated| actuated.get(""));
    (granted.and_then(|granted| granted.requests.clone()), granted.map(|granted| actuated.unwrap_or(granted).clone()))
}

/// API times have whole seconds.
pub(super) fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The primary address and the first of the other family. A pod keeps its addresses when it stops.
fn pod_ips(of: &StatusInputs<'_>) -> Vec<String> {
    if on_host_network(of.inputs.pod) {
        let begun = of.inputs.seen.sandbox().is_some() || of.before.is_some_and(|before| before.pod_ip.is_some());
        return if begun { of.node_ips.to_vec() } else { Vec::new() };
    }
    let seen = of.inputs.seen.sandbox().filter(|newest| newest.ready && !newest.ips.is_empty());
    match seen {
        Some(sandbox) => {
            let family = |ip: &str| ip.contains(':');
            let first = sandbox.ips.first().cloned();
            let second = first.as_ref().and_then(|first| sandbox.ips.iter().find(|ip| family(ip) != family(first)));
            first.into_iter().chain(second.cloned()).collect()
        }
        None => before_ips(of),
    }
}

fn before_ips(of: &StatusInputs<'_>) -> Vec<String> {
    // A pod that goes on gets new addresses with its new sandbox: the old ones are nobody's.
    let ips = of.before.filter(|_| of.inputs.life.is_ending()).and_then(|before| before.pod_ips.as_ref());
    ips.into_iter().flatten().map(|ip| ip.ip.clone()).collect()
}

fn phase(of: &StatusInputs<'_>, containers: &[(Role, ContainerStatus)]) -> &'static str {
    let inputs = &of.inputs;
    let counts = Counts::of(containers);
    if let Life::Stopped { end, .. } = inputs.life {
        let all_well = counts.stopped > 0 && counts.succeeded == counts.stopped && counts.unknown + counts.waiting == 0;
        let succeeded = end.verdict.as_ref().map_or(all_well, |verdict| verdict.succeeded);
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    // The order of these is the kubelet's: what initialises comes before what runs. No other phase is terminal: while
    // a pod lives, or ends, something of it may still come up.
    if counts.initializing || counts.waiting > 0 {
        "Pending"
    } else if counts.running + counts.stopped > 0 && counts.unknown == 0 {
        "Running"
    } else {
        "Pending"
    }
}

#[derive(Default)]
struct Counts {
    initializing: bool,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

impl Counts {
    fn of(containers: &[(Role, ContainerStatus)]) -> Self {
        let mut counts = Self::default();
        let begun = containers.iter().any(|(role, status)| *role == Role::Regular && status.container_id.is_some());
        for (role, status) in containers {
            match role {
                Role::Init => counts.initializing |= !begun && !is_done(status),
                Role::Sidecar => counts.sidecar(status, begun),
                Role::Regular => counts.regular(status),
                // Whoever looks into a pod changes nothing about it.
                Role::Ephemeral => {}
            }
        }
        counts
    }

    fn sidecar(&mut self, status: &ContainerStatus, begun: bool) {
        let runs = status.state.as_ref().is_some_and(|state| state.running.is_some());
        self.running += usize::from(runs && status.started == Some(true));
        let ready = runs && status.started == Some(true);
        self.initializing |= !(begun || ready);
    }

    fn regular(&mut self, status: &ContainerStatus) {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        match (&state.running, &state.terminated, last) {
            (Some(_), ..) => self.running += 1,
            (None, Some(end), _) => self.stop(end.exit_code),
            (None, None, Some(end)) if state.waiting.is_some() => self.stop(end.exit_code),
            (None, None, _) if state.waiting.is_some() => self.waiting += 1,
            _ => self.unknown += 1,
        }
    }

    fn stop(&mut self, code: i32) {
        self.stopped += 1;
        self.succeeded += usize::from(code == 0);
    }
}

fn is_done(status: &ContainerStatus) -> bool {
    let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    end.is_some_and(|end| end.exit_code == 0 && end.reason.as_deref() != Some("OOMKilled"))
}

/// The pod's sandbox is there and has what it needs.
pub(super) fn has_good_sandbox(of: &StatusInputs<'_>) -> bool {
    of.inputs.seen.sandbox().is_some_and(|newest| sandbox::is_good(&of.inputs, newest))
}

/// A pod that nothing is known of yet, for views before the first look at the runtime.
pub fn pending(pod: &Pod, started: Timestamp) -> PodStatus {
    PodStatus {
        phase: Some("Pending".to_owned()),
        start_time: Some(time(started)),
        qos_class: Some(qos::class(pod).as_str().to_owned()),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

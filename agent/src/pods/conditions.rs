//! The conditions of a pod's status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};

use super::plan;
use super::roles::{self, Role};
use super::status::{StatusInputs, has_good_sandbox, time};
use crate::resources::{eviction, preemption, pressure, resize};

/// What every pod has.
const ALWAYS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// What is there while there is something to say, and ours alone: it goes when there is nothing more to say.
pub const PASSING: [&str; 3] = ["PodResizePending", "PodResizeInProgress", "AllContainersRestarting"];
/// The last one is shared with whoever else ends pods.
const SOMETIMES: [&str; 4] = [PASSING[0], PASSING[1], PASSING[2], "DisruptionTarget"];

/// True or false, and why.
struct Truth {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Truth {
    fn plain(holds: bool) -> Self {
        Self { holds, reason: None, message: None }
    }

    fn because(holds: bool, reason: &'static str, message: Option<String>) -> Self {
        Self { holds, reason: Some(reason), message }
    }
}

type Statuses = [(Role, ContainerStatus)];

pub(super) fn all(
    of: &StatusInputs<'_>,
    phase: &str,
    init: &Statuses,
    regular: &Statuses,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers = containers_ready(phase, init, regular);
    let ready = ready(of, &containers);
    let truths =
        [Truth::plain(has_good_sandbox(of)), initialized(of, phase, init, regular), ready, containers, scheduled(of)];
    let rest = [resize_pending(of, phase), resize_in_progress(of, phase), restarting_all(of, phase), disrupted(of)];
    let rest = SOMETIMES.into_iter().zip(rest).filter_map(|(kind, truth)| Some((kind, truth?)));
    let all = ALWAYS.into_iter().zip(truths).chain(rest);
    let mut out: Vec<_> = all.map(|(kind, truth)| condition(of, kind, truth, now)).collect();
    let others = of.before.and_then(|before| before.conditions.as_ref()).into_iter().flatten();
    let ours = |kind: &str| ALWAYS.contains(&kind) || SOMETIMES.contains(&kind);
    // All others are somebody else's, and kept.
    out.extend(others.filter(|other| !ours(&other.type_)).cloned());
    out
}

fn scheduled(of: &StatusInputs<'_>) -> Truth {
    if !plan::is_gated(of.inputs.pod) {
        return Truth::plain(true);
    }
    let message = "Scheduling is blocked due to non-empty scheduling gates";
    Truth::because(false, "SchedulingGated", Some(message.to_owned()))
}

fn is_over(phase: &str) -> bool {
    phase == "Succeeded" || phase == "Failed"
}

fn resize_pending(of: &StatusInputs<'_>, phase: &str) -> Option<Truth> {
    let pending = of.inputs.kept.pending.as_ref().filter(|_| !is_over(phase))?;
    Some(Truth::because(true, pending.reason(), Some(pending.message.clone())))
}

fn resize_in_progress(of: &StatusInputs<'_>, phase: &str) -> Option<Truth> {
    let inputs = &of.inputs;
    let actuated = inputs.kept.actuated.as_ref().filter(|_| !is_over(phase))?;
    if resize::is_met(inputs.pod, actuated) {
        return None;
    }
    Some(match &inputs.progress.resize_trouble {
        Some(trouble) => Truth::because(true, "Error", Some(trouble.message.clone())),
        None => Truth::plain(true),
    })
}

fn restarting_all(of: &StatusInputs<'_>, phase: &str) -> Option<Truth> {
    if !roles::may_restart_all(of.inputs.pod) {
        return None;
    }
    let begun = of.inputs.kept.restart_all.is_some() && !of.inputs.life.is_ending();
    Some(match phase {
        "Succeeded" => Truth::because(false, "PodCompleted", None),
        "Failed" => Truth::because(false, "PodFailed", None),
        _ if begun => {
            let message = "container exited with restart policy rule".to_owned();
            Truth::because(true, "RestartAllContainersStarted", Some(message))
        }
        _ => Truth::plain(false),
    })
}

/// Other reasons for this condition are told by whoever deletes the pod.
fn disrupted(of: &StatusInputs<'_>) -> Option<Truth> {
    let verdict = of.inputs.life.end()?.verdict.as_ref()?;
    let message = match (verdict.reason.as_deref()?, verdict.message.as_deref()?) {
        (preemption::REASON, _) => preemption::DISRUPTION,
        (eviction::REASON, message) if pressure::is_about_pressure(message) => message,
        _ => return None,
    };
    Some(Truth::because(true, "TerminationByKubelet", Some(message.to_owned())))
}

fn condition(of: &StatusInputs<'_>, kind: &str, truth: Truth, now: Timestamp) -> PodCondition {
    let status = if truth.holds { "True" } else { "False" };
    let former = former(of, kind).filter(|former| former.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: truth.reason.map(str::to_owned),
        message: truth.message,
        last_transition_time: former.and_then(|former| former.last_transition_time.clone()).or_else(|| Some(time(now))),
        observed_generation: of.inputs.pod.metadata.generation,
        last_probe_time: None,
    }
}

fn former<'a>(of: &StatusInputs<'a>, kind: &str) -> Option<&'a PodCondition> {
    of.before?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Go's `%v` of a list.
fn listed(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(of: &StatusInputs<'_>, phase: &str, init: &Statuses, regular: &Statuses) -> Truth {
    if phase == "Succeeded" {
        return Truth::because(true, "PodCompleted", None);
    }
    let begun = regular.iter().any(|(_, status)| status.container_id.is_some());
    // Once true, always true: a sandbox that is made again initialises in silence.
    if begun || former(of, "Initialized").is_some_and(|former| former.status == "True") {
        return Truth::plain(true);
    }
    let open = init.iter().filter(|(role, status)| match role {
        Role::Sidecar => status.started != Some(true),
        _ => !status.ready,
    });
    let open: Vec<_> = open.map(|(_, status)| status.name.as_str()).collect();
    if open.is_empty() {
        return Truth::plain(true);
    }
    let message = format!("containers with incomplete status: {}", listed(&open));
    Truth::because(false, "ContainersNotInitialized", Some(message))
}

fn containers_ready(phase: &str, init: &Statuses, regular: &Statuses) -> Truth {
    match phase {
        "Succeeded" => return Truth::because(false, "PodCompleted", None),
        "Failed" => return Truth::because(false, "PodFailed", None),
        _ => {}
    }
    let counted = init.iter().filter(|(role, _)| *role == Role::Sidecar).chain(regular);
    let unready: Vec<_> = counted.filter(|(_, status)| !status.ready).map(|(_, s)| s.name.as_str()).collect();
    if unready.is_empty() {
        return Truth::plain(true);
    }
    let message = format!("containers with unready status: {}", listed(&unready));
    Truth::because(false, "ContainersNotReady", Some(message))
}

fn ready(of: &StatusInputs<'_>, containers: &Truth) -> Truth {
    if !containers.holds {
        return Truth { holds: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = of.inputs.pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let closed: Vec<_> = gates.iter().filter_map(|gate| closed(of, &gate.condition_type)).collect();
    if closed.is_empty() {
        return Truth::plain(true);
    }
    Truth::because(false, "ReadinessGatesNotReady", Some(closed.join(", ")))
}

fn closed(of: &StatusInputs<'_>, gate: &str) -> Option<String> {
    match former(of, gate) {
        None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
        Some(condition) if condition.status == "True" => None,
        Some(condition) => {
            Some(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", condition.status))
        }
    }
}

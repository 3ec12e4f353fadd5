//! What a pod waits for, and why, in words. Pure: the same inputs as a plan, and the plan itself.
//!
//! Steps under way are not in here: the timeline knows them, and since when.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, Probe};

use super::backoff::shown;
use super::life::{Life, Undo};
use super::plan::{Inputs, Plan};
use super::roles::{self, Member, Role};
use super::step::{Job, Trouble};
use crate::timeline::Wait;

/// What the pod waits for now.
pub(super) fn awaits(inputs: &Inputs<'_>, plan: &Plan, status: &PodStatus, now: Timestamp) -> Vec<Wait> {
    if inputs.kept.rejected && !inputs.life.end().is_some_and(|end| end.deleted) {
        return vec![Wait::new(
            "this node",
            format!("it refused the pod: {}", status.message.clone().unwrap_or_default()),
            None,
        )];
    }
    match inputs.life {
        Life::Running => running(inputs, plan, status),
        Life::Stopping { deadline, .. } => stopping(inputs, *deadline, now),
        Life::Stopped { left, .. } => {
            let trouble = inputs.progress.undo_trouble.iter().map(|trouble| retry("what is given back", trouble));
            let left: Vec<_> = left.iter().map(|undo| undone(*undo)).collect();
            let rest = (!left.is_empty())
                .then(|| Wait::new("the pod's end", format!("still there: {}", left.join(", ")), None));
            trouble.chain(rest).collect()
        }
    }
}

/// What is given back, in a word.
pub(super) fn undone(undo: Undo) -> &'static str {
    match undo {
        Undo::Sandboxes => "sandbox and network",
        Undo::Remains => "dead containers",
        Undo::Volumes => "volumes",
        Undo::Cgroup => "cgroup",
        Undo::Logs => "logs",
        Undo::Directory => "directory",
    }
}

fn retry(of: impl Into<String>, trouble: &Trouble) -> Wait {
    Wait::new(of, format!("tried again after {}: {}", trouble.reason, trouble.message), Some(trouble.retry))
}

fn stopping(inputs: &Inputs<'_>, deadline: Timestamp, now: Timestamp) -> Vec<Wait> {
    let left = deadline.duration_since(now).as_secs().max(0);
    let runs = inputs.seen.containers.iter().filter(|container| container.state.may_run());
    let names: Vec<_> = runs.map(|container| container.name.as_str()).collect();
    let why = match names.as_slice() {
        [] => format!("the pod is terminating with {left} s of grace left; what was being made ends first"),
        names => format!("the pod is terminating with {left} s of grace left; {} still run", names.join(", ")),
    };
    vec![Wait::new("the end of the pod's containers", why, Some(deadline))]
}

fn running(inputs: &Inputs<'_>, plan: &Plan, status: &PodStatus) -> Vec<Wait> {
    let progress = inputs.progress;
    let mut waits: Vec<_> = progress.volume_trouble.iter().map(|trouble| retry("volumes", trouble)).collect();
    waits.extend(progress.sandbox_trouble.iter().map(|trouble| retry("sandbox", trouble)));
    let members = roles::members(inputs.pod);
    let place = Place { inputs, plan, status, inits: members.iter().filter(|m| m.role.is_init()).count() };
    for (at, member) in members.iter().enumerate() {
        waits.extend(place.container(at, member));
    }
    waits.extend(progress.resize_trouble.iter().map(|trouble| retry("resize", trouble)));
    waits.extend(gates(inputs.pod, status));
    waits
}

/// Gates are looked at once all containers are ready.
fn gates(_: &Pod, status: &PodStatus) -> Option<Wait> {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    let closed = ready.reason.as_deref() == Some("ReadinessGatesNotReady");
    closed.then(|| Wait::new("readiness gates", ready.message.clone().unwrap_or_default(), None))
}

struct Place<'a> {
    inputs: &'a Inputs<'a>,
    plan: &'a Plan,
    status: &'a PodStatus,
    inits: usize,
}

impl Place<'_> {
    fn container(&self, at: usize, member: &Member<'_>) -> Option<Wait> {
        let name = &member.container.name;
        let of = match member.role {
            Role::Regular => format!("container {name}"),
            Role::Init => format!("init container {} of {} ({name})", at + 1, self.inits),
            Role::Ephemeral => format!("ephemeral container {name}"),
            Role::Sidecar => format!("sidecar {name}, {} of {} init containers", at + 1, self.inits),
        };
        let progress = self.inputs.progress;
        if progress.is_doing(&Job::Start(name.clone())) || progress.is_doing(&Job::Image(name.clone())) {
            return None;
        }
        if let Some(crash) = self.plan.crash_loops.get(name) {
            return Some(Wait::new(
                of,
                format!("back-off {} before its restart", shown(crash.delay)),
                Some(crash.until),
            ));
        }
        if let Some(trouble) = progress.container_trouble.get(name) {
            return Some(match &trouble.pull_of {
                Some(image) => {
                    let why = format!("back-off before pulling image {image:?} again: {}", trouble.message);
                    Wait::new(of, why, Some(trouble.retry))
                }
                None => retry(of, trouble),
            });
        }
        let status = self.status_of(name)?;
        let state = status.state.clone().unwrap_or_default();
        match (member.role, state.running, state.terminated) {
            (Role::Init, Some(_), _) => Some(Wait::new(of, "it runs, and has to end before the pod goes on", None)),
            (_, Some(_), _) => self.probes(of, member, status),
            (_, None, Some(_)) => None,
            (_, None, None) => Some(Wait::new(of, self.turn(member), None)),
        }
    }

    fn status_of(&self, name: &str) -> Option<&ContainerStatus> {
        let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        let all = all.chain(&self.status.ephemeral_container_statuses).flatten();
        all.into_iter().find(|status| status.name == *name)
    }

    fn probes(&self, of: String, member: &Member<'_>, status: &ContainerStatus) -> Option<Wait> {
        let container = &member.container;
        let every = |probe: &Probe| format!("every {} s", probe.period_seconds.unwrap_or(10));
        if let Some(probe) = container.startup_probe.as_ref().filter(|_| status.started != Some(true)) {
            let tries = probe.failure_threshold.unwrap_or(3);
            let why =
                format!("its startup probe has not succeeded yet; tried {}, {tries} failures end it", every(probe));
            return Some(Wait::new(of, why, None));
        }
        let probe = container.readiness_probe.as_ref().filter(|_| !status.ready)?;
        Some(Wait::new(of, format!("its readiness probe has not succeeded yet; tried {}", every(probe)), None))
    }

    /// What has to come before the container's start.
    fn turn(&self, member: &Member<'_>) -> String {
        let progress = self.inputs.progress;
        let has_sandbox = self.inputs.seen.sandbox().is_some_and(|sandbox| sandbox.ready);
        let mut before = Vec::new();
        if progress.volumes.is_none() {
            before.push("the volumes");
        }
        if !has_sandbox {
            before.push("the sandbox");
        }
        if let Some(target) = member.target.filter(|target| self.inputs.seen.newest(target).is_none()) {
            before.push(target);
        }
        if before.is_empty() {
            before.push(if member.role == Role::Regular && self.inits > 0 {
                "the init containers"
            } else {
                "the ones before it"
            });
        }
        format!("its turn, after {}", before.join(" and "))
    }
}

//! How a pod's containers end: regular ones at once, sidecars after those they serve.

use std::time::Duration;

use jiff::Timestamp;

use super::backoff::signed;
use super::plan::{Inputs, Plan, grace};
use super::roles::{self, Role};
use super::step::{Job, Kill, Step};
use crate::observe::Container;

/// Between two tries to stop the same container.
const PAUSE: Duration = Duration::from_secs(1);

/// Stops every container of a pod that ends, until `deadline`.
pub(super) fn stopping(plan: &mut Plan, inputs: &Inputs<'_>, deadline: Timestamp, now: Timestamp) {
    // A clock that was set back must not make a grace period longer than it is.
    let deadline = deadline.min(grace(inputs.pod, now));
    let order: Vec<_> = roles::members(inputs.pod);
    let place = |container: &Container| order.iter().position(|member| member.container.name == container.name);
    let is_sidecar = |at: usize| order[at].role == Role::Sidecar;
    for container in inputs.seen.containers.iter().filter(|container| container.state.may_run()) {
        let held = place(container).filter(|at| is_sidecar(*at)).is_some_and(|at| {
            // Regular containers and later sidecars come first; plain init containers hold nothing up.
            inputs.seen.containers.iter().any(|other| {
                let later = place(other)
                    .is_some_and(|other| other > at && matches!(order[other].role, Role::Regular | Role::Sidecar));
                other.state.may_run() && later
            })
        });
        if held && now < deadline {
            pre_stop_early(plan, inputs, container, deadline);
            plan.wake(deadline);
        } else {
            let message = format!("Stopping container {}", container.name);
            kill(plan, inputs, container, message, deadline, false, now);
        }
    }
}

/// Stops every container because its sandbox is no good or nothing is left to do.
pub(super) fn everything(plan: &mut Plan, inputs: &Inputs<'_>, now: Timestamp) {
    for container in inputs.seen.containers.iter().filter(|container| container.state.may_run()) {
        let message = format!("Stopping container {}", container.name);
        kill(plan, inputs, container, message, grace(inputs.pod, now), false, now);
    }
}

fn pre_stop_early(plan: &mut Plan, inputs: &Inputs<'_>, container: &Container, deadline: Timestamp) {
    let member = roles::member(inputs.pod, &container.name);
    let has_hook = member.is_some_and(|m| m.container.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some()));
    if has_hook && !inputs.progress.hooks_done.contains(&container.id) {
        let (id, container) = (container.id.clone(), container.name.clone());
        plan.step(inputs.progress, Step::PreStop { id, container, deadline });
    }
}

/// Plans a container's end; a kill that is under way is hastened when the new deadline is sooner.
pub(super) fn kill(
    plan: &mut Plan,
    inputs: &Inputs<'_>,
    container: &Container,
    message: String,
    deadline: Timestamp,
    again: bool,
    now: Timestamp,
) {
    // A runtime that says it stopped a container and shows it running, or cannot stop it, is not asked without pause.
    let killed = inputs.progress.killed.get(&container.id).filter(|at| **at <= now);
    let not_before = killed.and_then(|at| at.saturating_add(signed(PAUSE)).ok());
    if let Some(at) = not_before.filter(|at| *at > now) {
        plan.wake(at);
        return;
    }
    let early_hook = Job::PreStop(container.id.clone());
    let kill = Kill {
        id: container.id.clone(),
        container: container.name.clone(),
        message: Some(message),
        deadline,
        hook_done: inputs.progress.hooks_done.contains(&container.id) || inputs.progress.is_doing(&early_hook),
        again,
    };
    match inputs.progress.doing.get(&Job::Kill(container.id.clone())) {
        None => plan.step(inputs.progress, Step::Kill(kill)),
        // A tenth of a second apart is the same moment, computed twice.
        Some(Some(until)) if deadline.saturating_add(signed(Duration::from_millis(100))).is_ok_and(|d| d < *until) => {
            plan.steps.push(Step::Kill(Kill { message: None, hook_done: true, ..kill }));
        }
        Some(_) => {}
    }
}

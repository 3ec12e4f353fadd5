//! What the containers' states say about the whole pod.

use super::life::Verdict;
use super::plan::Inputs;
use super::roles::{self, Member, Role};
use super::sandbox;
use crate::observe::{Container, State};
use crate::probes::Outcome;

/// Regular containers may be started: there is nothing to initialise, or they were begun already.
pub(super) fn is_initialized(inputs: &Inputs<'_>, members: &[Member<'_>]) -> bool {
    let begun = |member: &Member<'_>| {
        let instance = inputs.seen.newest(&member.container.name);
        // An end does not count: after a reboot the initialisation runs again.
        instance.is_some_and(|instance| matches!(instance.state, State::Created | State::Running { .. }))
    };
    !members.iter().any(|member| member.role.is_init())
        || members.iter().any(|member| member.role == Role::Regular && begun(member))
}

/// A running container has passed its startup probe, or has none.
pub(super) fn is_started(inputs: &Inputs<'_>, member: &Member<'_>, instance: &Container) -> bool {
    if member.container.startup_probe.is_none() {
        return true;
    }
    let results = inputs.probes.containers.get(&member.container.name);
    results.is_some_and(|results| results.container_id == instance.id && results.startup == Some(Outcome::Success))
}

/// How the pod ended, once nothing of it will run again.
pub(super) fn verdict(inputs: &Inputs<'_>) -> Option<Verdict> {
    let members = roles::members(inputs.pod);
    let spec = inputs.pod.spec.as_ref()?;
    let ended = |member: &Member<'_>| {
        let instance = inputs.seen.newest(&member.container.name)?;
        let State::Exited { code, reason, .. } = &instance.state else { return None };
        let again = inputs.kept.again.contains(&instance.id) || roles::restarts(spec, member, *code, reason);
        (!again).then_some(*code == 0 && reason != "OOMKilled")
    };
    let plain = |succeeded| Verdict { succeeded, reason: None, message: None };
    let init_failed = |member: &&Member<'_>| member.role == Role::Init && ended(member) == Some(false);
    if !is_initialized(inputs, &members) && members.iter().any(|member| init_failed(&member)) {
        return Some(plain(false));
    }
    let regular: Vec<_> = members.iter().filter(|member| member.role == Role::Regular).collect();
    let over = !regular.is_empty() && regular.iter().all(|member| ended(member).is_some());
    // Its sandbox is gone and there will be no other: what was never started will not be.
    let stranded = !inputs.seen.anything_runs() && sandbox::need(inputs, &members) == sandbox::Need::Nothing;
    let over = over || stranded;
    over.then(|| plain(regular.iter().all(|member| exit_code(inputs, member) == Some(0))))
}

fn exit_code(inputs: &Inputs<'_>, member: &Member<'_>) -> Option<i32> {
    match inputs.seen.newest(&member.container.name)?.state {
        State::Exited { code, .. } => Some(code),
        _ => None,
    }
}

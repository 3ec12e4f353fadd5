//! `RestartAllContainers`: one container's end takes all others with it. The sandbox, the volumes and the address stay.
//!
//! Facts: `pod-lifecycle`, section 10.

use jiff::Timestamp;

use super::plan::{Inputs, Plan, RestartAll};
use super::roles::{self, Member, Role};
use super::step::{Job, Remains, Step};
use super::stop;
use crate::observe::{Container, State};

/// True while it goes on: nothing else happens to the pod's containers then.
pub(super) fn goes_on(plan: &mut Plan, inputs: &Inputs<'_>, members: &[Member<'_>], now: Timestamp) -> bool {
    let begun = inputs.kept.restart_all.as_ref();
    let Some(trigger) = begun.cloned().or_else(|| trigger(inputs, members)) else { return false };
    let concerned = |name: &str| members.iter().any(|m| m.role != Role::Ephemeral && m.container.name == name);
    let mut left = inputs.seen.containers.iter().filter(|container| concerned(&container.name)).peekable();
    let starting = inputs.progress.doing.keys().any(|job| matches!(job, Job::Start(name) if concerned(name)));
    if begun.is_some() && left.peek().is_none() && !starting {
        plan.restart_all = Some(RestartAll::Over);
        return false;
    }
    plan.restart_all = Some(RestartAll::Begins(trigger.clone()));
    let left: Vec<_> = left.collect();
    for container in left.iter().filter(|container| container.state.may_run()) {
        stop::kill(plan, inputs, container, "killing".to_owned(), now, false, now);
    }
    if plan.may_try(inputs.progress.undo_trouble.as_ref(), now) {
        remove(plan, inputs, &left, &trigger);
    }
    true
}

/// The container that demanded it goes last: until then its end can be seen in the runtime.
fn remove(plan: &mut Plan, inputs: &Inputs<'_>, left: &[&Container], trigger: &str) {
    let others = left.iter().any(|container| container.name != trigger);
    for container in left.iter().filter(|container| !container.state.may_run()) {
        if container.name != trigger || !others {
            let remains = Remains { keep_log: true, ..Remains::from(*container) };
            plan.step(inputs.progress, Step::Remove(remains));
        }
    }
}

fn trigger(inputs: &Inputs<'_>, members: &[Member<'_>]) -> Option<String> {
    let demands = |member: &&Member<'_>| match inputs.seen.newest(&member.container.name).map(|c| &c.state) {
        Some(State::Exited { code, .. }) => roles::restarts_all(member, *code),
        _ => false,
    };
    members.iter().find(demands).map(|member| member.container.name.clone())
}

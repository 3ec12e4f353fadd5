//! When the cgroups of what runs follow what was granted.

use jiff::Timestamp;

use super::plan::{Inputs, Plan, grace};
use super::roles::Member;
use super::step::{Job, Resize, Step};
use super::stop;
use crate::observe::Container;
use crate::resources::resize;

/// True while nothing may be started: the pod's cgroup is about to change.
pub(super) fn keep(
    plan: &mut Plan,
    inputs: &Inputs<'_>,
    members: &[Member<'_>],
    sandbox: &str,
    now: Timestamp,
) -> bool {
    let Some(from) = inputs.kept.actuated.as_ref().filter(|from| !resize::is_met(inputs.pod, from)) else {
        return false;
    };
    // What is being started was given the former amounts.
    if inputs.progress.doing.keys().any(|job| matches!(job, Job::Start(_))) {
        return true;
    }
    let old = resize::with(inputs.pod, from);
    let mut restarting = false;
    for member in members {
        let name = &member.container.name;
        let Some(instance) = running(inputs, name) else { continue };
        if resize::needs_restart(&member.container, &old, inputs.pod) {
            let message = format!("Container {name} resize requires restart");
            stop::kill(plan, inputs, instance, message, grace(inputs.pod, now), true, now);
            restarting = true;
        }
    }
    if restarting {
        return true;
    }
    if !plan.may_try(inputs.progress.resize_trouble.as_ref(), now) {
        return false;
    }
    let ids = members.iter().filter_map(|member| {
        let name = &member.container.name;
        running(inputs, name).map(|instance| (name.clone(), instance.id.clone()))
    });
    let resize = Resize { from: from.clone(), running: ids.collect(), sandbox: sandbox.to_owned() };
    plan.step(inputs.progress, Step::Resize(resize));
    true
}

fn running<'a>(inputs: &Inputs<'a>, name: &str) -> Option<&'a Container> {
    inputs.seen.newest(name).filter(|instance| instance.state.is_running())
}

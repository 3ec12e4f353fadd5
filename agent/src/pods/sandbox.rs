//! When a pod's sandbox is made, and made again.

use jiff::Timestamp;

use super::plan::{Inputs, Plan, is_regular};
use super::roles::{self, Member};
use super::step::Step;
use super::stop;
use crate::container::on_host_network;
use crate::observe::{Sandbox, State};

/// What the pod needs of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// This one is good.
    Good(String),
    /// A new one, with this attempt.
    Replace(u32),
    /// None: nothing would run in it.
    Nothing,
}

pub(super) fn need(inputs: &Inputs<'_>, members: &[Member<'_>]) -> Need {
    let Some(newest) = inputs.seen.sandbox() else { return Need::Replace(0) };
    if is_good(inputs, newest) {
        return Need::Good(newest.id.clone());
    }
    if gives_up(inputs, newest) || all_done(inputs, members) {
        return Need::Nothing;
    }
    Need::Replace(newest.attempt.saturating_add(1))
}

pub(super) fn is_good(inputs: &Inputs<'_>, newest: &Sandbox) -> bool {
    let on_host = on_host_network(inputs.pod);
    let alone = inputs.seen.sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1;
    newest.ready && alone && newest.host_network == on_host && (on_host || !newest.ips.is_empty())
}

/// A pod that never restarts anything does not get a third sandbox once something of it ran.
fn gives_up(inputs: &Inputs<'_>, newest: &Sandbox) -> bool {
    let policy = inputs.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    policy == Some("Never") && newest.attempt != 0 && !inputs.seen.containers.is_empty()
}

/// Regular containers were made, and none of them would be started again.
fn all_done(inputs: &Inputs<'_>, members: &[Member<'_>]) -> bool {
    let Some(spec) = inputs.pod.spec.as_ref() else { return false };
    let mut regular = members.iter().filter(|member| is_regular(member)).peekable();
    regular.peek().is_some()
        && regular.all(|member| match inputs.seen.newest(&member.container.name).map(|c| (&c.id, &c.state)) {
            Some((id, State::Exited { code, reason, .. })) => {
                !inputs.kept.again.contains(id) && !roles::restarts(spec, member, *code, reason)
            }
            _ => false,
        })
}

/// Everything in the old sandboxes ends, then they end, then the new one is made.
pub(super) fn replace(plan: &mut Plan, inputs: &Inputs<'_>, attempt: u32, now: Timestamp) {
    let (seen, progress) = (inputs.seen, inputs.progress);
    if seen.anything_runs() {
        stop::everything(plan, inputs, now);
        return;
    }
    if !plan.may_try(progress.sandbox_trouble.as_ref(), now) || !plan.may_try(progress.undo_trouble.as_ref(), now) {
        return;
    }
    if let Some(old) = seen.sandboxes.iter().find(|sandbox| sandbox.ready) {
        plan.step(progress, Step::StopSandbox { id: old.id.clone() });
        return;
    }
    // Init containers run again in a new sandbox: their ends in the old one say nothing.
    let members = roles::members(inputs.pod);
    let init = members.iter().filter(|member| member.role.is_init());
    let names: Vec<_> = init.map(|member| member.container.name.as_str()).collect();
    let mut clean = true;
    for old in seen.containers.iter().filter(|container| names.contains(&container.name.as_str())) {
        plan.step(progress, Step::Remove(old.into()));
        clean = false;
    }
    if clean {
        plan.step(progress, Step::Sandbox { attempt });
    }
}

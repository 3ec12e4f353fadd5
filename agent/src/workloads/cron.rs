//! CronJobs: Jobs by the clock.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::expand::Turn;
use super::memory::{Child, Memory, Remembered};
use super::{Concurrency, CronPlan, JobPlan, Plan, Workload, WorkloadKind, naming};
use crate::names::ObjectName;

/// Makes the Jobs whose time has come and takes old ones away from `memory`; the new ones come back by uid.
pub(super) fn step(
    plan: &CronPlan,
    template: &PodTemplateSpec,
    turn: &mut Turn<'_>,
    memory: &mut Memory,
) -> Vec<(String, Remembered)> {
    drop_old(plan, turn, memory);
    if plan.suspend {
        return Vec::new();
    }
    if let Some(next) = plan.schedule.next(turn.now) {
        turn.wake(next);
    }
    let Some(due) = due(plan, turn) else { return Vec::new() };
    if let Some(late) = plan.starting_deadline.filter(|late| is_late(due, *late, turn.now)) {
        turn.memory.last_schedule = Some(due);
        turn.say(
            true,
            "MissSchedule",
            format!("Missed scheduled time to start a job: {due} is more than {late} s ago"),
        );
        return Vec::new();
    }
    if !make_room(plan, turn, memory) {
        return Vec::new();
    }
    turn.memory.last_schedule = Some(due);
    vec![job(plan, template, due, turn)]
}

/// The newest time that has come and has no Job: what was missed before it, is missed.
fn due(plan: &CronPlan, turn: &Turn<'_>) -> Option<Timestamp> {
    let since = turn.memory.last_schedule.unwrap_or(turn.memory.created);
    plan.schedule.last(since, turn.now)
}

fn is_late(due: Timestamp, deadline: i64, now: Timestamp) -> bool {
    due.checked_add(SignedDuration::from_secs(deadline)).is_ok_and(|by| by < now)
}

fn is_active(job: &Remembered) -> bool {
    job.job.finished.is_none()
}

fn children<'m>(memory: &'m Memory, owner: &str) -> impl Iterator<Item = (&'m String, &'m Remembered)> {
    memory.iter().filter(move |(_, job)| job.child.as_ref().is_some_and(|child| child.owner == owner))
}

/// Whether the next Job may begin as far as the former ones are concerned.
fn make_room(plan: &CronPlan, turn: &mut Turn<'_>, memory: &mut Memory) -> bool {
    let active: Vec<_> =
        children(memory, &turn.uid).filter(|(_, job)| is_active(job)).map(|(uid, _)| uid.clone()).collect();
    match plan.concurrency {
        Concurrency::Allow => true,
        // It is looked at again when a pod of the former one changes, and then made if it is not too late.
        Concurrency::Forbid => active.is_empty(),
        Concurrency::Replace => {
            for uid in &active {
                if let Some(job) = memory.remove(uid) {
                    turn.say(false, "SuccessfulDelete", format!("Deleted job {}", job.name.name));
                }
            }
            true
        }
    }
}

fn job(plan: &CronPlan, template: &PodTemplateSpec, due: Timestamp, turn: &mut Turn<'_>) -> (String, Remembered) {
    // Minutes since 1970, as upstream names them; seconds where `@every` may fall on one minute twice.
    let second = due.as_second();
    let time = if second % 60 == 0 { second / 60 } else { second };
    let name = format!("{}-{time}", turn.name.name);
    let name = ObjectName::new(turn.name.namespace.clone(), name);
    let uid = naming::workload_uid(WorkloadKind::Job, &name, &turn.uid, &[]);
    let mut job = Remembered::new(WorkloadKind::Job, name, turn.now);
    job.wants(template);
    job.child = Some(Child {
        owner: turn.uid.clone(),
        owner_name: turn.name.name.clone(),
        plan: plan.job.clone(),
        scheduled: due,
    });
    turn.say(false, "SuccessfulCreate", format!("Created job {}", job.name.name));
    (uid, job)
}

/// Finished Jobs beyond the limits go, oldest first; so do those whose time to live has passed.
fn drop_old(plan: &CronPlan, turn: &mut Turn<'_>, memory: &mut Memory) {
    let mut gone = Vec::new();
    for (complete, keep) in [(true, plan.keep_complete), (false, plan.keep_failed)] {
        let ended = children(memory, &turn.uid);
        let ended = ended.filter(|(_, job)| job.job.finished.as_ref().is_some_and(|end| end.complete == complete));
        let scheduled = |job: &Remembered| job.child.as_ref().map(|child| child.scheduled);
        let mut ended: Vec<_> = ended.map(|(uid, job)| (scheduled(job), uid.clone())).collect();
        ended.sort();
        let surplus = ended.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        gone.extend(ended.drain(..surplus).map(|(_, uid)| uid));
    }
    gone.extend(children(memory, &turn.uid).filter(|(_, job)| job.job.collected).map(|(uid, _)| uid.clone()));
    for uid in gone {
        if let Some(job) = memory.remove(&uid) {
            turn.say(false, "SuccessfulDelete", format!("Deleted job {}", job.name.name));
        }
    }
}

/// A Job that a CronJob made, as a workload of its own. It keeps what the CronJob said when it was made.
pub(super) fn child(job: &Remembered, child: &Child, owner: &Workload) -> Workload {
    let template = job.revisions.last().map(|revision| revision.template.clone()).unwrap_or_default();
    let suspend = match &owner.plan {
        Plan::Cron(plan) => plan.job.suspend,
        _ => false,
    };
    Workload {
        kind: WorkloadKind::Job,
        name: job.name.clone(),
        file: owner.file.clone(),
        template,
        plan: Plan::Job(JobPlan { suspend: suspend && child.plan.suspend, ..child.plan.clone() }),
    }
}

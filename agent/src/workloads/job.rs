//! Jobs: pods that end, until enough of them have succeeded.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::expand::Turn;
use super::memory::{Finished, Known};
use super::{End, Failures, JobPlan, naming, replicas};

/// First delay before a failed pod is replaced; doubled with each failure in a row (the controller's numbers).
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// Longest such delay.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(6);
/// Pods that have ended and are still shown; of a Job of thousands the older ones go.
const SHOWN: usize = 50;
/// How many pods one turn makes at most.
const AT_ONCE: usize = 500;

pub(super) fn step(plan: &JobPlan, turn: &mut Turn<'_>) {
    if turn.memory.job.collected {
        return;
    }
    if turn.memory.job.finished.is_none() {
        count_ended(turn);
        decide(plan, turn);
    }
    if turn.memory.job.finished.is_some() {
        collect(plan, turn);
    } else if plan.suspend {
        suspend(turn);
    } else {
        go_on(plan, turn);
    }
    hide_old(turn);
}

/// Every end counts once: what it counted for is on disk with the mark on its pod.
fn count_ended(turn: &mut Turn<'_>) {
    for (uid, end) in turn.newly_ended() {
        let Some(member) = turn.memory.members.get_mut(&uid) else { continue };
        member.end = Some(end);
        let index = member.index;
        let (job, failures) = (&mut turn.memory.job, &mut turn.memory.failures);
        match end {
            End::Succeeded => {
                // The same index twice is one completion.
                let counts = index.is_none_or(|index| job.indexes.insert(index));
                job.succeeded = job.succeeded.saturating_add(u32::from(counts));
                *failures = Failures::default();
            }
            End::Failed => {
                job.failed = job.failed.saturating_add(1);
                failures.count = failures.count.saturating_add(1);
                failures.last = Some(turn.now);
            }
        }
    }
}

/// Whether it is over, by success or by one of its limits.
fn decide(plan: &JobPlan, turn: &mut Turn<'_>) {
    let active = turn.memory.active().count();
    let job = &turn.memory.job;
    // Without `completions` the first success says that there is no more work; the others may end theirs.
    let complete = match plan.completions {
        Some(wanted) => job.succeeded >= wanted,
        None => job.succeeded > 0 && active == 0,
    };
    if complete {
        return finish(turn, true, "", "Job completed");
    }
    let restarts: u32 = match turn.memory.active().map(|(uid, _)| turn.seen.get(uid)).collect::<Option<Vec<_>>>() {
        // Containers that restart inside their pod (OnFailure) count like pods that fail.
        Some(seen) => seen.iter().map(|seen| seen.restarts).fold(0, u32::saturating_add),
        None => 0,
    };
    let failed = job.failed.saturating_add(restarts);
    if failed > plan.backoff_limit {
        return finish(turn, false, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if let Some(by) = deadline(plan, job.started).filter(|_| !plan.suspend) {
        match by <= turn.now {
            true => finish(turn, false, "DeadlineExceeded", "Job was active longer than specified deadline"),
            false => turn.wake(by),
        }
    }
}

fn deadline(plan: &JobPlan, started: Option<Timestamp>) -> Option<Timestamp> {
    started?.checked_add(SignedDuration::from_secs(plan.deadline?)).ok()
}

fn finish(turn: &mut Turn<'_>, complete: bool, reason: &'static str, message: &str) {
    let at = turn.now;
    turn.memory.job.finished = Some(Finished { complete, reason: reason.to_owned(), at });
    turn.say(!complete, if complete { "Completed" } else { reason }, message.to_owned());
    dismiss_active(turn);
}

fn dismiss_active(turn: &mut Turn<'_>) {
    let active: Vec<_> = turn.memory.active().map(|(uid, _)| uid.clone()).collect();
    active.iter().for_each(|uid| turn.dismiss(uid));
}

/// A finished Job is shown until its time has passed. It stays remembered: its manifest is still there, and it has run.
fn collect(plan: &JobPlan, turn: &mut Turn<'_>) {
    let finished = turn.memory.job.finished.as_ref().map(|finished| finished.at);
    let (Some(at), Some(ttl)) = (finished, plan.ttl) else { return };
    let Ok(until) = at.checked_add(SignedDuration::from_secs(ttl)) else { return };
    if until > turn.now {
        return turn.wake(until);
    }
    let all: Vec<_> = turn.memory.members.keys().cloned().collect();
    all.iter().for_each(|uid| turn.dismiss(uid));
    turn.memory.job.collected = true;
}

fn suspend(turn: &mut Turn<'_>) {
    if turn.memory.job.started.take().is_some() {
        turn.say(false, "Suspended", "Job suspended".to_owned());
    }
    dismiss_active(turn);
}

/// Keeps as many pods active as there should be.
fn go_on(plan: &JobPlan, turn: &mut Turn<'_>) {
    if turn.memory.job.started.is_none() {
        turn.memory.job.started = Some(turn.now);
        if let Some(by) = deadline(plan, Some(turn.now)) {
            turn.wake(by);
        }
    }
    let Some(mut active) = turn.known() else { return };
    let job = &turn.memory.job;
    let want = match plan.completions {
        Some(wanted) => plan.parallelism.min(wanted.saturating_sub(job.succeeded)),
        None if job.succeeded > 0 => plan.parallelism.min(u32::try_from(active.len()).unwrap_or(u32::MAX)),
        None => plan.parallelism,
    };
    let want = usize::try_from(want).unwrap_or(usize::MAX);
    if active.len() > want {
        // Those that have done least go first.
        active.sort_by_key(|pod| (pod.seen.ready_since.is_none(), pod.member.created));
        return active[want..].iter().for_each(|pod| turn.dismiss(&pod.uid));
    }
    make(plan, &active, want - active.len(), turn);
}

fn make(plan: &JobPlan, active: &[Known], count: usize, turn: &mut Turn<'_>) {
    if count == 0 {
        return;
    }
    if let Some(at) = replicas::not_before(turn, FIRST_DELAY, LONGEST_DELAY) {
        return turn.wake(at);
    }
    let (uid, name) = (turn.uid.clone(), turn.name.name.clone());
    let made = |front: String| move |number| naming::generated(&front, &naming::suffix(&uid, number));
    if !plan.indexed {
        let made = made(name);
        return (0..count.min(AT_ONCE)).for_each(|_| turn.make(None, &made));
    }
    for index in free_indexes(plan, active, turn).into_iter().take(count.min(AT_ONCE)) {
        turn.make(Some(index), made.clone()(format!("{name}-{index}")));
    }
}

/// Indexes that have neither succeeded nor a pod, lowest first.
fn free_indexes(plan: &JobPlan, active: &[Known], turn: &Turn<'_>) -> Vec<u32> {
    let busy: BTreeSet<_> = active.iter().filter_map(|pod| pod.member.index).collect();
    let done = &turn.memory.job.indexes;
    let all = 0..plan.completions.unwrap_or_default();
    all.filter(|index| !busy.contains(index) && !done.contains(index)).take(AT_ONCE).collect()
}

fn hide_old(turn: &mut Turn<'_>) {
    let shown = turn.memory.members.iter().filter(|(_, member)| member.end.is_some() && !member.leaving);
    let mut ended: Vec<_> = shown.map(|(uid, member)| (member.created, uid.clone())).collect();
    ended.sort();
    let surplus = ended.len().saturating_sub(SHOWN);
    ended[..surplus].iter().for_each(|(_, uid)| turn.dismiss(uid));
}

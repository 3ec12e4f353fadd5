//! Deployments, ReplicaSets, ReplicationControllers and DaemonSets: so many pods that are all alike.

use jiff::{SignedDuration, Timestamp};

use super::expand::Turn;
use super::memory::Known;
use super::{End, Replicas, Rollout, WorkloadKind, naming};

/// First delay before a pod that failed is replaced; doubled with each that follows. A pod that this node refuses would
/// fail again at once, and a ReplicaSet in a cluster at least tries another node.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
/// Longest such delay.
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn step(plan: &Replicas, turn: &mut Turn<'_>) {
    replace_ended(turn);
    let Some(mut pods) = turn.known() else { return };
    let current = turn.revision.clone();
    // Who stays longest comes first: new template, ready, old.
    pods.sort_by_key(|pod| {
        (pod.member.revision != current, pod.seen.ready_since.is_none(), pod.seen.ready_since, pod.member.created)
    });
    match plan.rollout {
        Rollout::Never => scale(plan, &pods, pods.len(), turn),
        Rollout::Recreate => recreate(plan, &pods, turn),
        Rollout::Rolling { surge, unavailable } => roll(plan, &pods, surge, unavailable, turn),
    }
}

/// A pod that ended is wanted no more: such a pod would not start again by itself.
fn replace_ended(turn: &mut Turn<'_>) {
    for (uid, end) in turn.newly_ended() {
        if end == End::Failed {
            let failures = &mut turn.memory.failures;
            failures.count = failures.count.saturating_add(1);
            failures.last = Some(turn.now);
        }
        turn.dismiss(&uid);
    }
    let ready = |seen: &super::Seen| seen.ready_since.is_some();
    if turn.memory.active().any(|(uid, _)| turn.seen.get(uid).is_some_and(ready)) {
        turn.memory.failures = super::Failures::default();
    }
}

/// When the next pod may be made after failures in a row; `None` for at once.
pub(super) fn not_before(turn: &Turn<'_>, first: SignedDuration, longest: SignedDuration) -> Option<Timestamp> {
    let failures = turn.memory.failures;
    let last = failures.last.filter(|_| failures.count > 0)?;
    let doubled = 1_i32.checked_shl((failures.count - 1).min(20)).unwrap_or(i32::MAX);
    let delay = first.checked_mul(doubled).unwrap_or(longest).min(longest);
    last.checked_add(delay).ok().filter(|at| *at > turn.now)
}

/// Brings the number of pods of the wanted template to what it should be; there are `have` of them.
fn scale(plan: &Replicas, ranked: &[Known], have: usize, turn: &mut Turn<'_>) {
    let want = size(plan.count);
    if have > want {
        ranked[want..have].iter().for_each(|pod| turn.dismiss(&pod.uid));
    }
    make(want.saturating_sub(have), turn);
}

fn make(count: usize, turn: &mut Turn<'_>) {
    if count == 0 {
        return;
    }
    if let Some(at) = not_before(turn, FIRST_DELAY, LONGEST_DELAY) {
        return turn.wake(at);
    }
    for _ in 0..count {
        let front = match turn.kind {
            WorkloadKind::Deployment => format!("{}-{}", turn.name.name, turn.revision),
            _ => turn.name.name.clone(),
        };
        let uid = turn.uid.clone();
        turn.make(None, |number| naming::generated(&front, &naming::suffix(&uid, number)));
    }
}

fn recreate(plan: &Replicas, ranked: &[Known], turn: &mut Turn<'_>) {
    let new = ranked.iter().filter(|pod| pod.member.revision == turn.revision).count();
    for old in &ranked[new..] {
        turn.dismiss(&old.uid);
    }
    // The last of the old ones has to be gone: two of them may not hold one disk or port.
    if turn.memory.leaving() == 0 || new > 0 {
        scale(plan, &ranked[..new], new, turn);
    }
}

fn roll(plan: &Replicas, ranked: &[Known], surge: u32, unavailable: u32, turn: &mut Turn<'_>) {
    let now = turn.now;
    let available = |pod: &&Known| pod.seen.is_available(plan.min_ready, now);
    let (new, want) = (ranked.iter().filter(|pod| pod.member.revision == turn.revision).count(), size(plan.count));
    let new_available = ranked[..new].iter().filter(available).count();
    let old = &ranked[new..];
    for pod in ranked.iter().filter(|pod| !available(pod)) {
        if let Some(at) = pod.seen.ready_since.and_then(|since| since.checked_add(plan.min_ready).ok()) {
            turn.wake(at);
        }
    }
    if new > want {
        return scale(plan, &ranked[..new], new, turn);
    }
    let at_least = want.saturating_sub(size(unavailable));
    // The new ones that are not there yet count as if they were about to fail.
    let spare = ranked.len().saturating_sub(at_least + (new - new_available));
    let (mut healthy, unhealthy): (Vec<_>, Vec<_>) = old.iter().partition(|pod| available(pod));
    let mut going: Vec<_> = unhealthy.into_iter().take(spare).collect();
    let more = (new_available + healthy.len()).saturating_sub(at_least);
    // Youngest last in rank, and first to go.
    healthy.reverse();
    going.extend(healthy.into_iter().take(more.min(spare.saturating_sub(going.len()))));
    let room = (want + size(surge)).saturating_sub(ranked.len());
    let uids: Vec<_> = going.iter().map(|pod| pod.uid.clone()).collect();
    uids.iter().for_each(|uid| turn.dismiss(uid));
    make((want - new).min(room), turn);
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

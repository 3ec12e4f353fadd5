//! StatefulSets: pods with ordinals, in their order.

use super::expand::Turn;
use super::memory::Known;
use super::{Failures, Stateful, replicas};
use jiff::SignedDuration;

/// Delays before a pod that failed is replaced, as for replicas.
const FIRST_DELAY: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_DELAY: SignedDuration = SignedDuration::from_mins(5);

pub(super) fn step(plan: &Stateful, turn: &mut Turn<'_>) {
    for (uid, _) in turn.newly_ended() {
        turn.memory.failures.count = turn.memory.failures.count.saturating_add(1);
        turn.memory.failures.last = Some(turn.now);
        turn.dismiss(&uid);
    }
    if turn.memory.ordinals.stable.is_empty() {
        turn.memory.ordinals.stable.clone_from(&turn.revision);
    }
    let Some(pods) = turn.known() else { return };
    for pod in &pods {
        if let Some(at) = pod.seen.ready_since.and_then(|since| since.checked_add(plan.min_ready).ok())
            && at > turn.now
        {
            turn.wake(at);
        }
    }
    if !pods.is_empty() && pods.iter().all(|pod| is_available(plan, pod, turn)) {
        turn.memory.failures = Failures::default();
    }
    if fill(plan, &pods, turn) && shrink(plan, &pods, turn) {
        renew(plan, &pods, turn);
    }
}

fn is_available(plan: &Stateful, pod: &Known, turn: &Turn<'_>) -> bool {
    pod.seen.is_available(plan.min_ready, turn.now)
}

fn wanted(plan: &Stateful) -> std::ops::Range<u32> {
    plan.first..plan.first.saturating_add(plan.count)
}

/// Makes what is missing, lowest ordinal first. Whether all are there, and in order available.
fn fill(plan: &Stateful, pods: &[Known], turn: &mut Turn<'_>) -> bool {
    let mut whole = true;
    for ordinal in wanted(plan) {
        match pods.iter().find(|pod| pod.member.index == Some(ordinal)) {
            Some(pod) if is_available(plan, pod, turn) => {}
            Some(pod) if plan.ordered => return replace_hopeless(plan, pod, turn),
            Some(_) => {}
            None => {
                whole = false;
                make(plan, ordinal, turn);
                if plan.ordered {
                    return false;
                }
            }
        }
    }
    whole
}

/// A pod of a former template that is not available holds up all others: upstream waits for a person to delete it,
/// here it is replaced. Whether the turn goes on.
fn replace_hopeless(plan: &Stateful, pod: &Known, turn: &mut Turn<'_>) -> bool {
    let ordinal = pod.member.index.unwrap_or_default();
    if pod.member.revision != revision(plan, ordinal, turn) && plan.partition.is_some() {
        turn.dismiss(&pod.uid.clone());
    }
    false
}

fn make(plan: &Stateful, ordinal: u32, turn: &mut Turn<'_>) {
    // Its former bearer has to be gone: two of one name may not hold one disk.
    if turn.memory.members.values().any(|member| member.index == Some(ordinal)) {
        return;
    }
    if let Some(at) = replicas::not_before(turn, FIRST_DELAY, LONGEST_DELAY) {
        return turn.wake(at);
    }
    let revision = revision(plan, ordinal, turn);
    turn.memory.ordinals.claimed.insert(ordinal);
    let name = format!("{}-{ordinal}", turn.name.name);
    turn.make_of(&revision, Some(ordinal), |_| name.clone());
}

/// The hash of the template that this ordinal should have.
fn revision(plan: &Stateful, ordinal: u32, turn: &Turn<'_>) -> String {
    let below = plan.partition.is_some_and(|partition| ordinal.saturating_sub(plan.first) < partition);
    let stable = &turn.memory.ordinals.stable;
    if below && turn.memory.template(stable).is_some() { stable.clone() } else { turn.revision.clone() }
}

/// Ends what is too much, highest ordinal first. Whether nothing is.
fn shrink(plan: &Stateful, pods: &[Known], turn: &mut Turn<'_>) -> bool {
    let wanted = wanted(plan);
    let is_surplus = |index: Option<u32>| index.is_none_or(|index| !wanted.contains(&index));
    if plan.ordered && turn.memory.members.values().any(|member| member.leaving) {
        return false;
    }
    let mut surplus: Vec<_> = pods.iter().filter(|pod| is_surplus(pod.member.index)).collect();
    surplus.sort_by_key(|pod| std::cmp::Reverse(pod.member.index));
    let at_once = if plan.ordered { 1 } else { surplus.len() };
    surplus.iter().take(at_once).for_each(|pod| turn.dismiss(&pod.uid));
    if plan.drop_claims {
        let members = &turn.memory.members;
        let has_pod = |ordinal: &u32| members.values().any(|member| member.index == Some(*ordinal));
        let kept = turn.memory.ordinals.claimed.iter().copied().filter(|o| wanted.contains(o) || has_pod(o)).collect();
        turn.memory.ordinals.claimed = kept;
    }
    surplus.is_empty()
}

/// Replaces pods of a former template, highest ordinal first, each only while all others are available.
fn renew(plan: &Stateful, pods: &[Known], turn: &mut Turn<'_>) {
    if turn.memory.members.values().any(|member| member.leaving) {
        return;
    }
    let mut pods: Vec<_> = pods.iter().collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.member.index));
    let is_old = |pod: &Known, turn: &Turn<'_>| {
        pod.member.revision != revision(plan, pod.member.index.unwrap_or_default(), turn)
    };
    if plan.partition.is_some() {
        for pod in &pods {
            if is_old(pod, turn) {
                return turn.dismiss(&pod.uid);
            }
            if !is_available(plan, pod, turn) {
                return;
            }
        }
    }
    if pods.iter().all(|pod| pod.member.revision == turn.revision) {
        turn.memory.ordinals.stable.clone_from(&turn.revision);
    }
}

//! Workloads as people see them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::memory::{Memory, Remembered};
use super::seen::AllSeen;
use super::{Plan, Workload, WorkloadKind};
use crate::names::ObjectName;

/// All workloads, whole, whenever one of them changes.
pub type Rows = watch::Receiver<Arc<Vec<Row>>>;

/// One line of `longshore workloads`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Kind.
    pub kind: WorkloadKind,
    /// Name.
    #[serde(flatten)]
    pub name: ObjectName,
    /// Pods that are wanted; completions of a Job (0 where it has none); 0 for a CronJob.
    pub wanted: u32,
    /// Pods that are ready; completions that a Job has.
    pub ready: u32,
    /// Pods of the newest template.
    pub up_to_date: u32,
    /// Pods, or Jobs of a CronJob, that have not ended.
    pub active: u32,
    /// Pods of a Job that failed.
    pub failed: u32,
    /// A Job's or CronJob's state in a word, such as `Complete`; empty for the others.
    pub status: String,
    /// When it was first wanted.
    pub created: Timestamp,
    /// When a CronJob was last due.
    pub last_schedule: Option<Timestamp>,
}

pub(super) fn rows<'w>(
    workloads: impl Iterator<Item = (&'w String, &'w Workload)>,
    memory: &Memory,
    seen: &AllSeen,
    now: Timestamp,
) -> Vec<Row> {
    let row = |(uid, workload): (&String, &Workload)| {
        let remembered = memory.get(uid)?;
        (!remembered.job.collected).then(|| of(uid, workload, remembered, memory, seen, now))
    };
    let mut rows: Vec<_> = workloads.filter_map(row).collect();
    rows.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
    rows
}

fn of(uid: &str, workload: &Workload, memory: &Remembered, all: &Memory, seen: &AllSeen, now: Timestamp) -> Row {
    let count = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
    let newest = memory.revisions.last().map(|revision| revision.hash.as_str());
    let (wanted, min_ready) = match &workload.plan {
        Plan::Replicas(plan) => (plan.count, plan.min_ready),
        Plan::Stateful(plan) => (plan.count, plan.min_ready),
        Plan::Job(plan) => (plan.completions.unwrap_or_default(), Default::default()),
        Plan::Cron(_) => (0, Default::default()),
    };
    let available = |pod: &crate::names::PodUid| seen.get(pod).is_some_and(|seen| seen.is_available(min_ready, now));
    let jobs = all.values().filter(|job| job.child.as_ref().is_some_and(|child| child.owner == uid));
    let active = match workload.kind {
        WorkloadKind::CronJob => jobs.filter(|job| job.job.finished.is_none()).count(),
        _ => memory.active().count(),
    };
    Row {
        kind: workload.kind,
        name: workload.name.clone(),
        wanted,
        ready: match workload.kind {
            WorkloadKind::Job => memory.job.succeeded,
            _ => count(memory.active().filter(|(uid, _)| available(uid)).count()),
        },
        up_to_date: count(memory.active().filter(|(_, member)| Some(member.revision.as_str()) == newest).count()),
        active: count(active),
        failed: memory.job.failed,
        status: status(workload, memory, active),
        created: memory.created,
        last_schedule: memory.last_schedule,
    }
}

fn status(workload: &Workload, memory: &Remembered, active: usize) -> String {
    let word = match (&workload.plan, &memory.job.finished) {
        (Plan::Job(_), Some(end)) if end.complete => "Complete",
        (Plan::Job(_), Some(end)) => return format!("Failed: {}", end.reason),
        (Plan::Job(plan), None) if plan.suspend => "Suspended",
        (Plan::Cron(plan), _) if plan.suspend => "Suspended",
        (Plan::Cron(_), _) if active == 0 => "Waiting",
        (Plan::Job(_) | Plan::Cron(_), None) => "Running",
        _ => "",
    };
    word.to_owned()
}

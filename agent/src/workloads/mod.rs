//! Workloads as plain replicas of their templates: what a controller manager would do, for one machine.
//!
//! ```text
//! sources --Desired with workloads--> expand --Desired with their pods--> pods
//!                  pods --PodViews--> expand
//! ```
//!
//! [`expand()`] decides and is pure: workloads, what is seen of their pods, what is remembered and the time go in; the
//! pods that are wanted, what is to be remembered and the moment of the next look come out. `replicas`, `stateful`,
//! `job` and `cron` know one kind each, `schedule` the cron expressions, `pod` makes a pod out of a template. [`Task`]
//! has it done: it writes down what is to be remembered before anyone hears of the pods (`store`).

mod cron;
mod expand;
mod job;
mod memory;
mod naming;
mod pod;
mod replicas;
mod rows;
mod schedule;
mod seen;
mod stateful;
mod store;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PodTemplateSpec};
use serde::{Deserialize, Serialize};

use crate::names::ObjectName;

pub use expand::{Expanded, Look, News, expand};
pub use memory::{Child, Failures, Finished, Member, Memory, Ordinals, Progress, Remembered, Revision};
pub use rows::{Row, Rows};
pub use schedule::{BadSchedule, Schedule, zone};
pub use seen::{AllSeen, End, Seen};
pub use store::StoreError;
pub use task::{Published, Task};

/// The kinds of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WorkloadKind {
    /// apps/v1.
    Deployment,
    /// apps/v1.
    ReplicaSet,
    /// v1.
    ReplicationController,
    /// apps/v1.
    StatefulSet,
    /// apps/v1: one pod, this being one node.
    DaemonSet,
    /// batch/v1.
    Job,
    /// batch/v1.
    CronJob,
}

impl WorkloadKind {
    /// As manifests spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
        }
    }

    /// The API group and version it is written in.
    pub fn version(self) -> &'static str {
        match self {
            Self::ReplicationController => "v1",
            Self::Job | Self::CronJob => "batch/v1",
            _ => "apps/v1",
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A workload's kind and name: there is one of each.
pub type WorkloadKey = (WorkloadKind, ObjectName);

/// One workload as its manifest has it, with the API's defaults, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: ObjectName,
    /// Where it was read.
    pub file: PathBuf,
    /// What its pods are made of. As written: an agent that learns a new default restarts nothing.
    pub template: PodTemplateSpec,
    /// How many of them, and when.
    pub plan: Plan,
}

/// What a kind wants of its pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Deployment, ReplicaSet, ReplicationController and DaemonSet.
    Replicas(Replicas),
    /// StatefulSet.
    Stateful(Box<Stateful>),
    /// Job.
    Job(JobPlan),
    /// CronJob.
    Cron(Box<CronPlan>),
}

/// So many pods that are all alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// How many.
    pub count: u32,
    /// How long a pod has to be ready to count.
    pub min_ready: SignedDuration,
    /// What becomes of pods of a former template.
    pub rollout: Rollout,
}

/// What becomes of pods of a former template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// They stay; new ones have the new template (ReplicaSet, OnDelete, a Deployment that is paused).
    Never,
    /// All of them end before the first new one begins.
    Recreate,
    /// A few at a time.
    Rolling {
        /// So many more than wanted may be there.
        surge: u32,
        /// So many of the wanted may be missing.
        unavailable: u32,
    },
}

/// Pods with ordinals.
#[derive(Clone, Debug, PartialEq)]
pub struct Stateful {
    /// How many.
    pub count: u32,
    /// The first ordinal.
    pub first: u32,
    /// How long a pod has to be ready to count.
    pub min_ready: SignedDuration,
    /// One after the other, the next only when the former is available (`OrderedReady`).
    pub ordered: bool,
    /// Ordinals below keep their former template; `None` replaces nothing by itself (`OnDelete`).
    pub partition: Option<u32>,
    /// The headless Service that names the pods.
    pub service: String,
    /// A claim of each for every pod.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Labels that every claim gets.
    pub claim_labels: std::collections::BTreeMap<String, String>,
    /// Claims of ordinals that are wanted no more go (`whenScaled: Delete`).
    pub drop_claims: bool,
}

/// Pods that end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// At the same time.
    pub parallelism: u32,
    /// How many have to succeed; `None`: one that succeeds is enough, and nobody is replaced from then on.
    pub completions: Option<u32>,
    /// Each completion has an index of its own.
    pub indexed: bool,
    /// More failures than that end the Job.
    pub backoff_limit: u32,
    /// Seconds from the start to the end, at most.
    pub deadline: Option<i64>,
    /// Seconds that a finished Job is kept.
    pub ttl: Option<i64>,
    /// Nothing runs.
    pub suspend: bool,
}

/// Jobs by the clock.
#[derive(Clone, Debug, PartialEq)]
pub struct CronPlan {
    /// When, and in which time zone.
    pub schedule: Schedule,
    /// What happens while a former Job runs.
    pub concurrency: Concurrency,
    /// Seconds that a start may be late.
    pub starting_deadline: Option<i64>,
    /// No new Jobs.
    pub suspend: bool,
    /// Complete Jobs that are kept.
    pub keep_complete: u32,
    /// Failed Jobs that are kept.
    pub keep_failed: u32,
    /// The Jobs.
    pub job: JobPlan,
}

/// What a CronJob does while a former Job of it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// Both run.
    Allow,
    /// The new one waits.
    Forbid,
    /// The former one ends.
    Replace,
}

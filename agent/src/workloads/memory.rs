//! What is remembered of workloads: their pods by name, the templates these were made of, and how far Jobs and CronJobs
//! are. It is on disk before anyone acts on it: the next agent wants the same pods.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::{Deserialize, Serialize};

use super::naming;
use super::seen::{AllSeen, End, Seen};
use super::{JobPlan, WorkloadKind};
use crate::names::{ObjectName, PodUid};

/// How many templates are kept that no pod is made of any more: `revisionHistoryLimit`'s default is 10, and here nobody
/// can roll back to them.
const OLD_REVISIONS: usize = 1;

/// Everything, by the uid of the workload.
pub type Memory = BTreeMap<String, Remembered>;

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: ObjectName,
    /// When it was first wanted.
    pub created: Timestamp,
    /// Templates that pods are made of; the last one is what is wanted now.
    pub revisions: Vec<Revision>,
    /// Its pods, until nothing is left of them.
    pub members: BTreeMap<PodUid, Member>,
    /// How many pods were ever made: the next one's number.
    pub made: u64,
    /// Pods that failed since one was ready, and when the last one did.
    #[serde(default)]
    pub failures: Failures,
    /// Of a StatefulSet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ordinals: Ordinals,
    /// Of a Job.
    #[serde(default, skip_serializing_if = "is_default")]
    pub job: Progress,
    /// Of a CronJob.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_schedule: Option<Timestamp>,
    /// Of a Job that a CronJob made.
    #[serde(default, skip_serializing_if = "is_default")]
    pub child: Option<Child>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A template that pods were made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Its hash.
    pub hash: String,
    /// As the manifest had it.
    pub template: PodTemplateSpec,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The pod's name.
    pub name: String,
    /// The hash of its template.
    pub revision: String,
    /// Ordinal or completion index.
    #[serde(default, skip_serializing_if = "is_default")]
    pub index: Option<u32>,
    /// When it was made.
    pub created: Timestamp,
    /// How it ended; what it means for its workload has been counted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub end: Option<End>,
    /// No longer wanted; remembered until nothing is left of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub leaving: bool,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// The last one.
    pub last: Option<Timestamp>,
}

/// What a StatefulSet remembers beside its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordinals {
    /// The hash of the template that every pod had when the last rollout was over.
    pub stable: String,
    /// Ordinals that ever had a pod: they have claims.
    pub claimed: BTreeSet<u32>,
}

/// How far a Job is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// When it began, or went on after it was suspended.
    pub started: Option<Timestamp>,
    /// Pods that succeeded.
    pub succeeded: u32,
    /// Pods that failed.
    pub failed: u32,
    /// Indexes that succeeded.
    pub indexes: BTreeSet<u32>,
    /// How it ended.
    pub finished: Option<Finished>,
    /// `ttlSecondsAfterFinished` has passed: nothing of it is shown, and it does not run again.
    pub collected: bool,
}

/// The end of a Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Complete, or failed.
    pub complete: bool,
    /// `BackoffLimitExceeded` and the like; empty where it is complete.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// A Job that a CronJob made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// The CronJob's uid.
    pub owner: String,
    /// The CronJob's name.
    pub owner_name: String,
    /// What the CronJob said then.
    pub plan: JobPlan,
    /// For which time it was made.
    pub scheduled: Timestamp,
}

impl Remembered {
    /// A workload that is new at `now`.
    pub fn new(kind: WorkloadKind, name: ObjectName, now: Timestamp) -> Self {
        Self {
            kind,
            name,
            created: now,
            revisions: Vec::new(),
            members: BTreeMap::new(),
            made: 0,
            failures: Failures::default(),
            ordinals: Ordinals::default(),
            job: Progress::default(),
            last_schedule: None,
            child: None,
        }
    }

    /// Makes `template` the wanted one; its hash.
    pub(super) fn wants(&mut self, template: &PodTemplateSpec) -> String {
        if let Some(current) = self.revisions.last().filter(|current| current.template == *template) {
            return current.hash.clone();
        }
        let hash = naming::template_hash(template);
        // Going back to a former template is no new one.
        self.revisions.retain(|revision| revision.hash != hash);
        self.revisions.push(Revision { hash: hash.clone(), template: template.clone() });
        hash
    }

    /// The template with this hash.
    pub(super) fn template(&self, hash: &str) -> Option<&PodTemplateSpec> {
        self.revisions.iter().find(|revision| revision.hash == hash).map(|revision| &revision.template)
    }

    /// Pods that are wanted and have not ended.
    pub(super) fn active(&self) -> impl Iterator<Item = (&PodUid, &Member)> {
        self.members.iter().filter(|(_, member)| !member.leaving && member.end.is_none())
    }

    /// Active pods with what is known of them. `None` where one has not been heard of yet: an agent that has just
    /// started must not take its pods for unready ones.
    pub(super) fn known(&self, seen: &AllSeen) -> Option<Vec<Known>> {
        self.active()
            .map(|(uid, member)| {
                let seen = *seen.get(uid)?;
                Some(Known { uid: uid.clone(), member: member.clone(), seen })
            })
            .collect()
    }

    /// Makes a pod. `name` is asked with the number of the pod until one is free.
    pub(super) fn make(
        &mut self,
        uid: &str,
        revision: &str,
        index: Option<u32>,
        now: Timestamp,
        name: impl Fn(u64) -> String,
    ) -> String {
        // A name that its ordinal decides is free once its former bearer leaves; others are once in millions taken.
        let taken = |name: &str| self.members.values().any(|member| member.name == name && !member.leaving);
        let number = (self.made..=self.made.saturating_add(100)).find(|number| !taken(&name(*number)));
        let number = number.unwrap_or(self.made);
        let name = name(number);
        self.made = number.saturating_add(1);
        let member = Member {
            name: name.clone(),
            revision: revision.to_owned(),
            index,
            created: now,
            end: None,
            leaving: false,
        };
        self.members.insert(naming::pod_uid(uid, revision, &name, number), member);
        name
    }

    /// This pod is wanted no more. Its name, where it was.
    pub(super) fn dismiss(&mut self, uid: &PodUid) -> Option<String> {
        let member = self.members.get_mut(uid).filter(|member| !member.leaving)?;
        member.leaving = true;
        Some(member.name.clone())
    }

    /// Forgets pods of which nothing is left, and templates that nobody needs.
    pub(super) fn forget_gone(&mut self, seen: &AllSeen) {
        self.members.retain(|uid, member| !member.leaving || seen.contains_key(uid));
        let (members, stable) = (&self.members, &self.ordinals.stable);
        let needed = |hash: &str| members.values().any(|member| member.revision == hash) || stable == hash;
        let mut idle = self.revisions.iter().rev().skip(1).filter(|revision| !needed(&revision.hash));
        let dropped: Vec<String> = idle.by_ref().skip(OLD_REVISIONS).map(|revision| revision.hash.clone()).collect();
        self.revisions.retain(|revision| !dropped.contains(&revision.hash));
    }

    /// Pods that are not wanted any more, and still there.
    pub(super) fn leaving(&self) -> usize {
        self.members.values().filter(|member| member.leaving).count()
    }
}

/// An active pod and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub uid: PodUid,
    pub member: Member,
    pub seen: Seen,
}

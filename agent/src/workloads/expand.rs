//! All workloads at one moment: which pods are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::memory::{Known, Memory, Remembered};
use super::seen::{AllSeen, End};
use super::{Plan, Workload, WorkloadKind, cron, job, naming, pod, replicas, rows, stateful};
use crate::names::{ObjectName, PodUid};
use crate::sources::Desired;

/// What [`expand()`] looks at.
pub struct Look<'a> {
    /// What manifests want.
    pub desired: &'a Desired,
    /// What was wanted before: pods that have not changed are the same values.
    pub former: &'a Desired,
    /// What is known of pods.
    pub seen: &'a AllSeen,
    /// Workloads that are remembered although no manifest has them: manifests cannot all be read yet.
    pub keep: &'a BTreeSet<String>,
    /// The node's name.
    pub node: &'a str,
    /// The time.
    pub now: Timestamp,
}

/// What [`expand()`] found.
#[derive(Debug)]
pub struct Expanded {
    /// The same with the workloads' pods and claims.
    pub desired: Desired,
    /// What is to be on disk before anyone hears of the pods.
    pub memory: Memory,
    /// When to look again, even if nothing is heard of until then.
    pub wake: Option<Timestamp>,
    /// What is to be told.
    pub news: Vec<News>,
    /// The workloads as people see them.
    pub rows: Vec<rows::Row>,
}

/// Something to be told about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The workload's kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: ObjectName,
    /// Its manifest.
    pub file: PathBuf,
    /// Somebody may want to look.
    pub warning: bool,
    /// The controller's reason.
    pub reason: &'static str,
    /// The controller's message.
    pub message: String,
}

/// One workload's turn.
pub(super) struct Turn<'a> {
    pub kind: WorkloadKind,
    pub name: &'a ObjectName,
    pub uid: String,
    /// The hash of the wanted template.
    pub revision: String,
    pub memory: &'a mut Remembered,
    pub seen: &'a AllSeen,
    pub now: Timestamp,
    file: &'a PathBuf,
    wake: Option<Timestamp>,
    news: Vec<News>,
}

impl Turn<'_> {
    /// Active pods, when each of them has been heard of.
    pub(super) fn known(&self) -> Option<Vec<Known>> {
        self.memory.known(self.seen)
    }

    /// Active pods that have ended since the last turn.
    pub(super) fn newly_ended(&self) -> Vec<(PodUid, End)> {
        let ended = self.memory.active().filter_map(|(uid, _)| Some((uid.clone(), self.seen.get(uid)?.end?)));
        ended.collect()
    }

    /// This pod is wanted no more.
    pub(super) fn dismiss(&mut self, uid: &PodUid) {
        if let Some(name) = self.memory.dismiss(uid) {
            self.say(false, "SuccessfulDelete", format!("Deleted pod: {name}"));
        }
    }

    /// One more pod.
    pub(super) fn make(&mut self, index: Option<u32>, name: impl Fn(u64) -> String) {
        let revision = self.revision.clone();
        self.make_of(&revision, index, name);
    }

    /// One more pod of a certain template.
    pub(super) fn make_of(&mut self, revision: &str, index: Option<u32>, name: impl Fn(u64) -> String) {
        let name = self.memory.make(&self.uid, revision, index, self.now, name);
        self.say(false, "SuccessfulCreate", format!("Created pod: {name}"));
    }

    /// Looks again at `at`, or earlier.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    pub(super) fn say(&mut self, warning: bool, reason: &'static str, message: String) {
        let (name, file) = (self.name.clone(), self.file.clone());
        self.news.push(News { kind: self.kind, name, file, warning, reason, message });
    }
}

/// The pods that the workloads want at `look.now`.
pub fn expand(look: &Look<'_>, memory: Memory) -> Expanded {
    let mut all = All { look, memory, wake: None, news: Vec::new() };
    let workloads: BTreeMap<String, &Workload> =
        look.desired.workloads.values().map(|workload| (uid(workload, look.node), &**workload)).collect();
    all.forget_unwanted(&workloads);
    for (uid, workload) in &workloads {
        all.turn(uid, workload);
    }
    // Jobs of CronJobs come after them: what one has just made begins at once.
    let mut children = Vec::new();
    for (uid, remembered) in &all.memory {
        let Some(child) = &remembered.child else { continue };
        let Some(owner) = workloads.get(&child.owner) else { continue };
        children.push((uid.clone(), cron::child(remembered, child, owner)));
    }
    for (uid, workload) in &children {
        all.turn(uid, workload);
    }
    let desired = all.desired(workloads.iter().map(|(uid, w)| (uid, *w)).chain(children.iter().map(|(u, w)| (u, w))));
    let rows = workloads.iter().map(|(uid, workload)| (uid, *workload)).chain(children.iter().map(|(u, w)| (u, w)));
    let rows = rows::rows(rows, &all.memory, look.seen, look.now);
    Expanded { desired, memory: all.memory, wake: all.wake, news: all.news, rows }
}

/// The uid of a manifest's workload. Of a Job, what may not change is part of it: another one under its name begins anew.
fn uid(workload: &Workload, node: &str) -> String {
    let content = match &workload.plan {
        Plan::Job(plan) => {
            let fixed = (&workload.template, plan.completions, plan.indexed);
            serde_json::to_vec(&fixed).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    naming::workload_uid(workload.kind, &workload.name, node, &content)
}

struct All<'a> {
    look: &'a Look<'a>,
    memory: Memory,
    wake: Option<Timestamp>,
    news: Vec<News>,
}

impl All<'_> {
    fn forget_unwanted(&mut self, workloads: &BTreeMap<String, &Workload>) {
        let keep = self.look.keep;
        self.memory.retain(|uid, remembered| {
            let owner = remembered.child.as_ref().map_or(uid, |child| &child.owner);
            workloads.contains_key(owner) || keep.contains(owner)
        });
    }

    fn turn(&mut self, uid: &str, workload: &Workload) {
        let Look { seen, now, .. } = *self.look;
        let fresh = || Remembered::new(workload.kind, workload.name.clone(), now);
        let mut memory = self.memory.remove(uid).unwrap_or_else(fresh);
        memory.forget_gone(seen);
        // A Deployment that is paused stays with what it has.
        let paused = workload.kind == WorkloadKind::Deployment && replicas_never(&workload.plan);
        let revision = match memory.revisions.last().filter(|_| paused) {
            Some(last) => last.hash.clone(),
            None => memory.wants(&workload.template),
        };
        let mut turn = Turn {
            kind: workload.kind,
            name: &workload.name,
            uid: uid.to_owned(),
            revision,
            memory: &mut memory,
            seen,
            now,
            file: &workload.file,
            wake: None,
            news: Vec::new(),
        };
        match &workload.plan {
            Plan::Replicas(plan) => replicas::step(plan, &mut turn),
            Plan::Stateful(plan) => stateful::step(plan, &mut turn),
            Plan::Job(plan) => job::step(plan, &mut turn),
            Plan::Cron(plan) => {
                let children = cron::step(plan, &workload.template, &mut turn, &mut self.memory);
                self.memory.extend(children);
            }
        }
        let Turn { wake, news, .. } = turn;
        self.wake = self.wake.into_iter().chain(wake).min();
        self.news.extend(news);
        self.memory.insert(uid.to_owned(), memory);
    }

    fn desired<'w>(&self, workloads: impl Iterator<Item = (&'w String, &'w Workload)>) -> Desired {
        let mut desired = self.look.desired.clone();
        for (uid, workload) in workloads {
            let Some(memory) = self.memory.get(uid) else { continue };
            let owner = pod::Owner { uid, workload, memory, node: self.look.node };
            for (pod_uid, member) in memory.members.iter().filter(|(_, member)| !member.leaving) {
                let former = self.look.former.pods.get(pod_uid).cloned();
                let made = former.or_else(|| owner.pod(pod_uid, member).map(Arc::new));
                desired.pods.extend(made.map(|pod| (pod_uid.clone(), pod)));
            }
            let claims = owner.claims().into_iter().map(|(name, claim)| {
                let former = self.look.former.objects.persistent_volume_claims.get(&name);
                let claim = former.filter(|former| ***former == claim).cloned().unwrap_or_else(|| Arc::new(claim));
                (name, claim)
            });
            for (name, claim) in claims {
                // A claim of that name in a manifest is its owner's own.
                desired.objects.persistent_volume_claims.entry(name).or_insert(claim);
            }
        }
        desired
    }
}

fn replicas_never(plan: &Plan) -> bool {
    matches!(plan, Plan::Replicas(plan) if plan.rollout == super::Rollout::Never)
}

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::names::PodUid;
use crate::sources::Desired;

mod jobs;
mod properties;
mod replicas;
mod stateful;

/// A node with workloads, whose pods do what the test says.
pub(super) struct World {
    pub desired: Desired,
    pub memory: Memory,
    pub seen: AllSeen,
    pub now: Timestamp,
    pub wake: Option<Timestamp>,
    pub rows: Vec<Row>,
    pub pods: Desired,
    /// Every uid that was ever wanted.
    pub ever: BTreeSet<PodUid>,
}

impl World {
    pub(super) fn new(manifest: &str) -> Self {
        let mut world = Self {
            desired: Desired::default(),
            memory: Memory::new(),
            seen: AllSeen::new(),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            wake: None,
            rows: Vec::new(),
            pods: Desired::default(),
            ever: BTreeSet::new(),
        };
        world.edit(manifest);
        world
    }

    /// Another text in the same file.
    pub(super) fn edit(&mut self, manifest: &str) {
        self.desired = crate::sources::read_text(Path::new("/m/a.yaml"), manifest, "n1");
        assert_eq!(self.desired.problems, []);
        self.turn();
    }

    /// One look after the other until nothing more follows.
    pub(super) fn turn(&mut self) {
        for _ in 0..20 {
            // As on a real node, memory goes through the disk.
            let memory: Memory = serde_json::from_slice(&serde_json::to_vec(&self.memory).unwrap()).unwrap();
            let keep = BTreeSet::new();
            let look = expand::Look {
                desired: &self.desired,
                former: &self.pods,
                seen: &self.seen,
                keep: &keep,
                node: "n1",
                now: self.now,
            };
            let found = expand(&look, memory.clone());
            self.pods = found.desired;
            self.wake = found.wake;
            self.rows = found.rows;
            self.ever.extend(self.pods.pods.keys().cloned());
            let settled = found.memory == memory;
            self.memory = found.memory;
            if settled {
                return;
            }
        }
        panic!("the workloads do not settle");
    }

    /// Every wanted pod that has not been heard of is heard of; what is not wanted and was is gone.
    pub(super) fn hear(&mut self) {
        self.gone();
        for uid in self.pods.pods.keys() {
            self.seen.entry(uid.clone()).or_default();
        }
        self.turn();
    }

    /// What is not wanted any more has gone.
    pub(super) fn gone(&mut self) {
        let wanted = &self.pods.pods;
        self.seen.retain(|uid, _| wanted.contains_key(uid));
        self.turn();
    }

    pub(super) fn pass(&mut self, length: SignedDuration) {
        self.now = self.now.checked_add(length).unwrap();
        self.turn();
    }

    pub(super) fn uid(&self, name: &str) -> PodUid {
        let found = self.pods.pods.iter().find(|(_, pod)| pod.metadata.name.as_deref() == Some(name));
        found.map(|(uid, _)| uid.clone()).unwrap_or_else(|| panic!("no pod {name} among {:?}", self.names()))
    }

    pub(super) fn set(&mut self, uid: &PodUid, change: impl FnOnce(&mut Seen)) {
        change(self.seen.entry(uid.clone()).or_default());
        self.turn();
    }

    pub(super) fn ready(&mut self, name: &str) {
        let (uid, now) = (self.uid(name), self.now);
        self.set(&uid, |seen| seen.ready_since = Some(now));
    }

    pub(super) fn end(&mut self, name: &str, end: End) {
        let uid = self.uid(name);
        self.set(&uid, |seen| *seen = Seen { end: Some(end), ..Seen::default() });
    }

    /// All pods are heard of and ready, again and again, as long as that changes anything.
    pub(super) fn all_ready(&mut self) {
        for _ in 0..100 {
            let before = self.pods.clone();
            self.hear();
            let now = self.now;
            for uid in self.pods.pods.keys().cloned().collect::<Vec<_>>() {
                let seen = self.seen.entry(uid).or_default();
                if seen.end.is_none() {
                    seen.ready_since.get_or_insert(now);
                }
            }
            self.turn();
            if self.pods == before {
                return;
            }
        }
        panic!("the pods never rest");
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.pods.pods.values().filter_map(|pod| pod.metadata.name.clone()).collect();
        names.sort();
        names
    }

    /// How many pods have which image.
    pub(super) fn images(&self) -> BTreeMap<String, usize> {
        let mut images = BTreeMap::new();
        for pod in self.pods.pods.values() {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            *images.entry(image).or_default() += 1;
        }
        images
    }

    pub(super) fn row(&self, kind: WorkloadKind) -> &Row {
        self.rows.iter().find(|row| row.kind == kind).unwrap()
    }

    pub(super) fn pod(&self, name: &str) -> Arc<k8s_openapi::api::core::v1::Pod> {
        Arc::clone(&self.pods.pods[&self.uid(name)])
    }
}

pub(super) fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub(super) fn deployment(replicas: u32, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: shop}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: web}}}}\n  {more}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    \
         spec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    )
}

pub(super) fn job(more: &str) -> String {
    format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: work}}\nspec:\n  {more}\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers: [{{name: c, image: 'i:1'}}]\n"
    )
}

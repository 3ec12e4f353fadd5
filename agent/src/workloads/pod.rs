//! A pod, and a claim, out of a workload's template.

use k8s_openapi::api::core::v1::{
    EnvVar, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::memory::{Member, Remembered};
use super::{Plan, Stateful, Workload, WorkloadKind, naming};
use crate::names::{ObjectName, PodUid};
use crate::sources;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Who a pod belongs to.
pub(super) struct Owner<'a> {
    pub uid: &'a str,
    pub workload: &'a Workload,
    pub memory: &'a Remembered,
    pub node: &'a str,
}

impl Owner<'_> {
    /// The pod that this member is. `None` only where its template has been lost from disk.
    pub(super) fn pod(&self, uid: &PodUid, member: &Member) -> Option<Pod> {
        let template = self.memory.template(&member.revision)?;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut pod = Pod {
            metadata: ObjectMeta {
                name: Some(member.name.clone()),
                namespace: Some(self.workload.name.namespace.clone()),
                uid: Some(uid.to_string()),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![self.reference(member)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone().unwrap_or_default()),
            status: None,
        };
        self.mark(&mut pod, member);
        sources::complete(&mut pod, self.node);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/config.seen".to_owned(), format!("{:.9}", member.created));
        annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
        Some(pod)
    }

    /// Pods of a Deployment belong to the ReplicaSet that upstream would have put in between.
    fn reference(&self, member: &Member) -> OwnerReference {
        let Workload { kind, name, .. } = self.workload;
        let (kind, name, uid) = match kind {
            WorkloadKind::Deployment => {
                let set = ObjectName::new(name.namespace.clone(), format!("{}-{}", name.name, member.revision));
                let uid = naming::workload_uid(WorkloadKind::ReplicaSet, &set, self.node, self.uid.as_bytes());
                (WorkloadKind::ReplicaSet, set.name, uid)
            }
            kind => (*kind, name.name.clone(), self.uid.to_owned()),
        };
        OwnerReference {
            api_version: kind.version().to_owned(),
            kind: kind.word().to_owned(),
            name,
            uid,
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Labels, annotations and fields that tell the pods of a workload apart.
    fn mark(&self, pod: &mut Pod, member: &Member) {
        let name = &self.workload.name.name;
        match self.workload.kind {
            WorkloadKind::Deployment => label(pod, "pod-template-hash", &member.revision),
            WorkloadKind::DaemonSet => label(pod, "controller-revision-hash", &member.revision),
            WorkloadKind::StatefulSet => {
                label(pod, "controller-revision-hash", &naming::generated(name, &member.revision));
                label(pod, "statefulset.kubernetes.io/pod-name", &member.name);
                label(pod, "apps.kubernetes.io/pod-index", &member.index.unwrap_or_default().to_string());
            }
            WorkloadKind::Job => {
                for key in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
                    label(pod, key, self.uid);
                }
                for key in ["batch.kubernetes.io/job-name", "job-name"] {
                    label(pod, key, name);
                }
            }
            WorkloadKind::ReplicaSet | WorkloadKind::ReplicationController | WorkloadKind::CronJob => {}
        }
        let spec = pod.spec.get_or_insert_default();
        match (&self.workload.plan, member.index) {
            (Plan::Stateful(plan), _) => name_and_claims(plan, member, spec),
            (Plan::Job(_), Some(index)) => {
                spec.hostname.get_or_insert_with(|| format!("{name}-{index}"));
                tell_index(spec, index);
                label(pod, INDEX, &index.to_string());
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert(INDEX.to_owned(), index.to_string());
            }
            _ => {}
        }
    }

    /// The claims of a StatefulSet's pods: of all that ever were, unless they are to go with their pods.
    pub(super) fn claims(&self) -> Vec<(ObjectName, PersistentVolumeClaim)> {
        let Plan::Stateful(plan) = &self.workload.plan else { return Vec::new() };
        let wanted =
            |ordinal: &u32| !plan.drop_claims || self.memory.members.values().any(|m| m.index == Some(*ordinal));
        let ordinals: Vec<u32> = self.memory.ordinals.claimed.iter().copied().filter(wanted).collect();
        let namespace = &self.workload.name.namespace;
        let mut claims = Vec::new();
        for template in &plan.claims {
            for ordinal in &ordinals {
                let member = format!("{}-{ordinal}", self.workload.name.name);
                let name = ObjectName::new(namespace.clone(), claim_name(template, &member));
                claims.push((name.clone(), claim(plan, template, name)));
            }
        }
        claims
    }
}

fn label(pod: &mut Pod, key: &str, value: &str) {
    pod.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn name_and_claims(plan: &Stateful, member: &Member, spec: &mut PodSpec) {
    spec.hostname = Some(member.name.clone());
    spec.subdomain = Some(plan.service.clone()).filter(|service| !service.is_empty());
    for template in &plan.claims {
        let name = template.metadata.name.clone().unwrap_or_default();
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| volume.name != name);
        let source =
            PersistentVolumeClaimVolumeSource { claim_name: claim_name(template, &member.name), read_only: None };
        volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Volume::default() });
    }
}

fn claim_name(template: &PersistentVolumeClaim, member: &str) -> String {
    format!("{}-{member}", template.metadata.name.as_deref().unwrap_or_default())
}

fn claim(plan: &Stateful, template: &PersistentVolumeClaim, name: ObjectName) -> PersistentVolumeClaim {
    let mut claim = template.clone();
    claim.metadata.uid = Some(naming::object_uid("PersistentVolumeClaim", &name));
    claim.metadata.name = Some(name.name);
    claim.metadata.namespace = Some(name.namespace);
    claim.metadata.labels.get_or_insert_default().extend(plan.claim_labels.clone());
    claim
}

fn tell_index(spec: &mut PodSpec, index: u32) {
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    for container in containers {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
            let value = Some(index.to_string());
            env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value, value_from: None });
        }
    }
}

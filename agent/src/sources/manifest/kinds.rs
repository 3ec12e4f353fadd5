//! Which kinds mean what on a node of its own.

use std::collections::BTreeSet;
use std::path::Path;

use crate::sources::{ManifestNote, validate};

/// What is run here, with the version it is written in.
const SUPPORTED: &[(&str, &str)] = &[
    ("Pod", "v1"),
    ("ConfigMap", "v1"),
    ("Secret", "v1"),
    ("Service", "v1"),
    ("PersistentVolume", "v1"),
    ("PersistentVolumeClaim", "v1"),
    ("RuntimeClass", "node.k8s.io/v1"),
    ("ClusterTrustBundle", "certificates.k8s.io/v1beta1"),
    ("EndpointSlice", "discovery.k8s.io/v1"),
    ("Deployment", "apps/v1"),
    ("ReplicaSet", "apps/v1"),
    ("StatefulSet", "apps/v1"),
    ("DaemonSet", "apps/v1"),
    ("Job", "batch/v1"),
    ("CronJob", "batch/v1"),
    ("ReplicationController", "v1"),
    ("List", "v1"),
    ("PodList", "v1"),
];

/// What people's manifests hold and only a control plane acts on.
const IDLE: &[&str] = &[
    "ClusterRole",
    "ClusterRoleBinding",
    "CSIDriver",
    "CustomResourceDefinition",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IngressClass",
    "LimitRange",
    "MutatingWebhookConfiguration",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodTemplate",
    "PriorityClass",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "ServiceAccount",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeSnapshotClass",
];

/// Who writes one of these may rely on it.
const PROTECTIVE: &[&str] = &["NetworkPolicy"];

/// What to do with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Its items count.
    List,
    /// Its items are Pods, whether they say so or not.
    PodList,
    /// One of the kinds that are run here.
    Object(&'static str),
    /// Known, and without effect here.
    Idle(&'static str),
}

/// Why a document cannot be used.
pub(super) enum Unknown {
    Kind(String),
    Version(String),
}

pub(super) fn meaning(kind: &str, version: &str) -> Result<Meaning, Unknown> {
    if let Some(idle) = IDLE.iter().find(|idle| **idle == kind) {
        return Ok(Meaning::Idle(idle));
    }
    match SUPPORTED.iter().find(|(known, _)| *known == kind) {
        None => Err(Unknown::Kind(unknown(kind))),
        Some((known, right)) if *right != version => Err(Unknown::Version(format!("must be {right} for kind {known}"))),
        Some(("List", _)) => Ok(Meaning::List),
        Some(("PodList", _)) => Ok(Meaning::PodList),
        Some((known, _)) => Ok(Meaning::Object(known)),
    }
}

fn unknown(kind: &str) -> String {
    let kinds: Vec<_> = SUPPORTED.iter().map(|(kind, _)| *kind).collect();
    let known = validate::and(&kinds);
    if kind.is_empty() {
        return format!("is missing; supported are {known}");
    }
    match kinds.iter().find(|known| known.eq_ignore_ascii_case(kind)) {
        Some(meant) => format!("{kind:?} is not known; did you mean {meant}?"),
        None => format!("{kind:?} is not supported on its own yet; supported are {known}"),
    }
}

/// What is said of a file that holds these idle kinds: once, not once for each object.
pub(super) fn notes(file: &Path, idle: &BTreeSet<&'static str>) -> Vec<ManifestNote> {
    let (protective, others): (Vec<&str>, Vec<&str>) = idle.iter().partition(|kind| PROTECTIVE.contains(*kind));
    let note = |message: String, warning| ManifestNote { file: file.to_owned(), message, warning };
    let loud =
        |kind: &&str| note(format!("{}: {kind} is NOT ENFORCED: pods reach each other freely", file.display()), true);
    let mut notes: Vec<_> = protective.iter().map(loud).collect();
    if !others.is_empty() {
        let has = if others.len() == 1 { "has" } else { "have" };
        let kinds = validate::and(&others);
        notes.push(note(format!("{}: {kinds} {has} no effect on a node of its own", file.display()), false));
    }
    notes
}

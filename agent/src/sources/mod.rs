//! Where pods come from: each source publishes the whole set of what it wants, never an event.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};

use crate::names::{ObjectName, PodUid};

/// Everything this node should be running, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Pods by uid, with the API's defaults applied and validated.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// What pods refer to.
    pub objects: Objects,
    /// What is wrong with manifests; the others run on.
    pub problems: Vec<ManifestProblem>,
}

/// Objects that pods refer to by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectName, Arc<ConfigMap>>,
    /// Secrets. Never printed.
    pub secrets: BTreeMap<ObjectName, Arc<Secret>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
}

/// A manifest that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: document {document}: {}{message}", file.display(), field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
pub struct ManifestProblem {
    /// The file as given.
    pub file: PathBuf,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The field, such as `spec.containers[0].image`, where one is to blame.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

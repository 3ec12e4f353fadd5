//! Where pods come from: each source publishes the whole set of what it wants, never an event.
//!
//! [`Manifests`] is the source of `longshore run FILE|DIR…`: `files` finds and watches them, `manifest` reads one,
//! `validate` and `defaults` do what the API server would do, `set` joins all files into one [`Desired`]. Static pods
//! are one more folder, and what [`ManifestUrl`] is answered is one more file, read by the kubelet's rules.

mod defaults;
mod files;
mod identity;
mod manifest;
mod manifests;
mod set;
mod url;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, Taint};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::names::{ObjectName, PodUid};
use crate::workloads::{Workload, WorkloadKey};

pub(crate) use files::{Held, Root, read as read_file};
pub(crate) use manifest::LARGEST_FILE;
pub use manifests::{Manifests, ManifestsError, Places};
pub use url::{BadUrl, ManifestUrl};

/// Everything this node should be running, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Pods by uid, with the API's defaults applied and validated.
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// What pods refer to.
    pub objects: Objects,
    /// Deployments and the like; their pods are not among `pods` until `workloads::expand` has put them there.
    pub workloads: BTreeMap<WorkloadKey, Arc<Workload>>,
    /// What is wrong with manifests; the others run on.
    pub problems: Vec<ManifestProblem>,
    /// What is right but does nothing here.
    pub notes: Vec<ManifestNote>,
    /// Labels of this node as the cluster has them; `None` on its own, where it has those of every node.
    pub node_labels: Option<BTreeMap<String, String>>,
    /// Taints of this node.
    pub node_taints: Vec<Taint>,
}

/// Fills in a pod that this node makes itself, as if it came from a manifest.
pub(crate) fn complete(pod: &mut Pod, node: &str) {
    defaults::pod(pod, node);
    pod.metadata.generation = Some(1);
}

/// What one file's text wants.
#[cfg(test)]
pub(crate) fn read_text(file: &Path, text: &str, node: &str) -> Desired {
    let mut set = set::Set::default();
    set.put(file, manifest::read(file, text.as_bytes(), node));
    set.desired(jiff::Timestamp::UNIX_EPOCH)
}

/// Objects that pods refer to by name.
#[derive(Clone, Default, PartialEq)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<ObjectName, Arc<ConfigMap>>,
    /// Secrets. Never printed.
    pub secrets: BTreeMap<ObjectName, Arc<Secret>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// PersistentVolumes, by name: they have no namespace.
    pub persistent_volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// PersistentVolumeClaims.
    pub persistent_volume_claims: BTreeMap<ObjectName, Arc<PersistentVolumeClaim>>,
    /// RuntimeClasses, by name: they have no namespace.
    pub runtime_classes: BTreeMap<String, Arc<RuntimeClass>>,
    /// ClusterTrustBundles, by name: they have no namespace.
    pub cluster_trust_bundles: BTreeMap<String, Arc<ClusterTrustBundle>>,
    /// EndpointSlices as manifests give them: for Services without a selector.
    pub endpoint_slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// Grows when tokens of service accounts are due: volumes that hold them are brought up to date.
    pub renewals: u64,
    /// Nobody has told yet what there is: volumes that a former run filled are used as they are.
    pub as_left: bool,
}

/// What of a pod this node cannot do, or cannot make sense of: each field with what is wrong with it.
pub fn unsupported(pod: &Pod) -> Vec<String> {
    validate::pod_of_cluster(pod).into_iter().map(|(field, problem)| format!("{field}: {problem}")).collect()
}

impl fmt::Debug for Objects {
    /// Names only: Secrets must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .field("services", &self.services.keys())
            .field("persistent_volumes", &self.persistent_volumes.keys())
            .field("persistent_volume_claims", &self.persistent_volume_claims.keys())
            .field("runtime_classes", &self.runtime_classes.keys())
            .field("cluster_trust_bundles", &self.cluster_trust_bundles.keys())
            .field("endpoint_slices", &self.endpoint_slices.keys())
            .finish()
    }
}

/// A manifest that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestProblem {
    /// The file.
    pub file: PathBuf,
    /// Which document of the file, from 1; 0 for the file itself.
    pub document: usize,
    /// Line of the file, from 1, where it is known.
    pub line: Option<usize>,
    /// The field, such as `spec.containers[0].image`, where one is to blame.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ManifestProblem {
    /// A problem with a whole file.
    fn whole(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), document: 0, line: None, field: None, message: message.into() }
    }
}

/// Something in a manifest that is right, and does nothing on a node of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestNote {
    /// The file.
    pub file: PathBuf,
    /// What has no effect.
    pub message: String,
    /// Whoever wrote it may believe to be safe, and is not.
    pub warning: bool,
}

impl fmt::Display for ManifestProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        match (self.document, self.line) {
            (0, _) => {}
            (document, Some(line)) => write!(f, ": document {document}, line {line}")?,
            (document, None) => write!(f, ": document {document}")?,
        }
        match &self.field {
            Some(field) => write!(f, ": {field}: {}", self.message),
            None => write!(f, ": {}", self.message),
        }
    }
}

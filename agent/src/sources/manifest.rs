//! One file's bytes become objects and problems. Pure: what the file was called and what it held is all there is.

mod kinds;
mod workloads;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSetSpec, DeploymentSpec, ReplicaSetSpec, StatefulSetSpec};
use k8s_openapi::api::batch::v1::{CronJobSpec, JobSpec};
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationControllerSpec, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use serde::de::DeserializeOwned;

use self::kinds::Meaning;
use super::{ManifestNote, ManifestProblem, defaults, identity, validate};
use crate::names::{ObjectName, PodUid};
use crate::workloads::{Workload, WorkloadKind};
use crate::yaml::{self, Kind, Mistake, Node};

/// Larger files are refused: the kubelet's limit.
pub(crate) const LARGEST_FILE: u64 = 10 << 20;

/// One object of a file, checked, with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Manifest {
    /// Which document, from 1.
    pub document: usize,
    /// Line of the file where it begins; 0 where it is not known.
    pub line: usize,
    /// Its name.
    pub name: ObjectName,
    /// The object.
    pub object: Object,
}

/// The kinds this agent runs on its own. Shared with whoever wants them: there may be thousands.
#[derive(Clone, PartialEq)]
pub(super) enum Object {
    Pod(PodUid, Box<Pod>),
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Service(Arc<Service>),
    PersistentVolume(Arc<PersistentVolume>),
    PersistentVolumeClaim(Arc<PersistentVolumeClaim>),
    RuntimeClass(Arc<RuntimeClass>),
    ClusterTrustBundle(Arc<ClusterTrustBundle>),
    EndpointSlice(Arc<EndpointSlice>),
    Workload(Arc<Workload>),
}

impl Object {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Pod(..) => "Pod",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
            Self::Service(_) => "Service",
            Self::PersistentVolume(_) => "PersistentVolume",
            Self::PersistentVolumeClaim(_) => "PersistentVolumeClaim",
            Self::RuntimeClass(_) => "RuntimeClass",
            Self::ClusterTrustBundle(_) => "ClusterTrustBundle",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Workload(workload) => workload.kind.word(),
        }
    }

    fn name(&self) -> ObjectName {
        let meta = match self {
            Self::Pod(_, pod) => &pod.metadata,
            Self::ConfigMap(map) => &map.metadata,
            Self::Secret(secret) => &secret.metadata,
            Self::Service(service) => &service.metadata,
            Self::PersistentVolume(volume) => &volume.metadata,
            Self::PersistentVolumeClaim(claim) => &claim.metadata,
            Self::RuntimeClass(class) => &class.metadata,
            Self::ClusterTrustBundle(bundle) => &bundle.metadata,
            Self::EndpointSlice(slice) => &slice.metadata,
            Self::Workload(workload) => return workload.name.clone(),
        };
        ObjectName::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Debug for Object {
    /// The kind alone: a Secret must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// Which rules a pod is read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `longshore run`'s own manifests: all kinds, names as they are.
    Manifests,
    /// The folder of static pods: pods alone, named after the node.
    StaticFile,
    /// The URL of static pods.
    StaticUrl,
}

impl Origin {
    /// What `kubernetes.io/config.source` says.
    fn word(self) -> &'static str {
        match self {
            // Here they are what the API is in a cluster: a static pod is critical, and not every pod can be.
            Self::Manifests => "api",
            Self::StaticFile => "file",
            Self::StaticUrl => "http",
        }
    }
}

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Content {
    pub manifests: Vec<Manifest>,
    pub problems: Vec<ManifestProblem>,
    pub notes: Vec<ManifestNote>,
}

/// Reads a file's content; `file` is absolute, `node` is this node's name.
pub(super) fn read(file: &Path, bytes: &[u8], node: &str) -> Content {
    read_from(file, bytes, node, Origin::Manifests)
}

/// The same, from wherever.
pub(super) fn read_from(file: &Path, bytes: &[u8], node: &str, origin: Origin) -> Content {
    let mut content = Content::default();
    let Ok(text) = std::str::from_utf8(bytes) else {
        content.problems.push(ManifestProblem::whole(file, "is not text: manifests are YAML or JSON in UTF-8"));
        return content;
    };
    let mut idle = BTreeSet::new();
    for (index, document) in yaml::documents(text).into_iter().enumerate() {
        let place = Place { file, node, origin, document: index + 1, within: String::new() };
        match document {
            Ok(root) => place.document(root, &mut content, &mut idle),
            Err(broken) => content.problems.push(place.problem(broken.line, String::new(), broken.message)),
        }
    }
    content.notes = kinds::notes(file, &idle);
    content
}

/// Where an object stands.
struct Place<'a> {
    file: &'a Path,
    node: &'a str,
    origin: Origin,
    document: usize,
    /// `items[3].` inside a List.
    within: String,
}

impl Place<'_> {
    fn problem(&self, line: usize, field: String, message: String) -> ManifestProblem {
        let field = format!("{}{field}", self.within);
        let field = field.trim_end_matches('.').to_owned();
        ManifestProblem {
            file: self.file.to_owned(),
            document: self.document,
            line: (line != 0).then_some(line),
            field: (!field.is_empty()).then_some(field),
            message,
        }
    }

    fn document(&self, root: Node, content: &mut Content, idle: &mut BTreeSet<&'static str>) {
        match self.kind(&root) {
            Ok(Meaning::List) => self.list(root, content, idle, None),
            Ok(Meaning::PodList) => self.list(root, content, idle, Some("Pod")),
            Ok(Meaning::Object(kind)) if kind != "Pod" && self.origin != Origin::Manifests => {
                let message = format!("{kind} is no static pod; only Pods and a PodList are");
                content.problems.push(self.problem(root.line, "kind".to_owned(), message));
            }
            Ok(Meaning::Idle(kind)) => drop(idle.insert(kind)),
            Ok(Meaning::Object(kind)) => match self.object(kind, root) {
                Ok(manifest) => content.manifests.push(manifest),
                Err(problems) => content.problems.extend(problems),
            },
            Err(problem) => content.problems.push(problem),
        }
    }

    fn kind(&self, root: &Node) -> Result<Meaning, ManifestProblem> {
        let problem = |node: Option<&Node>, field: &str, message: String| {
            Err(self.problem(node.map_or(root.line, |node| node.line), field.to_owned(), message))
        };
        if !matches!(root.kind, Kind::Map(_)) {
            let message = "is no Kubernetes object; one begins with apiVersion: v1 and kind: Pod";
            return problem(None, "", message.to_owned());
        }
        let (kind, version) = (root.get("kind"), root.get("apiVersion"));
        let text = |node: Option<&Node>| node.and_then(Node::as_str).unwrap_or_default().to_owned();
        match kinds::meaning(&text(kind), &text(version)) {
            Ok(meaning) => Ok(meaning),
            Err(kinds::Unknown::Kind(message)) => problem(kind, "kind", message),
            Err(kinds::Unknown::Version(message)) => problem(version, "apiVersion", message),
        }
    }

    fn list(&self, mut root: Node, content: &mut Content, idle: &mut BTreeSet<&'static str>, kind: Option<&str>) {
        let line = root.line;
        let items = root.get_mut("items").map(|items| std::mem::replace(&mut items.kind, Kind::List(Vec::new())));
        let Some(Kind::List(items)) = items else {
            return content.problems.push(self.problem(
                line,
                "items".to_owned(),
                "must be a list of objects".to_owned(),
            ));
        };
        for (index, mut item) in items.into_iter().enumerate() {
            if let (Some(kind), Kind::Map(entries)) = (kind, &mut item.kind) {
                // The API leaves out of a typed list what its kind says already.
                entries.retain(|(name, _)| name != "kind" && name != "apiVersion");
                let said = |name: &str, text: &str| (name.to_owned(), Node { line, kind: Kind::Text(text.to_owned()) });
                entries.extend([said("kind", kind), said("apiVersion", "v1")]);
            }
            let within = format!("{}items[{index}].", self.within);
            // A List in a List is legal; the parser bounds how deep.
            Place { within, ..*self }.document(item, content, idle);
        }
    }

    fn object(&self, kind: &'static str, mut root: Node) -> Result<Manifest, Vec<ManifestProblem>> {
        // What was exported from a cluster brings its former life along.
        drop_field(&mut root, "status");
        let object = match kind {
            "Pod" => self.pod(&mut root)?,
            "ConfigMap" => {
                one_line(root.get_mut("binaryData"));
                let map: ConfigMap = self.decode(&root, false)?;
                self.checked(&root, validate::config_map(&map))?;
                Object::ConfigMap(Arc::new(with_namespace(map)))
            }
            "Secret" => self.secret(&mut root)?,
            "PersistentVolume" => {
                Object::PersistentVolume(self.plain(&root, defaults::persistent_volume, validate::persistent_volume)?)
            }
            "PersistentVolumeClaim" => {
                Object::PersistentVolumeClaim(self.plain(&root, defaults::claim, validate::claim)?)
            }
            "RuntimeClass" => Object::RuntimeClass(self.plain(&root, |_| {}, validate::runtime_class)?),
            "ClusterTrustBundle" => {
                Object::ClusterTrustBundle(self.plain(&root, |_| {}, validate::cluster_trust_bundle)?)
            }
            "EndpointSlice" => {
                Object::EndpointSlice(self.plain(&root, defaults::endpoint_slice, validate::endpoint_slice)?)
            }
            "Service" => Object::Service(self.plain(&root, defaults::service, validate::service)?),
            kind => Object::Workload(self.workload(kind, &root)?),
        };
        Ok(Manifest { document: self.document, line: root.line, name: object.name(), object })
    }

    fn workload(&self, kind: &str, root: &Node) -> Result<Arc<Workload>, Vec<ManifestProblem>> {
        use WorkloadKind::{CronJob, DaemonSet, Deployment, Job, ReplicaSet, ReplicationController, StatefulSet};
        match kind {
            "Deployment" => self.workload_of::<DeploymentSpec>(Deployment, root),
            "ReplicaSet" => self.workload_of::<ReplicaSetSpec>(ReplicaSet, root),
            "ReplicationController" => self.workload_of::<ReplicationControllerSpec>(ReplicationController, root),
            "StatefulSet" => self.workload_of::<StatefulSetSpec>(StatefulSet, root),
            "DaemonSet" => self.workload_of::<DaemonSetSpec>(DaemonSet, root),
            "Job" => self.workload_of::<JobSpec>(Job, root),
            _ => self.workload_of::<CronJobSpec>(CronJob, root),
        }
    }

    fn workload_of<S: workloads::Spec + DeserializeOwned>(
        &self,
        kind: WorkloadKind,
        root: &Node,
    ) -> Result<Arc<Workload>, Vec<ManifestProblem>> {
        let top: workloads::Top<S> = self.decode(root, false)?;
        match top.workload(kind, self.file, self.node) {
            Ok(workload) => Ok(Arc::new(workload)),
            Err(wrong) => Err(self.named(root, wrong)),
        }
    }

    /// Decoded, filled in, checked.
    fn plain<T: DeserializeOwned>(
        &self,
        root: &Node,
        fill: impl FnOnce(&mut T),
        check: impl FnOnce(&T) -> Vec<(String, String)>,
    ) -> Result<Arc<T>, Vec<ManifestProblem>> {
        let mut object: T = self.decode(root, false)?;
        fill(&mut object);
        self.checked(root, check(&object))?;
        Ok(Arc::new(object))
    }

    fn pod(&self, root: &mut Node) -> Result<Object, Vec<ManifestProblem>> {
        let mut pod: Pod = self.decode(root, false)?;
        pod.metadata.uid = None;
        let uid = identity::uid(&pod, self.node, self.file);
        if self.origin != Origin::Manifests {
            self.checked(root, validate::static_pod(&pod))?;
            if let Some(name) = &mut pod.metadata.name {
                *name = format!("{name}-{}", self.node);
            }
        }
        defaults::pod(&mut pod, self.node);
        self.checked(root, validate::pod(&pod))?;
        pod.metadata.uid = Some(uid.to_string());
        pod.metadata.generation = (self.origin == Origin::Manifests).then_some(1);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert("kubernetes.io/config.hash".to_owned(), uid.to_string());
        annotations.insert("kubernetes.io/config.source".to_owned(), self.origin.word().to_owned());
        Ok(Object::Pod(uid, Box::new(pod)))
    }

    fn secret(&self, root: &mut Node) -> Result<Object, Vec<ManifestProblem>> {
        one_line(root.get_mut("data"));
        let mut secret: Secret = self.decode(root, true)?;
        let data = secret.data.get_or_insert_default();
        for (key, value) in secret.string_data.take().into_iter().flatten() {
            data.insert(key, k8s_openapi::ByteString(value.into_bytes()));
        }
        secret.type_.get_or_insert_with(|| "Opaque".to_owned());
        self.checked(root, validate::secret(&secret))?;
        Ok(Object::Secret(Arc::new(with_namespace(secret))))
    }

    fn decode<T: DeserializeOwned>(&self, root: &Node, secret: bool) -> Result<T, Vec<ManifestProblem>> {
        let named = |mistake: Mistake| {
            let message = base64_in_words(root, &mistake.field).map_or(mistake.message, ToOwned::to_owned);
            self.problem(mistake.line, mistake.field, message)
        };
        yaml::decode(root, secret).map_err(|mistakes| mistakes.into_iter().map(named).collect())
    }

    fn checked(&self, root: &Node, found: Vec<(String, String)>) -> Result<(), Vec<ManifestProblem>> {
        if found.is_empty() { Ok(()) } else { Err(self.named(root, found)) }
    }

    fn named(&self, root: &Node, found: Vec<(String, String)>) -> Vec<ManifestProblem> {
        let named = |(field, message): (String, String)| self.problem(root.line_of(&field), field, message);
        found.into_iter().map(named).collect()
    }
}

/// The decoder's words for bytes that are not base64 name a part of them; these do not.
fn base64_in_words(root: &Node, field: &str) -> Option<&'static str> {
    let bytes = field.split(['.', '[']).next()?;
    let is_scalar = root.get(bytes).is_some_and(|map| matches!(map.kind, Kind::Map(_))) && field != bytes;
    match (root.get("kind")?.as_str()?, bytes) {
        ("Secret", "data") if is_scalar => Some("is not base64; plain text goes into stringData"),
        ("ConfigMap", "binaryData") if is_scalar => Some("is not base64; plain text goes into data"),
        _ => None,
    }
}

fn with_namespace<T>(mut object: T) -> T
where
    T: k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
{
    object.metadata_mut().namespace.get_or_insert_with(|| "default".to_owned());
    object
}

fn drop_field(root: &mut Node, field: &str) {
    if let Kind::Map(entries) = &mut root.kind {
        entries.retain(|(name, _)| name != field);
    }
}

/// Base64 may be folded over several lines.
fn one_line(map: Option<&mut Node>) {
    let Some(Kind::Map(entries)) = map.map(|map| &mut map.kind) else { return };
    for (_, value) in entries {
        if let Kind::Text(text) | Kind::Plain(text) = &mut value.kind {
            let folded: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            // What looks like a number or a word of YAML is base64 here.
            value.kind = Kind::Text(folded);
        }
    }
}

#[cfg(test)]
mod tests;

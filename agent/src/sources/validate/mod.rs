//! What the API server would refuse, and what this agent does not have on its own: found before anything is started.

mod container;
mod image;
mod names;
mod objects;
mod pod;
mod probe;
mod resources;
mod security;
mod slices;
mod statics;
mod storage;
mod trust;
mod volume;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// What is wrong with one manifest, field by field.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: Vec<(String, String)>,
    /// There is an API server that issues tokens.
    has_tokens: bool,
}

impl Report {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.found.push((field.into(), message.into()));
    }

    /// Adds when `fine` is not so.
    fn check(&mut self, fine: bool, field: impl Into<String>, message: impl FnOnce() -> String) {
        if !fine {
            self.add(field, message());
        }
    }

    /// A field that has to have one of a few values.
    fn one_of(&mut self, value: Option<&String>, allowed: &[&str], field: impl Into<String>) {
        if let Some(value) = value.filter(|value| !allowed.contains(&value.as_str())) {
            self.add(field, format!("{value:?} must be {}", or(allowed)));
        }
    }

    /// A feature that this agent does not have on its own.
    fn refuse(&mut self, given: bool, field: impl Into<String>) {
        self.check(!given, field, || "not supported on its own yet".to_owned());
    }
}

/// `a, b or c`.
pub(super) fn or(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [front @ .., last] => format!("{} or {last}", front.join(", ")),
    }
}

/// `a, b and c`.
pub(super) fn and(words: &[&str]) -> String {
    match words {
        [front @ .., last] if !front.is_empty() => format!("{} and {last}", front.join(", ")),
        words => words.concat(),
    }
}

/// Problems of any object's name, labels and annotations.
pub(super) fn metadata(meta: &ObjectMeta) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(meta, &mut report);
    report.found
}

/// Problems of a pod whose defaults are applied.
pub(super) fn pod(pod: &Pod) -> Vec<(String, String)> {
    pod_with(pod, Report::default())
}

/// The same where an API server has looked at it, and issues tokens. A node of its own has refused those before; a
/// pod that got past that is refused by its volume.
pub(super) fn pod_of_cluster(pod: &Pod) -> Vec<(String, String)> {
    pod_with(pod, Report { has_tokens: true, ..Report::default() })
}

fn pod_with(pod: &Pod, mut report: Report) -> Vec<(String, String)> {
    names::object(&pod.metadata, &mut report);
    match &pod.spec {
        Some(spec) => pod::spec(spec, &mut report),
        None => report.add("spec", "is missing; it needs at least containers"),
    }
    report.found
}

/// What a static pod may not refer to: it has to run before there is an API server to ask.
pub(super) fn static_pod(pod: &Pod) -> Vec<(String, String)> {
    let mut report = Report::default();
    if let Some(spec) = &pod.spec {
        statics::check(spec, &mut report);
    }
    report.found
}

/// Problems of a ConfigMap.
pub(super) fn config_map(map: &ConfigMap) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&map.metadata, &mut report);
    objects::config_map(map, &mut report);
    report.found
}

/// Problems of a Secret whose `stringData` is merged. Values are never shown.
pub(super) fn secret(secret: &Secret) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&secret.metadata, &mut report);
    objects::secret(secret, &mut report);
    report.found
}

/// Problems of a Service whose defaults are applied.
pub(super) fn service(service: &Service) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&service.metadata, &mut report);
    objects::service(service, &mut report);
    report.found
}

/// Problems of a PersistentVolume whose defaults are applied.
pub(super) fn persistent_volume(volume: &PersistentVolume) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&volume.metadata, &mut report);
    storage::persistent_volume(volume, &mut report);
    report.found
}

/// Problems of a PersistentVolumeClaim whose defaults are applied.
pub(super) fn claim(claim: &PersistentVolumeClaim) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&claim.metadata, &mut report);
    match &claim.spec {
        Some(spec) => storage::claim(spec, "spec", &mut report),
        None => report.add("spec", "is missing; it needs at least accessModes and resources.requests.storage"),
    }
    report.found
}

/// Problems of a RuntimeClass.
pub(super) fn runtime_class(class: &RuntimeClass) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&class.metadata, &mut report);
    match class.handler.as_str() {
        "" => report.add("handler", "is missing"),
        handler => names::label(handler, "handler", &mut report),
    }
    report.found
}

/// Problems of a ClusterTrustBundle.
pub(super) fn cluster_trust_bundle(bundle: &ClusterTrustBundle) -> Vec<(String, String)> {
    let mut report = Report::default();
    trust::cluster_trust_bundle(bundle, &mut report);
    report.found
}

/// Problems of an EndpointSlice whose defaults are applied.
pub(super) fn endpoint_slice(slice: &EndpointSlice) -> Vec<(String, String)> {
    let mut report = Report::default();
    names::object(&slice.metadata, &mut report);
    slices::endpoint_slice(slice, &mut report);
    report.found
}

#[cfg(test)]
mod tests;

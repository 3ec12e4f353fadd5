use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, VolumeProjection};

use super::payload::Payload;
use super::tokens::{self, Issued};
use super::{SetUpError, config_map, downward_api, secret, trust};
use crate::fields::Allocatable;
use crate::names::ObjectName;
use crate::sources::Objects;

/// Several sources in one volume: later ones win where paths are equal; all that fail are named.
pub(super) fn payload(
    source: &ProjectedVolumeSource,
    pod: &Pod,
    objects: &Objects,
    node: &Allocatable,
    issued: &Issued,
) -> Result<Payload, SetUpError> {
    let mut payload = Payload::new();
    let mut failed = Vec::new();
    for part in source.sources.iter().flatten() {
        match one(part, source.default_mode, pod, objects, node, issued) {
            Ok(files) => payload.extend(files),
            Err(error) => failed.push(error),
        }
    }
    match failed.len() {
        0 => Ok(payload),
        1 => Err(failed.remove(0)),
        _ => Err(SetUpError::Several(failed)),
    }
}

fn one(
    part: &VolumeProjection,
    default_mode: Option<i32>,
    pod: &Pod,
    objects: &Objects,
    node: &Allocatable,
    issued: &Issued,
) -> Result<Payload, SetUpError> {
    let named = |name: &str| ObjectName::new(pod.metadata.namespace.as_deref().unwrap_or("default"), name);
    if let Some(source) = &part.secret {
        let (name, items) = (named(&source.name), source.items.as_deref());
        let optional = source.optional == Some(true);
        return secret::payload(&secret::Wanted { name, items, default_mode, optional }, objects);
    }
    if let Some(source) = &part.config_map {
        let (name, items) = (named(&source.name), source.items.as_deref());
        let optional = source.optional == Some(true);
        return config_map::payload(&config_map::Wanted { name, items, default_mode, optional }, objects);
    }
    if let Some(source) = &part.downward_api {
        return downward_api::payload(source.items.as_deref(), default_mode, pod, node);
    }
    if let Some(source) = &part.service_account_token {
        return tokens::payload(source, default_mode, pod, issued);
    }
    if let Some(source) = &part.cluster_trust_bundle {
        return trust::payload(source, default_mode, pod.spec.as_ref(), objects);
    }
    let missing = if part.pod_certificate.is_some() {
        "podCertificate is not supported yet: no PodCertificateRequests are made here"
    } else {
        "a source of a projected volume is empty"
    };
    Err(SetUpError::Unsupported(missing.to_owned()))
}

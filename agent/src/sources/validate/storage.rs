use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaimSpec, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Report;
use crate::quantity::Amount;

const ACCESS_MODES: &[&str] = &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Filesystem", "Block"];

pub(super) fn persistent_volume(volume: &PersistentVolume, report: &mut Report) {
    let Some(spec) = &volume.spec else {
        return report.add("spec", "is missing; it needs at least capacity, accessModes and a source");
    };
    storage(spec.capacity.as_ref(), "spec.capacity.storage", report);
    access_modes(spec.access_modes.as_deref(), "spec.accessModes", report);
    let policies = &["Retain", "Delete", "Recycle"];
    report.one_of(spec.persistent_volume_reclaim_policy.as_ref(), policies, "spec.persistentVolumeReclaimPolicy");
    report.one_of(spec.volume_mode.as_ref(), VOLUME_MODES, "spec.volumeMode");
    source(spec, report);
}

/// Only these are there on one machine; which of them can be mounted is for the volumes to say.
fn source(spec: &PersistentVolumeSpec, report: &mut Report) {
    let given = [spec.host_path.is_some(), spec.local.is_some(), spec.nfs.is_some()];
    let count = given.into_iter().filter(|given| *given).count();
    report.check(count == 1, "spec", || match count {
        0 => "has no source that is supported on its own; hostPath, local and nfs are".to_owned(),
        _ => "has several of hostPath, local and nfs; only one of them may be given".to_owned(),
    });
    let paths = [
        ("spec.hostPath.path", spec.host_path.as_ref().map(|source| &source.path)),
        ("spec.local.path", spec.local.as_ref().map(|source| &source.path)),
        ("spec.nfs.path", spec.nfs.as_ref().map(|source| &source.path)),
    ];
    for (field, path) in paths.into_iter().filter_map(|(field, path)| Some((field, path?))) {
        let fine = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        report.check(fine, field, || format!("{path:?} must be an absolute path without .."));
    }
    let server = spec.nfs.as_ref().map(|source| source.server.as_str());
    report.check(server != Some(""), "spec.nfs.server", || "is missing".to_owned());
}

pub(super) fn claim(spec: &PersistentVolumeClaimSpec, at: &str, report: &mut Report) {
    access_modes(spec.access_modes.as_deref(), &format!("{at}.accessModes"), report);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    storage(requests, &format!("{at}.resources.requests.storage"), report);
    report.one_of(spec.volume_mode.as_ref(), VOLUME_MODES, format!("{at}.volumeMode"));
    report.refuse(spec.data_source.is_some(), format!("{at}.dataSource"));
    report.refuse(spec.data_source_ref.is_some(), format!("{at}.dataSourceRef"));
}

fn storage(amounts: Option<&BTreeMap<String, Quantity>>, field: &str, report: &mut Report) {
    match amounts.and_then(|amounts| amounts.get("storage")).map(Amount::try_from) {
        None => report.add(field, "is missing"),
        Some(Err(error)) => report.add(field, error.to_string()),
        Some(Ok(amount)) => report.check(amount > Amount::ZERO, field, || "must be more than nothing".to_owned()),
    }
}

fn access_modes(modes: Option<&[String]>, field: &str, report: &mut Report) {
    let modes = modes.unwrap_or_default();
    report.check(!modes.is_empty(), field, || format!("is missing; it lists {}", super::or(ACCESS_MODES)));
    for (index, mode) in modes.iter().enumerate() {
        report.one_of(Some(mode), ACCESS_MODES, format!("{field}[{index}]"));
    }
    let alone = !modes.iter().any(|mode| mode == "ReadWriteOncePod") || modes.len() == 1;
    report.check(alone, field, || "ReadWriteOncePod excludes the other modes".to_owned());
}

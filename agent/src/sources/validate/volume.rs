use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, PodSpec, ProjectedVolumeSource,
    Volume,
};

use super::{Report, container::only_one, names, storage, trust};
use crate::quantity::Amount;

const SUPPORTED: &str = "emptyDir, hostPath, configMap, secret, downwardAPI, projected, persistentVolumeClaim, ephemeral, nfs and image are";

pub(super) fn all(spec: &PodSpec, report: &mut Report) {
    let mut seen = HashSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = format!("spec.volumes[{index}]");
        names::label(&volume.name, format!("{at}.name"), report);
        report.check(seen.insert(volume.name.as_str()), format!("{at}.name"), || {
            format!("{:?} is taken by another volume", volume.name)
        });
        source(volume, &at, report);
        elsewhere(volume, &at, report);
    }
}

/// What lies outside of the pod: a claim, a server, an image.
fn elsewhere(volume: &Volume, at: &str, report: &mut Report) {
    if let Some(source) = &volume.persistent_volume_claim {
        named(&source.claim_name, format!("{at}.persistentVolumeClaim.claimName"), report);
    }
    if let Some(source) = &volume.ephemeral {
        let at = format!("{at}.ephemeral.volumeClaimTemplate");
        match &source.volume_claim_template {
            Some(template) => storage::claim(&template.spec, &format!("{at}.spec"), report),
            None => report.add(at, "is missing"),
        }
    }
    if let Some(source) = &volume.nfs {
        report.check(!source.server.is_empty(), format!("{at}.nfs.server"), || "is missing".to_owned());
        let fine = source.path.starts_with('/') && !source.path.split('/').any(|part| part == "..");
        report
            .check(fine, format!("{at}.nfs.path"), || format!("{:?} must be an absolute path without ..", source.path));
    }
    if let Some(source) = &volume.image {
        let reference = source.reference.as_deref().unwrap_or_default();
        report.check(!reference.is_empty(), format!("{at}.image.reference"), || "is missing".to_owned());
        let policies = &["Always", "IfNotPresent", "Never"];
        report.one_of(source.pull_policy.as_ref(), policies, format!("{at}.image.pullPolicy"));
    }
}

fn source(volume: &Volume, at: &str, report: &mut Report) {
    let given = kinds(volume);
    if given.len() > 1 {
        report.add(at, format!("has {}; only one of them may be given", given.join(" and ")));
    }
    for kind in given.iter().filter(|kind| !is_supported(kind)) {
        report
            .add(format!("{at}.{kind}"), format!("volumes of this kind are not supported on its own yet; {SUPPORTED}"));
    }
    if let Some(source) = &volume.empty_dir {
        empty_dir(source, &format!("{at}.emptyDir"), report);
    }
    if let Some(source) = &volume.host_path {
        host_path(source, &format!("{at}.hostPath"), report);
    }
    if let Some(source) = &volume.secret {
        let at = format!("{at}.secret");
        named(source.secret_name.as_deref().unwrap_or_default(), format!("{at}.secretName"), report);
        mode(source.default_mode, format!("{at}.defaultMode"), report);
        items(source.items.as_deref(), &at, report);
    }
    if let Some(source) = &volume.config_map {
        let at = format!("{at}.configMap");
        named(&source.name, format!("{at}.name"), report);
        mode(source.default_mode, format!("{at}.defaultMode"), report);
        items(source.items.as_deref(), &at, report);
    }
    if let Some(source) = &volume.downward_api {
        let at = format!("{at}.downwardAPI");
        mode(source.default_mode, format!("{at}.defaultMode"), report);
        downward(source.items.as_deref(), &at, report);
    }
    if let Some(source) = &volume.projected {
        projected(source, &format!("{at}.projected"), report);
    }
}

/// The name of another object.
pub(super) fn named(name: &str, field: String, report: &mut Report) {
    match name {
        "" => report.add(field, "is missing"),
        name => names::subdomain(name, field, report),
    }
}

fn is_supported(kind: &str) -> bool {
    SUPPORTED.split([',', ' ']).any(|known| known == kind)
}

/// The kinds that are given, as the manifest spells them.
fn kinds(volume: &Volume) -> Vec<String> {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(name, _)| *name != "name").map(|(name, _)| name.clone()).collect()
}

fn empty_dir(source: &EmptyDirVolumeSource, at: &str, report: &mut Report) {
    match source.medium.as_deref().unwrap_or_default() {
        "" | "Memory" => {}
        "HugePages" => {}
        medium => {
            let size = medium.strip_prefix("HugePages-").and_then(|size| Amount::parse(size).ok());
            report.check(size.is_some_and(|size| size > Amount::ZERO), format!("{at}.medium"), || {
                format!("{medium:?} must be \"\", Memory, HugePages or HugePages-<size>")
            });
        }
    }
    match source.size_limit.as_ref().map(Amount::try_from) {
        Some(Ok(limit)) if limit.is_negative() => report.add(format!("{at}.sizeLimit"), "must not be negative"),
        Some(Err(error)) => report.add(format!("{at}.sizeLimit"), error.to_string()),
        _ => {}
    }
}

fn host_path(source: &HostPathVolumeSource, at: &str, report: &mut Report) {
    let path = &source.path;
    report.check(!path.is_empty(), format!("{at}.path"), || "is missing".to_owned());
    report.check(path.is_empty() || path.starts_with('/'), format!("{at}.path"), || {
        format!("{path:?} must be an absolute path")
    });
    report.check(!path.split('/').any(|part| part == ".."), format!("{at}.path"), || {
        format!("{path:?} must not contain ..; write the path it means")
    });
    let types = &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    let fine = source.type_.as_deref().is_none_or(|kind| types.contains(&kind));
    report.check(fine, format!("{at}.type"), || {
        let kind = source.type_.as_deref().unwrap_or_default();
        format!("{kind:?} must be {} or left out", types[1..].join(", "))
    });
}

fn mode(mode: Option<i32>, field: String, report: &mut Report) {
    let fine = mode.is_none_or(|mode| (0..=0o777).contains(&mode));
    report.check(fine, field, || "must be between 0 and 0777 (octal) or 511 (decimal)".to_owned());
}

fn items(items: Option<&[KeyToPath]>, at: &str, report: &mut Report) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let at = format!("{at}.items[{index}]");
        report.check(!item.key.is_empty(), format!("{at}.key"), || "is missing".to_owned());
        path(&item.path, &at, report);
        mode(item.mode, format!("{at}.mode"), report);
    }
}

pub(super) fn path(path: &str, at: &str, report: &mut Report) {
    let outside = path.starts_with('/') || path.split('/').any(|part| part == "..") || path.starts_with("..");
    report.check(!path.is_empty() && !outside, format!("{at}.path"), || {
        format!("{path:?} must be a relative path that does not begin with or contain ..")
    });
}

fn downward(items: Option<&[DownwardAPIVolumeFile]>, at: &str, report: &mut Report) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let at = format!("{at}.items[{index}]");
        path(&item.path, &at, report);
        mode(item.mode, format!("{at}.mode"), report);
        let given = [("fieldRef", item.field_ref.is_some()), ("resourceFieldRef", item.resource_field_ref.is_some())];
        only_one(&given, &at, report);
        if let Some(field) = &item.field_ref {
            let fine = field.field_path.starts_with("metadata.")
                && crate::fields::pod_field(&k8s_openapi::api::core::v1::Pod::default(), &field.field_path).is_ok();
            report.check(fine, format!("{at}.fieldRef.fieldPath"), || {
                format!(
                    "{:?} cannot be a file; metadata.name, .namespace, .uid, .labels and .annotations can",
                    field.field_path
                )
            });
        }
        let unnamed =
            item.resource_field_ref.as_ref().is_some_and(|r| r.container_name.as_deref().unwrap_or("").is_empty());
        report.check(!unnamed, format!("{at}.resourceFieldRef.containerName"), || "is missing".to_owned());
    }
}

fn projected(source: &ProjectedVolumeSource, at: &str, report: &mut Report) {
    mode(source.default_mode, format!("{at}.defaultMode"), report);
    for (index, part) in source.sources.iter().flatten().enumerate() {
        let at = format!("{at}.sources[{index}]");
        let kinds = [
            ("secret", part.secret.is_some()),
            ("configMap", part.config_map.is_some()),
            ("downwardAPI", part.downward_api.is_some()),
            ("serviceAccountToken", part.service_account_token.is_some()),
            ("clusterTrustBundle", part.cluster_trust_bundle.is_some()),
            ("podCertificate", part.pod_certificate.is_some()),
        ];
        only_one(&kinds, &at, report);
        report.check(part.service_account_token.is_none() || report.has_tokens, format!("{at}.serviceAccountToken"), || {
            "needs an API server to issue tokens: there is no ServiceAccount on a node of its own; secret, configMap, \
             downwardAPI and clusterTrustBundle work on their own"
                .to_owned()
        });
        report.check(part.pod_certificate.is_none(), format!("{at}.podCertificate"), || {
            "is not supported yet: no PodCertificateRequests are made here".to_owned()
        });
        if let Some(bundle) = &part.cluster_trust_bundle {
            trust::projection(bundle, &format!("{at}.clusterTrustBundle"), report);
        }
        if let Some(secret) = &part.secret {
            named(&secret.name, format!("{at}.secret.name"), report);
            items(secret.items.as_deref(), &format!("{at}.secret"), report);
        }
        if let Some(map) = &part.config_map {
            named(&map.name, format!("{at}.configMap.name"), report);
            items(map.items.as_deref(), &format!("{at}.configMap"), report);
        }
        if let Some(api) = &part.downward_api {
            downward(api.items.as_deref(), &format!("{at}.downwardAPI"), report);
        }
    }
}

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::Report;

pub(super) fn check(spec: &PodSpec, report: &mut Report) {
    let mut refuse = |given: bool, field: String, what: &str| {
        report.check(!given, field, || format!("static pods may not reference {what}"));
    };
    let account = spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty());
    refuse(account, "spec.serviceAccountName".to_owned(), "serviceaccounts");
    refuse(spec.resource_claims.is_some(), "spec.resourceClaims".to_owned(), "resourceclaims");
    for (index, container) in spec.containers.iter().enumerate() {
        environment(container, &format!("spec.containers[{index}]"), &mut refuse);
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        environment(container, &format!("spec.initContainers[{index}]"), &mut refuse);
    }
    for (index, one) in spec.volumes.iter().flatten().enumerate() {
        volume(one, &format!("spec.volumes[{index}]"), &mut refuse);
    }
}

fn environment(container: &Container, at: &str, refuse: &mut impl FnMut(bool, String, &str)) {
    for (index, from) in container.env_from.iter().flatten().enumerate() {
        refuse(from.secret_ref.is_some(), format!("{at}.envFrom[{index}].secretRef"), "secrets");
        refuse(from.config_map_ref.is_some(), format!("{at}.envFrom[{index}].configMapRef"), "configmaps");
    }
    for (index, variable) in container.env.iter().flatten().enumerate() {
        let Some(from) = &variable.value_from else { continue };
        let at = format!("{at}.env[{index}].valueFrom");
        refuse(from.secret_key_ref.is_some(), format!("{at}.secretKeyRef"), "secrets");
        refuse(from.config_map_key_ref.is_some(), format!("{at}.configMapKeyRef"), "configmaps");
    }
}

fn volume(volume: &Volume, at: &str, refuse: &mut impl FnMut(bool, String, &str)) {
    refuse(volume.secret.is_some(), format!("{at}.secret"), "secrets");
    refuse(volume.config_map.is_some(), format!("{at}.configMap"), "configmaps");
    refuse(volume.persistent_volume_claim.is_some(), format!("{at}.persistentVolumeClaim"), "persistentvolumeclaims");
    refuse(volume.ephemeral.is_some(), format!("{at}.ephemeral"), "persistentvolumeclaims");
    refuse(volume.csi.is_some(), format!("{at}.csi"), "secrets");
    let parts = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    for (index, part) in parts.enumerate() {
        let at = format!("{at}.projected.sources[{index}]");
        refuse(part.secret.is_some(), format!("{at}.secret"), "secrets");
        refuse(part.config_map.is_some(), format!("{at}.configMap"), "configmaps");
        refuse(part.service_account_token.is_some(), format!("{at}.serviceAccountToken"), "serviceaccounts");
        refuse(part.cluster_trust_bundle.is_some(), format!("{at}.clusterTrustBundle"), "clustertrustbundles");
        refuse(part.pod_certificate.is_some(), format!("{at}.podCertificate"), "podcertificates");
    }
}

//! Which ConfigMaps and Secrets a pod refers to, and whether to trust bundles. Pure: a node may read only these.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, Volume};

use crate::names::ObjectName;

/// What a pod refers to by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refs {
    pub(super) config_maps: BTreeSet<ObjectName>,
    pub(super) secrets: BTreeSet<ObjectName>,
    /// Some ClusterTrustBundle: by its name, or by what only all of them tell.
    pub(super) trust_bundles: bool,
}

impl Refs {
    /// Everything that `pod` names.
    pub(super) fn of(pod: &Pod) -> Self {
        let mut found = Names::default();
        if let Some(spec) = &pod.spec {
            found.spec(spec);
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let named = |names: BTreeSet<String>| {
            names.into_iter().filter(|name| !name.is_empty()).map(|name| ObjectName::new(namespace, name)).collect()
        };
        let trust_bundles = found.trust_bundles;
        Self { config_maps: named(found.config_maps), secrets: named(found.secrets), trust_bundles }
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.config_maps.extend(other.config_maps);
        self.secrets.extend(other.secrets);
        self.trust_bundles |= other.trust_bundles;
    }
}

#[derive(Default)]
struct Names {
    config_maps: BTreeSet<String>,
    secrets: BTreeSet<String>,
    trust_bundles: bool,
}

impl Names {
    fn spec(&mut self, spec: &PodSpec) {
        self.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|one| one.name.clone()));
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            self.container(container);
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            self.ephemeral(container);
        }
        spec.volumes.iter().flatten().for_each(|volume| self.volume(volume));
    }

    fn container(&mut self, container: &Container) {
        self.env(container.env.as_deref(), container.env_from.as_deref());
    }

    fn ephemeral(&mut self, container: &EphemeralContainer) {
        self.env(container.env.as_deref(), container.env_from.as_deref());
    }

    fn env(
        &mut self,
        env: Option<&[k8s_openapi::api::core::v1::EnvVar]>,
        from: Option<&[k8s_openapi::api::core::v1::EnvFromSource]>,
    ) {
        for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
            self.secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
        }
        for source in from.into_iter().flatten() {
            self.config_maps.extend(source.config_map_ref.iter().map(|map| map.name.clone()));
            self.secrets.extend(source.secret_ref.iter().map(|secret| secret.name.clone()));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        self.config_maps.extend(volume.config_map.iter().map(|map| map.name.clone()));
        self.secrets.extend(volume.secret.iter().filter_map(|secret| secret.secret_name.clone()));
        let csi = volume.csi.iter().filter_map(|csi| csi.node_publish_secret_ref.as_ref());
        self.secrets.extend(csi.map(|secret| secret.name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            self.config_maps.extend(source.config_map.iter().map(|map| map.name.clone()));
            self.secrets.extend(source.secret.iter().map(|secret| secret.name.clone()));
            self.trust_bundles |= source.cluster_trust_bundle.is_some();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_names_a_config_map_or_secret_is_found() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "s1"}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c1"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "s4"}}, {"name": "b", "configMap": {"name": "c3"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "s5"}}, {"configMap": {"name": "c4"}}]}}],
        }}))
        .unwrap();
        let refs = Refs::of(&pod);
        let names = |set: BTreeSet<ObjectName>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(names(refs.secrets), "n/s1 n/s2 n/s3 n/s4 n/s5");
        assert_eq!(names(refs.config_maps), "n/c1 n/c2 n/c3 n/c4");
        assert!(!refs.trust_bundles);
        let mut trusting = pod;
        let source = json!({"sources": [{"clusterTrustBundle": {"name": "b", "path": "ca.pem"}}]});
        let volume = json!({"name": "d", "projected": source});
        trusting.spec.as_mut().unwrap().volumes = Some(vec![serde_json::from_value(volume).unwrap()]);
        assert!(Refs::of(&trusting).trust_bundles);
    }
}

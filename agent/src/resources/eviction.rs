//! Whether a pod has used more disk than it may: values in, the kubelet's message out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{Amount, binary};

/// `status.reason` of a pod that was evicted, and the reason of its event.
pub const REASON: &str = "Evicted";

const STORAGE: &str = "ephemeral-storage";

/// What a pod uses, bytes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// emptyDirs on disk, by name.
    pub volumes: BTreeMap<String, u64>,
    /// Writable layer and logs together, by container.
    pub containers: BTreeMap<String, u64>,
}

/// What has to be measured of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// emptyDirs on disk.
    pub volumes: Vec<String>,
    /// Writable layers and logs as well.
    pub containers: bool,
}

impl Measure {
    /// Nothing limits the pod: it costs nothing.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty() && !self.containers
    }
}

/// What has to be looked at to judge the pod; nothing where nothing is limited.
pub fn measure(pod: &Pod) -> Measure {
    let Some(spec) = &pod.spec else { return Measure::default() };
    let containers = pod_limit(spec).is_some() || spec_containers(spec).any(|container| limit(container).is_some());
    let wanted = |source: &EmptyDirVolumeSource| containers || size_limit(source).is_some();
    let volumes = on_disk(spec).filter(|(_, source)| wanted(source)).map(|(name, _)| name.to_owned());
    Measure { volumes: volumes.collect(), containers }
}

/// Why the pod has to go, if it does: first a volume over its own limit, then the pod, then a container.
pub fn verdict(pod: &Pod, usage: &Usage) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    volume(spec, usage).or_else(|| whole(spec, usage)).or_else(|| container(spec, usage))
}

/// The names of a pod's emptyDirs on disk.
pub fn empty_dirs(pod: &Pod) -> Vec<String> {
    pod.spec.iter().flat_map(on_disk).map(|(name, _)| name.to_owned()).collect()
}

fn volume(spec: &PodSpec, usage: &Usage) -> Option<String> {
    on_disk(spec).find_map(|(name, source)| {
        let limit = size_limit(source)?;
        let used = Amount::units(*usage.volumes.get(name)?);
        let shown = source.size_limit.as_ref().map(|limit| limit.0.as_str()).unwrap_or_default();
        (used > limit).then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{shown}\". "))
    })
}

fn whole(spec: &PodSpec, usage: &Usage) -> Option<String> {
    let limit = pod_limit(spec)?;
    let used =
        usage.volumes.values().chain(usage.containers.values()).fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
    let shown = binary(limit.ceil_units());
    let message = || format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. ");
    (Amount::units(used) > limit).then(message)
}

fn container(spec: &PodSpec, usage: &Usage) -> Option<String> {
    spec_containers(spec).find_map(|container| {
        let (limit, name) = (limit(container)?, &container.name);
        let used = Amount::units(*usage.containers.get(name)?);
        let shown = quantity(container)?.0.as_str();
        (used > limit).then(|| format!("Container {name} exceeded its local ephemeral storage limit \"{shown}\". "))
    })
}

fn spec_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// What lies in memory is bounded by its file system, and counts as memory.
fn on_disk(spec: &PodSpec) -> impl Iterator<Item = (&str, &EmptyDirVolumeSource)> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| {
        let source =
            volume.empty_dir.as_ref().filter(|source| source.medium.as_deref().unwrap_or_default().is_empty())?;
        Some((volume.name.as_str(), source))
    })
}

fn size_limit(source: &EmptyDirVolumeSource) -> Option<Amount> {
    source.size_limit.as_ref().and_then(|limit| Amount::try_from(limit).ok()).filter(|limit| *limit > Amount::ZERO)
}

fn quantity(container: &Container) -> Option<&Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(STORAGE)
}

fn limit(container: &Container) -> Option<Amount> {
    Amount::try_from(quantity(container)?).ok().filter(|limit| *limit > Amount::ZERO)
}

/// The containers' limits together, where one has any; an init container runs alone and needs no more than they do.
fn pod_limit(spec: &PodSpec) -> Option<Amount> {
    let regular = spec.containers.iter().filter_map(limit).reduce(|sum, limit| sum + limit);
    let init = spec.init_containers.iter().flatten().filter_map(limit).max();
    regular.max(init)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        let limits = |limit: &str| json!({"limits": {"ephemeral-storage": limit}});
        let spec = json!({
            "volumes": [
                {"name": "small", "emptyDir": {"sizeLimit": "1Ki"}},
                {"name": "free", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}},
                {"name": "host", "hostPath": {"path": "/"}}],
            "containers": [
                {"name": "a", "resources": limits("1Mi")},
                {"name": "b", "resources": limits("2Mi")},
                {"name": "c"}]});
        crate::container::testing::pod(spec)
    }

    fn judged(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> String {
        let map = |list: &[(&str, u64)]| list.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        verdict(&pod(), &Usage { volumes: map(volumes), containers: map(containers) }).unwrap_or_default()
    }

    #[test]
    fn the_messages_are_the_kubelets() {
        assert_eq!(judged(&[("small", 1024), ("free", 1 << 20)], &[("a", 1 << 20)]), "");
        assert_eq!(judged(&[("small", 1025)], &[]), "Usage of EmptyDir volume \"small\" exceeds the limit \"1Ki\". ");
        assert_eq!(
            judged(&[("free", 2 << 20)], &[("c", 1 << 20), ("a", 1)]),
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
        );
        assert_eq!(
            judged(&[], &[("a", (1 << 20) + 1)]),
            "Container a exceeded its local ephemeral storage limit \"1Mi\". "
        );
        assert_eq!(
            judged(&[("memory", 1 << 30)], &[]),
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
        );
    }

    #[test]
    fn only_what_can_matter_is_measured() {
        assert_eq!(measure(&pod()), Measure { volumes: vec!["small".into(), "free".into()], containers: true });
        let free = crate::container::testing::pod(json!({"volumes": [{"name": "free", "emptyDir": {}}]}));
        assert!(measure(&free).is_empty());
        let only =
            json!({"volumes": [{"name": "free", "emptyDir": {}}, {"name": "s", "emptyDir": {"sizeLimit": "1"}}]});
        let only = measure(&crate::container::testing::pod(only));
        assert_eq!(only, Measure { volumes: vec!["s".into()], containers: false });
    }
}

//! Whether one volume is good for one claim: the rules of the binder of a control plane.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaimSpec, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;
use crate::selectors::{Labels, takes, takes_node};

/// What keeps `volume` from being bound to a claim; `None` is a fit. A claim that names its volume is not asked for
/// its selector.
pub(super) fn misfit(claim: &PersistentVolumeClaimSpec, volume: &PersistentVolume, node: &Labels) -> Option<String> {
    let Some(spec) = &volume.spec else { return Some("has no spec".to_owned()) };
    let (wanted, has) = (claim.storage_class_name.as_deref(), spec.storage_class_name.as_deref());
    if wanted.unwrap_or_default() != has.unwrap_or_default() {
        return Some(format!("has the class {:?}", has.unwrap_or_default()));
    }
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    if mode(&claim.volume_mode) != mode(&spec.volume_mode) {
        return Some(format!("has volumeMode {}", mode(&spec.volume_mode)));
    }
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if let Some(missing) = claim.access_modes.iter().flatten().find(|mode| !modes.contains(mode)) {
        return Some(format!("has no access mode {missing}"));
    }
    if capacity(spec) < requested(claim) {
        return Some(format!("has {}", shown(spec.capacity.as_ref())));
    }
    let named = claim.volume_name.as_deref().is_some_and(|name| !name.is_empty());
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    if !named && claim.selector.as_ref().is_some_and(|selector| !takes(selector, &labels)) {
        return Some("has other labels".to_owned());
    }
    (!reaches(spec, node)).then(|| "belongs to another node".to_owned())
}

/// Bytes that it holds.
pub(super) fn capacity(spec: &PersistentVolumeSpec) -> Amount {
    amount(spec.capacity.as_ref())
}

/// Bytes that are asked for.
pub(super) fn requested(claim: &PersistentVolumeClaimSpec) -> Amount {
    amount(claim.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn amount(list: Option<&BTreeMap<String, Quantity>>) -> Amount {
    list.and_then(|list| Amount::try_from(list.get("storage")?).ok()).unwrap_or_default()
}

fn shown(list: Option<&BTreeMap<String, Quantity>>) -> String {
    list.and_then(|list| list.get("storage")).map_or_else(|| "nothing".to_owned(), |amount| amount.0.clone())
}

/// The volume can be had on a node with these labels. Without an affinity it can be had everywhere.
pub(super) fn reaches(spec: &PersistentVolumeSpec, node: &Labels) -> bool {
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    // A node's name is its hostname label here.
    let name = node.get("kubernetes.io/hostname").map(String::as_str);
    required.is_none_or(|selector| takes_node(selector, name, node))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(claim: Value, volume: Value) -> String {
        let mut wanted = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let mut has = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        let merge = |into: &mut Value, more: Value| {
            more.as_object().unwrap().iter().for_each(|(key, value)| into[key] = value.clone());
        };
        merge(&mut wanted, claim);
        merge(&mut has, volume);
        let volume = json!({"metadata": {"name": "v", "labels": {"tier": "fast"}}, "spec": has});
        let node = Labels::from([("kubernetes.io/hostname".to_owned(), "n1".to_owned())]);
        let (claim, volume) = (serde_json::from_value(wanted).unwrap(), serde_json::from_value(volume).unwrap());
        misfit(&claim, &volume, &node).unwrap_or_else(|| "fits".to_owned())
    }

    #[test]
    fn a_volume_fits_when_all_that_is_asked_for_is_there() {
        assert_eq!(check(json!({}), json!({})), "fits");
        assert_eq!(check(json!({"storageClassName": ""}), json!({})), "fits");
        assert_eq!(check(json!({"storageClassName": "a"}), json!({"storageClassName": "b"})), "has the class \"b\"");
        assert_eq!(check(json!({}), json!({"capacity": {"storage": "1023Mi"}})), "has 1023Mi");
        assert_eq!(check(json!({"accessModes": ["ReadWriteMany"]}), json!({})), "has no access mode ReadWriteMany");
        assert_eq!(check(json!({"volumeMode": "Block"}), json!({})), "has volumeMode Filesystem");
        let slow = json!({"selector": {"matchLabels": {"tier": "slow"}}});
        assert_eq!(check(slow.clone(), json!({})), "has other labels");
        let mut named = slow;
        named["volumeName"] = json!("v");
        assert_eq!(check(named, json!({})), "fits", "one that is named is not selected");
        let in_fast = json!([{"key": "tier", "operator": "In", "values": ["fast", "x"]}, {"key": "no", "operator": "DoesNotExist"}]);
        assert_eq!(check(json!({"selector": {"matchExpressions": in_fast}}), json!({})), "fits");
    }

    #[test]
    fn a_local_volume_belongs_to_the_node_that_its_affinity_names() {
        let of = |name: &str| {
            let expressions = json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [name]}]);
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}})
        };
        assert_eq!(check(json!({}), of("n1")), "fits");
        assert_eq!(check(json!({}), of("n2")), "belongs to another node");
        let empty = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{}]}}});
        assert_eq!(check(json!({}), empty), "belongs to another node", "an empty term selects nothing");
    }
}

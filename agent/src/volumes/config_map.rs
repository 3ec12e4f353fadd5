use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath};

use super::SetUpError;
use super::payload::{Payload, from_keys};
use crate::names::ObjectName;
use crate::sources::Objects;

/// Which ConfigMap, and which of its keys.
pub(super) struct Wanted<'a> {
    pub name: ObjectName,
    pub items: Option<&'a [KeyToPath]>,
    pub default_mode: Option<i32>,
    pub optional: bool,
}

/// The files of a ConfigMap; one that does not exist is empty when `optional`.
pub(super) fn payload(wanted: &Wanted<'_>, objects: &Objects) -> Result<Payload, SetUpError> {
    let Some(map) = objects.config_maps.get(&wanted.name) else {
        let missing = || SetUpError::ConfigMapMissing(wanted.name.clone());
        return if wanted.optional { Ok(Payload::new()) } else { Err(missing()) };
    };
    from_keys(&keys(map), wanted.items, wanted.default_mode, wanted.optional, SetUpError::ConfigMapKey)
}

/// `data` comes before `binaryData`: a key stands in one of them only.
fn keys(map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
    binary.chain(text).collect()
}

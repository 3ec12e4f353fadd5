use k8s_openapi::api::core::v1::{KeyToPath, Secret};

use super::SetUpError;
use super::payload::{Payload, from_keys};
use crate::names::ObjectName;
use crate::sources::Objects;

/// Which Secret, and which of its keys.
pub(super) struct Wanted<'a> {
    pub name: ObjectName,
    pub items: Option<&'a [KeyToPath]>,
    pub default_mode: Option<i32>,
    pub optional: bool,
}

/// The files of a Secret; one that does not exist is empty when `optional`.
pub(super) fn payload(wanted: &Wanted<'_>, objects: &Objects) -> Result<Payload, SetUpError> {
    let Some(secret) = objects.secrets.get(&wanted.name) else {
        let missing = || SetUpError::SecretMissing(wanted.name.clone());
        return if wanted.optional { Ok(Payload::new()) } else { Err(missing()) };
    };
    let keys = keys(secret);
    from_keys(&keys, wanted.items, wanted.default_mode, wanted.optional, SetUpError::SecretKey)
}

fn keys(secret: &Secret) -> std::collections::BTreeMap<&str, &[u8]> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
}

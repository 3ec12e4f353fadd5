use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Pod};

use super::SetUpError;
use super::payload::{File, Payload, check_path, mode, plain};
use crate::fields::{Allocatable, FieldError, pod_field, resource_field};

/// The pod's own fields as files.
pub(super) fn payload(
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
    pod: &Pod,
    node: &Allocatable,
) -> Result<Payload, SetUpError> {
    let mut payload = Payload::new();
    for item in items.unwrap_or_default() {
        check_path(&item.path)?;
        let text = text(item, pod, node).map_err(|source| SetUpError::Field { path: item.path.clone(), source })?;
        let file = File { mode: mode(item.mode, default_mode), owner: None, bytes: text.into_bytes() };
        payload.insert(plain(&item.path), file);
    }
    Ok(payload)
}

fn text(item: &DownwardAPIVolumeFile, pod: &Pod, node: &Allocatable) -> Result<String, FieldError> {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) if field.field_path.starts_with("metadata.") => pod_field(pod, &field.field_path),
        (Some(field), _) => Err(FieldError::Unknown(field.field_path.clone())),
        (None, Some(resource)) => resource_field(pod, None, resource, node),
        (None, None) => Err(FieldError::Unknown(String::new())),
    }
}

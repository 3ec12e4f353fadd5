//! Labels and annotations by which containers are found again, also by another version of this program.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of the definition, in hex.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Restart count, decimal.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Termination message path inside the container.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Termination message policy.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The sandbox's labels: the pod's own, and who it is.
pub fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// A container's labels.
pub fn container_labels(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.to_owned());
    labels
}

fn identity(pod: &Pod) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    BTreeMap::from([
        (POD_NAME.to_owned(), of(&meta.name)),
        (POD_NAMESPACE.to_owned(), of(&meta.namespace)),
        (POD_UID.to_owned(), of(&meta.uid)),
    ])
}

/// A container's annotations: what another start of the agent needs to know about this instance.
pub fn container_annotations(pod: &Pod, container: &Container, restarts: u32) -> BTreeMap<String, String> {
    let spec = pod.spec.as_ref();
    let mut notes = BTreeMap::from([
        (HASH.to_owned(), format!("{:x}", definition_hash(container))),
        (RESTART_COUNT.to_owned(), restarts.to_string()),
        (MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (MESSAGE_POLICY.to_owned(), container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned())),
    ]);
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) {
        note_json(&mut notes, PRE_STOP, hook);
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty()) {
        note_json(&mut notes, PORTS, ports);
    }
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        notes.insert(DELETION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(grace) = spec.and_then(|spec| spec.termination_grace_period_seconds) {
        notes.insert(TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    notes
}

fn note_json(notes: &mut BTreeMap<String, String>, key: &str, value: &impl serde::Serialize) {
    // Types with string keys only: encoding them cannot fail.
    if let Ok(text) = serde_json::to_string(value) {
        notes.insert(key.to_owned(), text);
    }
}

/// `terminationMessagePath`, or the API's default.
pub fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log")
}

/// Changes when a change of the definition must replace the running container: name or image.
///
/// FNV-32a over `{"image":…,"name":…}`; it must never depend on this program's version, or an upgrade would
/// restart every container.
pub fn definition_hash(container: &Container) -> u32 {
    let image = container.image.as_deref().unwrap_or_default();
    let text = serde_json::json!({ "image": image, "name": container.name }).to_string();
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_and_image_replace_a_container() {
        let one = Container { name: "a".into(), image: Some("busybox".into()), ..Container::default() };
        let same = Container { working_dir: Some("/tmp".into()), ..one.clone() };
        let other = Container { image: Some("busybox:1".into()), ..one.clone() };
        assert_eq!(definition_hash(&one), definition_hash(&same));
        assert_ne!(definition_hash(&one), definition_hash(&other));
        // Pinned: containers in the field carry this number.
        assert_eq!(format!("{:x}", definition_hash(&one)), "476290f0");
    }
}

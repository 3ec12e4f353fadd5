//! Names and uids that come out the same whenever they are computed again.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use sha2::{Digest, Sha256};

use super::WorkloadKind;
use crate::names::{ObjectName, PodUid};

/// What upstream's generated names are made of: no vowels, and nothing that is taken for something else.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Upstream cuts the front of a generated name so that name and suffix fit into a label.
const LONGEST_FRONT: usize = 58;

fn hash(parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new();
    for part in parts {
        // With its length: "ab" and "c" are not "a" and "bc".
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    digest.iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn letters(mut number: u128, count: usize) -> String {
    let base = LETTERS.len() as u128;
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let place = usize::try_from(number % base).unwrap_or_default();
        text.push(char::from(LETTERS[place]));
        number /= base;
    }
    text
}

/// A workload's uid: the same for the same kind, name and node, whatever its manifest says otherwise. `content` tells
/// objects apart that upstream would not let change.
pub(super) fn workload_uid(kind: WorkloadKind, name: &ObjectName, node: &str, content: &[u8]) -> String {
    let parts = [kind.word().as_bytes(), name.namespace.as_bytes(), name.name.as_bytes(), node.as_bytes(), content];
    format!("{:032x}", hash(&parts))
}

/// What the label `pod-template-hash` says.
pub(super) fn template_hash(template: &PodTemplateSpec) -> String {
    // These types always serialise; were it not so, every template would look like the first.
    letters(hash(&[&serde_json::to_vec(template).unwrap_or_default()]), 10)
}

/// The end of the name of the `number`th pod of the workload `uid`.
pub(super) fn suffix(uid: &str, number: u64) -> String {
    letters(hash(&[b"name", uid.as_bytes(), &number.to_le_bytes()]), 5)
}

/// `front-suffix`, as long as a label may be.
pub(super) fn generated(front: &str, suffix: &str) -> String {
    let mut front = format!("{front}-");
    // Names of objects are ASCII.
    front.truncate(LONGEST_FRONT);
    front + suffix
}

/// The uid of the `number`th pod of the workload `uid`.
pub(super) fn pod_uid(uid: &str, revision: &str, name: &str, number: u64) -> PodUid {
    PodUid::from_number(hash(&[b"pod", uid.as_bytes(), revision.as_bytes(), name.as_bytes(), &number.to_le_bytes()]))
}

/// The uid of an object that only its name tells apart, such as a claim: the same when it comes back.
pub(super) fn object_uid(kind: &str, name: &ObjectName) -> String {
    format!("{:032x}", hash(&[b"object", kind.as_bytes(), name.namespace.as_bytes(), name.name.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_a_label_and_come_out_the_same() {
        let long = generated(&"a".repeat(200), &suffix("u", 1));
        assert_eq!(long.len(), 63);
        assert_eq!(suffix("u", 1), suffix("u", 1));
        assert_ne!(suffix("u", 1), suffix("u", 2));
        assert!(generated("web-abc", "xyz12").starts_with("web-abc-xyz12"));
    }

    #[test]
    fn a_uid_is_a_pods_alone() {
        let uid = |name: &str, number| pod_uid("w", "r", name, number);
        assert_eq!(uid("a-0", 0), uid("a-0", 0));
        assert_ne!(uid("a-0", 0), uid("a-0", 1));
        assert_ne!(uid("a-0", 0), uid("a-1", 0));
    }
}

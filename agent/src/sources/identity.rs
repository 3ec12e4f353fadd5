use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::names::PodUid;

/// The uid of a manifest's pod: the same for the same content, node and file, so that an agent that starts again finds
/// its pods, and another one as soon as anything in the pod changes. `pod` is as decoded, without defaults: an agent
/// that learns a new default restarts nothing.
pub(super) fn uid(pod: &Pod, node: &str, file: &Path) -> PodUid {
    let mut hash = Fnv128a::default();
    // The fields of these types always serialise; were it not so, the rest would still tell files apart.
    hash.write(&serde_json::to_vec(pod).unwrap_or_default());
    hash.write(b"host:");
    hash.write(node.as_bytes());
    hash.write(b"file:");
    hash.write(std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()));
    hash.into()
}

/// FNV-1a with 128 bits: not against anyone's will, only against chance.
struct Fnv128a(u128);

impl Default for Fnv128a {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv128a {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}

impl From<Fnv128a> for PodUid {
    fn from(hash: Fnv128a) -> Self {
        Self::from_number(hash.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        let mut hash = Fnv128a::default();
        hash.write(b"a");
        assert_eq!(format!("{:032x}", hash.0), "d228cb696f1a8caf78912b704e4a8964");
    }

    #[test]
    fn a_uid_changes_with_the_pod_the_node_and_the_file_only() {
        let pod = |image: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"},
                "spec": {"containers": [{"name": "c", "image": image}]}}))
            .unwrap()
        };
        let one = uid(&pod("a"), "n", Path::new("/f"));
        assert_eq!(one, uid(&pod("a"), "n", Path::new("/f")));
        for other in [
            uid(&pod("b"), "n", Path::new("/f")),
            uid(&pod("a"), "m", Path::new("/f")),
            uid(&pod("a"), "n", Path::new("/g")),
        ] {
            assert_ne!(one, other);
        }
    }
}

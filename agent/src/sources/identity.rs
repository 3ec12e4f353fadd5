use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use crate::names::PodUid;
use crate::resources::qos;

/// The uid of a manifest's pod: the same for the same content, node and file, so that an agent that starts again finds
/// its pods, and another one as soon as something in the pod changes that cannot be changed while it runs. `pod` is as
/// decoded, without defaults: an agent that learns a new default restarts nothing.
pub(super) fn uid(pod: &Pod, node: &str, file: &Path) -> PodUid {
    let mut hash = Fnv128a::default();
    // The fields of these types always serialise; were it not so, the rest would still tell files apart.
    hash.write(&serde_json::to_vec(&lasting(pod)).unwrap_or_default());
    hash.write(b"host:");
    hash.write(node.as_bytes());
    hash.write(b"file:");
    hash.write(std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()));
    hash.into()
}

/// The pod without what the API, too, lets people change in a running pod: labels and annotations, images, amounts of
/// cpu and memory (but not which ones there are, nor the class they make), the deadline, ephemeral containers.
fn lasting(pod: &Pod) -> (Pod, &'static str) {
    let class = qos::class(pod).as_str();
    let mut pod = pod.clone();
    (pod.metadata.labels, pod.metadata.annotations) = (None, None);
    let Some(spec) = &mut pod.spec else { return (pod, class) };
    (spec.active_deadline_seconds, spec.ephemeral_containers) = (None, None);
    spec.resources.iter_mut().for_each(forget_amounts);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        container.image = container.image.take().map(|_| String::new());
        container.resources.iter_mut().for_each(forget_amounts);
    }
    (pod, class)
}

fn forget_amounts(resources: &mut ResourceRequirements) {
    for list in [&mut resources.limits, &mut resources.requests] {
        for (_, amount) in list.iter_mut().flatten().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
            amount.0.clear();
        }
    }
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
        let pod = |command: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"},
                "spec": {"containers": [{"name": "c", "image": "i", "command": [command]}]}}))
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

    #[test]
    fn what_can_be_changed_in_place_leaves_the_uid_as_it_is() {
        let base = serde_json::json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c",
            "image": "i:1", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}}]}});
        let changed = |path: &str, value: serde_json::Value| {
            let mut pod = base.clone();
            let (parent, key) = path.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
            uid(&serde_json::from_value(pod).unwrap(), "n", Path::new("/f"))
        };
        let same = uid(&serde_json::from_value(base.clone()).unwrap(), "n", Path::new("/f"));
        let resources = "/spec/containers/0/resources";
        for (path, value) in [
            ("/metadata/labels", serde_json::json!({"a": "c"})),
            ("/metadata/annotations", serde_json::json!({"x": "y"})),
            ("/spec/containers/0/image", "i:2".into()),
            ("/spec/activeDeadlineSeconds", 5.into()),
            ("/spec/ephemeralContainers", serde_json::json!([{"name": "e", "image": "i"}])),
            (&*format!("{resources}/requests/cpu"), "500m".into()),
            (&*format!("{resources}/limits/memory"), "3Gi".into()),
        ] {
            assert_eq!(changed(path, value), same, "{path}");
        }
        for (path, value) in [
            ("/spec/containers/0/command", serde_json::json!(["x"])),
            (&*format!("{resources}/limits/cpu"), "1".into()),
            // Requests that equal their limits make another class of it.
            (
                resources,
                serde_json::json!({"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": "1", "memory": "2Gi"}}),
            ),
            (&*format!("{resources}/requests/ephemeral-storage"), "1Gi".into()),
        ] {
            assert_ne!(changed(path, value), same, "{path}");
        }
    }
}

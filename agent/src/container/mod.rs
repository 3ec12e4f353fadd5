//! From a container's spec to what the runtime is told. All of it is pure: values in, CRI messages out.

mod config;
pub mod dns;
pub mod env;
mod env_file;
mod error;
pub mod hostname;
pub mod hosts;
pub mod labels;
pub mod logs;
pub mod mounts;
mod namespaces;
mod sandbox;
pub mod security;
pub mod services;
pub mod sysctls;
pub mod users;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

pub use config::{ContainerInputs, container_config};
pub use error::ConfigError;
pub use sandbox::{SandboxInputs, sandbox_config};

/// What an image says of itself, as far as starting a container depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// What the runtime calls it; containers are made from this.
    pub reference: String,
    /// Numeric user.
    pub uid: Option<i64>,
    /// User by name; empty where the image names none.
    pub username: String,
    /// Size in bytes, for the event after a pull.
    pub size: u64,
    /// It was put here by a person: no registry is known to have it.
    pub by_hand: bool,
}

/// The pod shares the node's network.
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Init containers, then regular ones, each in the order of the spec.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| init_containers(spec).iter().chain(&spec.containers))
}

/// Init containers in the order of the spec.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// `<name>_<namespace>(<uid>)`, as messages name a pod.
pub fn pod_name_for_messages(pod: &Pod) -> String {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    format!("{}_{}({})", of(&meta.name), of(&meta.namespace), of(&meta.uid))
}

fn place(pod: &Pod, container: &str) -> String {
    format!("(pod: \"{}\", container: {container})", pod_name_for_messages(pod))
}

#[cfg(test)]
pub(crate) mod testing {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    /// A pod `shop/web` with the uid `u-1` and the given spec; one container `c` where it has none.
    pub(crate) fn pod(mut spec: serde_json::Value) -> Pod {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c", "image": "busybox"}]);
        }
        let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}, "spec": spec});
        serde_json::from_value(pod).expect("a pod")
    }
}

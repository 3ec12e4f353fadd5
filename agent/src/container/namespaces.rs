//! Which namespaces a pod has of its own.

use cri_proto::v1::{NamespaceMode, NamespaceOption};
use k8s_openapi::api::core::v1::Pod;

use super::users::Range;

/// The pod's namespaces, for its sandbox and for each of its containers. `ids` are its own, where it has some.
pub(super) fn namespace_options(pod: &Pod, ids: Option<Range>) -> NamespaceOption {
    let spec = pod.spec.as_ref();
    let set = |field: Option<bool>| field.unwrap_or(false);
    let mode = |on_host: Option<bool>| if set(on_host) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match spec {
        Some(spec) if set(spec.host_pid) => NamespaceMode::Node,
        Some(spec) if set(spec.share_process_namespace) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: mode(spec.and_then(|spec| spec.host_network)) as i32,
        ipc: mode(spec.and_then(|spec| spec.host_ipc)) as i32,
        pid: pid as i32,
        target_id: String::new(),
        userns_options: ids.map(Range::to_cri),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    #[test]
    fn the_host_wins_over_sharing() {
        let modes = |spec| {
            let options = namespace_options(&pod(spec), None);
            (options.network(), options.ipc(), options.pid())
        };
        use NamespaceMode::{Container, Node, Pod};
        assert_eq!(modes(json!({})), (Pod, Pod, Container));
        assert_eq!(modes(json!({"shareProcessNamespace": true})), (Pod, Pod, Pod));
        assert_eq!(modes(json!({"hostNetwork": true, "hostIPC": true, "hostPID": true})), (Node, Node, Node));
    }
}

//! Whose a file is that only the pod should read. Pure.

use k8s_openapi::api::core::v1::PodSpec;

use super::payload::mode;

/// Mode and user of a token or a bundle of certificates. Where it is known who reads it, nobody else may; an fsGroup is
/// given its access afterwards.
pub(super) fn access(default_mode: Option<i32>, spec: Option<&PodSpec>) -> (u32, Option<u32>) {
    let owner = spec.and_then(only_user);
    let group = spec.and_then(|spec| spec.security_context.as_ref()?.fs_group);
    let known = owner.is_some() || group.is_some();
    (if known { 0o600 } else { mode(None, default_mode) }, owner)
}

/// The user of all containers, where all say that they run as the same one.
fn only_user(spec: &PodSpec) -> Option<u32> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let regular = spec.init_containers.iter().flatten().chain(&spec.containers);
    let regular = regular.map(|container| container.security_context.as_ref());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| container.security_context.as_ref());
    let mut users = regular.chain(ephemeral).map(|own| own.and_then(|own| own.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(spec: Value, default_mode: Option<i32>) -> (u32, Option<u32>) {
        access(default_mode, Some(&serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn a_token_is_its_readers_alone_where_they_are_known() {
        let user = |id: u32| json!({"name": "c", "securityContext": {"runAsUser": id}});
        let any = json!({"name": "c"});
        assert_eq!(of(json!({"containers": [any]}), None), (0o644, None));
        assert_eq!(of(json!({"containers": [any]}), Some(0o440)), (0o440, None));
        assert_eq!(of(json!({"containers": [any], "securityContext": {"fsGroup": 5}}), None), (0o600, None));
        assert_eq!(of(json!({"containers": [user(7)], "initContainers": [user(7)]}), None), (0o600, Some(7)));
        assert_eq!(of(json!({"containers": [user(7)], "initContainers": [user(8)]}), None), (0o644, None));
        assert_eq!(of(json!({"containers": [user(7), any]}), None), (0o644, None));
        let of_pod = json!({"containers": [user(7), any], "securityContext": {"runAsUser": 7}});
        assert_eq!(of(of_pod, None), (0o600, Some(7)));
    }
}

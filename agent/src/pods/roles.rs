//! Which part a container plays in its pod, and what its restart policy says.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec};

use crate::container::init_containers;

/// A container's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays.
    Sidecar,
    /// What the pod is for.
    Regular,
}

/// A container and its part.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The container.
    pub container: &'a Container,
    /// Its part.
    pub role: Role,
}

/// Init containers and sidecars in order, then regular ones in order.
pub fn members(pod: &Pod) -> Vec<Member<'_>> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let init = init_containers(spec).iter().map(|container| Member { container, role: init_role(container) });
    init.chain(spec.containers.iter().map(|container| Member { container, role: Role::Regular })).collect()
}

fn init_role(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// The member called `name`.
pub fn member<'a>(pod: &'a Pod, name: &str) -> Option<Member<'a>> {
    members(pod).into_iter().find(|member| member.container.name == name)
}

/// Where events about a container point to.
pub fn field_path(member: &Member<'_>) -> String {
    let name = &member.container.name;
    match member.role {
        Role::Regular => format!("spec.containers{{{name}}}"),
        Role::Init | Role::Sidecar => format!("spec.initContainers{{{name}}}"),
    }
}

/// Whether a container that ended with `code` is started again.
pub fn restarts(spec: &PodSpec, member: &Member<'_>, code: i32, reason: &str) -> bool {
    if member.role == Role::Sidecar {
        return true;
    }
    // A process that was killed for its memory may still report success.
    let failed = code != 0 || reason == "OOMKilled";
    if member.role == Role::Init && !failed {
        return false;
    }
    let Some(own) = member.container.restart_policy.as_deref() else { return pod_policy(spec, member.role, failed) };
    let rules = member.container.restart_policy_rules.as_deref().unwrap_or_default();
    match rules.iter().find(|rule| matches(rule, code)) {
        Some(rule) => rule.action == "Restart",
        None => by_policy(own, failed),
    }
}

/// Whether a container that a probe had killed is started again: rules about exit codes are not asked.
pub fn restarts_after_kill(spec: &PodSpec, member: &Member<'_>) -> bool {
    let policy = member.container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    member.role == Role::Sidecar || policy != Some("Never")
}

fn pod_policy(spec: &PodSpec, role: Role, failed: bool) -> bool {
    match (spec.restart_policy.as_deref().unwrap_or("Always"), role) {
        // An init container that is to run for ever would keep the pod from ever starting.
        ("Always", Role::Init) => failed,
        (policy, _) => by_policy(policy, failed),
    }
}

fn by_policy(policy: &str, failed: bool) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => failed,
        _ => true,
    }
}

fn matches(rule: &ContainerRestartRule, code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
        match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::testing::pod;

    fn again(pod_policy: &str, own: serde_json::Value, code: i32) -> bool {
        let mut container = json!({"name": "c"});
        container.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let pod = pod(json!({"restartPolicy": pod_policy, "containers": [container]}));
        restarts(pod.spec.as_ref().unwrap(), &members(&pod)[0], code, "")
    }

    #[test]
    fn the_containers_own_rules_come_before_its_policy_and_that_before_the_pods() {
        assert!(again("Always", json!({}), 0) && again("OnFailure", json!({}), 1));
        assert!(!again("OnFailure", json!({}), 0) && !again("Never", json!({}), 1));
        assert!(!again("Always", json!({"restartPolicy": "Never"}), 1));
        let rules = json!({"restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
        assert!(again("Never", rules.clone(), 42) && !again("Always", rules, 43));
    }

    #[test]
    fn an_init_container_that_succeeded_is_not_started_again() {
        let pod = pod(
            json!({"restartPolicy": "Always", "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}),
        );
        let (spec, members) = (pod.spec.as_ref().unwrap(), members(&pod));
        assert!(!restarts(spec, &members[0], 0, "") && restarts(spec, &members[0], 0, "OOMKilled"));
        assert!(restarts(spec, &members[1], 0, ""));
    }
}

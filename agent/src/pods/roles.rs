//! Which part a container plays in its pod, and what its restart policy says.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};

use crate::container::{all_containers, init_containers};

/// A container's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays.
    Sidecar,
    /// What the pod is for.
    Regular,
    /// Added to a running pod by a person who looks for something: started once, and nothing depends on it.
    Ephemeral,
}

impl Role {
    /// It belongs to the pod's initialisation.
    pub fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// A container and its part.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// The container; an ephemeral one in the words of the others.
    pub container: Cow<'a, Container>,
    /// Its part.
    pub role: Role,
    /// The container whose processes an ephemeral one sees.
    pub target: Option<&'a str>,
}

/// Init containers and sidecars in order, regular ones in order, then ephemeral ones.
pub fn members(pod: &Pod) -> Vec<Member<'_>> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let plain = |container, role| Member { container: Cow::Borrowed(container), role, target: None };
    let init = init_containers(spec).iter().map(|container| plain(container, init_role(container)));
    let regular = spec.containers.iter().map(|container| plain(container, Role::Regular));
    init.chain(regular).chain(spec.ephemeral_containers.iter().flatten().map(ephemeral)).collect()
}

fn ephemeral(own: &EphemeralContainer) -> Member<'_> {
    let target = own.target_container_name.as_deref().filter(|name| !name.is_empty());
    Member { container: Cow::Owned(as_container(own)), role: Role::Ephemeral, target }
}

/// The same container without what only ephemeral ones have. What they may not have is not copied.
pub fn as_container(own: &EphemeralContainer) -> Container {
    let own = own.clone();
    Container {
        name: own.name,
        image: own.image,
        command: own.command,
        args: own.args,
        working_dir: own.working_dir,
        env: own.env,
        env_from: own.env_from,
        volume_mounts: own.volume_mounts,
        volume_devices: own.volume_devices,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        image_pull_policy: own.image_pull_policy,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        tty: own.tty,
        ..Container::default()
    }
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
        Role::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// Whether a container that ended with `code` is started again.
pub fn restarts(spec: &PodSpec, member: &Member<'_>, code: i32, reason: &str) -> bool {
    match member.role {
        Role::Sidecar => return true,
        Role::Ephemeral => return false,
        Role::Init | Role::Regular => {}
    }
    // A process that was killed for its memory may still report success.
    let failed = code != 0 || reason == "OOMKilled";
    if member.role == Role::Init && !failed {
        return false;
    }
    let Some(own) = member.container.restart_policy.as_deref() else { return pod_policy(spec, member.role, failed) };
    match rule(&member.container, code) {
        Some(rule) => rule.action == "Restart" || rule.action == RESTART_ALL,
        None => by_policy(own, failed),
    }
}

/// The action of a rule that starts the whole pod's containers afresh.
const RESTART_ALL: &str = "RestartAllContainers";

/// The first of a container's rules that is about this exit code.
fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy.as_ref()?;
    container.restart_policy_rules.iter().flatten().find(|rule| matches(rule, code))
}

/// A container that ended with `code` takes all others of its pod with it.
pub fn restarts_all(member: &Member<'_>, code: i32) -> bool {
    member.role != Role::Ephemeral && rule(&member.container, code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Some container may restart all others.
pub fn may_restart_all(pod: &Pod) -> bool {
    let rules = all_containers(pod).flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules.into_iter().any(|rule| rule.action == RESTART_ALL)
}

/// Whether a container that a probe had killed is started again: rules about exit codes are not asked.
pub fn restarts_after_kill(spec: &PodSpec, member: &Member<'_>) -> bool {
    let policy = member.container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    member.role == Role::Sidecar || (member.role != Role::Ephemeral && policy != Some("Never"))
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

use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::Env;
use super::users::Range;
use super::{ConfigError, ImageFacts, labels, logs, security};
use crate::expand::expand;

/// What a container is made from.
pub struct ContainerInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Its image, which is on this node.
    pub image: &'a ImageFacts,
    /// Which instance this is.
    pub restarts: u32,
    /// Its variables.
    pub env: &'a Env,
    /// Its mounts, see [`super::mounts::mounts`].
    pub mounts: Vec<v1::Mount>,
    /// What it may use.
    pub resources: v1::LinuxContainerResources,
    /// Where localhost seccomp profiles are.
    pub seccomp_profiles: &'a Path,
    /// The ids of the pod's user namespace, where it has one.
    pub ids: Option<Range>,
}

/// The container as the runtime is told to make it.
///
/// # Errors
/// See [`security::container_security`].
pub fn container_config(inputs: ContainerInputs<'_>) -> Result<v1::ContainerConfig, ConfigError> {
    let ContainerInputs { pod, container, image, restarts, env, .. } = inputs;
    let expanded = |words: &Option<Vec<String>>| {
        words.iter().flatten().map(|word| expand(word, |name| env.text(name))).collect::<Vec<_>>()
    };
    let security = security::container_security(pod, container, image, inputs.seccomp_profiles, inputs.ids)?;
    let mut mounts = inputs.mounts;
    if let Some(ids) = inputs.ids {
        for mount in &mut mounts {
            mount.uid_mappings = vec![ids.mapping()];
            mount.gid_mappings = vec![ids.mapping()];
        }
    }
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: restarts }),
        image: Some(v1::ImageSpec {
            image: image.reference.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: env.iter().map(|(key, value)| v1::KeyValue { key: key.to_owned(), value: value.to_vec() }).collect(),
        mounts,
        labels: labels::container_labels(pod, &container.name).into_iter().collect(),
        annotations: labels::container_annotations(pod, container, restarts).into_iter().collect(),
        log_path: logs::relative(&container.name, restarts),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig { resources: Some(inputs.resources), security_context: Some(security) }),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::env::{EnvInputs, env};
    use super::*;
    use crate::fields::Allocatable;
    use crate::sources::Objects;

    #[test]
    fn command_arguments_and_names_are_as_the_manifest_says() {
        let pod = super::super::testing::pod(json!({"enableServiceLinks": false, "containers": [{
            "name": "c", "image": "busybox:1", "command": ["sh", "-c"], "args": ["echo $(GREETING) $$(GREETING) $(NONE)"],
            "workingDir": "/srv", "tty": true, "stdin": true,
            "env": [{"name": "GREETING", "value": "hello"}]}]}));
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let env = env(&EnvInputs {
            pod: &pod,
            container,
            objects: &Objects::default(),
            allocatable: &Allocatable::default(),
            pod_ips: &[],
            host_ips: &[],
            files: &super::super::env::EnvFiles::new(),
        })
        .unwrap();
        let image = ImageFacts { reference: "sha256:1".into(), ..ImageFacts::default() };
        let config = container_config(ContainerInputs {
            pod: &pod,
            container,
            image: &image,
            restarts: 3,
            env: &env,
            mounts: Vec::new(),
            resources: v1::LinuxContainerResources::default(),
            seccomp_profiles: Path::new("/seccomp"),
            ids: None,
        })
        .unwrap();
        let envs: Vec<_> =
            config.envs.iter().map(|e| format!("{}={}", e.key, String::from_utf8_lossy(&e.value))).collect();
        let image = config.image.unwrap();
        let mut notes: Vec<_> = config.annotations.iter().filter(|(key, _)| !key.ends_with(".hash")).collect();
        notes.sort();
        expect![[r#"
            Some(ContainerMetadata { name: "c", attempt: 3 }) sha256:1 busybox:1
            ["sh", "-c"] ["echo hello $(GREETING) $(NONE)"] /srv
            ["GREETING=hello"] c/3.log stdin=true once=false tty=true
            [("io.kubernetes.container.restartCount", "3"), ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"), ("io.kubernetes.container.terminationMessagePolicy", "File")]
        "#]]
        .assert_eq(&format!(
            "{:?} {} {}\n{:?} {:?} {}\n{envs:?} {} stdin={} once={} tty={}\n{notes:?}\n",
            config.metadata,
            image.image,
            image.user_specified_image,
            config.command,
            config.args,
            config.working_dir,
            config.log_path,
            config.stdin,
            config.stdin_once,
            config.tty,
        ));
    }
}

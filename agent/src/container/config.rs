use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::Env;
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
    let security = security::container_security(pod, container, image, inputs.seccomp_profiles)?;
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
        mounts: inputs.mounts,
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

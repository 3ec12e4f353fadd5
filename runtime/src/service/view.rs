//! What we know, in CRI's words.

use cri_proto::v1;

use crate::container::Container;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::state::records::{ContainerPhase, ContainerRecord, SandboxPhase, SandboxRecord};

pub(super) fn sandbox_state(phase: SandboxPhase) -> v1::PodSandboxState {
    match phase {
        SandboxPhase::Ready => v1::PodSandboxState::SandboxReady,
        SandboxPhase::Creating | SandboxPhase::Stopping | SandboxPhase::Stopped => v1::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn container_state(phase: &ContainerPhase) -> v1::ContainerState {
    match phase {
        ContainerPhase::Creating | ContainerPhase::Created => v1::ContainerState::ContainerCreated,
        ContainerPhase::Running(_) => v1::ContainerState::ContainerRunning,
        ContainerPhase::Exited(_) => v1::ContainerState::ContainerExited,
    }
}

pub(super) fn sandbox_entry(sandbox: &Sandbox) -> v1::PodSandbox {
    let record = sandbox.record();
    v1::PodSandbox {
        id: sandbox.id.to_string(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(record.phase).into(),
        created_at: record.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.runtime_handler,
    }
}

/// The status of a sandbox as events and `PodSandboxStatus` carry it.
pub(crate) fn sandbox_status(sandbox: &Sandbox) -> v1::PodSandboxStatus {
    let record = sandbox.record();
    v1::PodSandboxStatus {
        id: sandbox.id.to_string(),
        metadata: sandbox.config.metadata.clone(),
        state: sandbox_state(record.phase).into(),
        created_at: record.created_at,
        network: Some(network_status(&record)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace { options: Some(sandbox.namespace_options()) }),
        }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: record.runtime_handler,
    }
}

/// A pod on the node's network has no address of its own: CRI leaves it empty.
fn network_status(record: &SandboxRecord) -> v1::PodSandboxNetworkStatus {
    let mut addresses = record.addresses.iter().map(ToString::to_string);
    v1::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
    }
}

pub(super) fn container_entry(container: &Container) -> v1::Container {
    let (record, config) = (container.record(), container.config());
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.sandbox.to_string(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        state: container_state(&record.phase).into(),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: record.image_id,
    }
}

/// Where a container's log is; empty when it writes none.
pub(crate) fn log_path(sandbox: &v1::PodSandboxConfig, container: &v1::ContainerConfig) -> String {
    match (sandbox.log_directory.as_str(), container.log_path.as_str()) {
        ("", _) | (_, "") => String::new(),
        (directory, path) => format!("{}/{path}", directory.trim_end_matches('/')),
    }
}

/// The status of a container as events and `ContainerStatus` carry it.
pub(crate) fn container_status(sandbox: &Sandbox, container: &Container) -> v1::ContainerStatus {
    let (record, config) = (container.record(), container.config());
    let times = Times::of(&record);
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.clone());
    v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: config.metadata.clone(),
        state: container_state(&record.phase).into(),
        created_at: record.created_at,
        started_at: times.started_at,
        finished_at: times.finished_at,
        exit_code: times.exit_code,
        image: config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: times.reason,
        message: times.message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: log_path(&sandbox.config, &config),
        resources: resources.map(|linux| v1::ContainerResources { linux: Some(linux), windows: None }),
        image_id: record.image_id.clone(),
        user: Some(user(&record)),
        stop_signal: signals::to_cri(record.stop_signal).into(),
    }
}

fn user(record: &ContainerRecord) -> v1::ContainerUser {
    let user = &record.user;
    let groups = user.groups.iter().map(|group| i64::from(*group)).collect();
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser { uid: user.uid.into(), gid: user.gid.into(), supplemental_groups: groups }),
    }
}

/// What a phase says about time and end; zero and empty where it says nothing.
#[derive(Default)]
struct Times {
    started_at: i64,
    finished_at: i64,
    exit_code: i32,
    reason: String,
    message: String,
}

impl Times {
    fn of(record: &ContainerRecord) -> Self {
        match &record.phase {
            ContainerPhase::Creating | ContainerPhase::Created => Self::default(),
            ContainerPhase::Running(running) => Self { started_at: running.started_at, ..Self::default() },
            ContainerPhase::Exited(exited) => Self {
                started_at: exited.started_at,
                finished_at: exited.finished_at,
                exit_code: exited.code,
                reason: exited.reason.as_str().to_owned(),
                message: exited.message.clone(),
            },
        }
    }
}

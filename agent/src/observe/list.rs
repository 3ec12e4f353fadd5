use std::collections::BTreeMap;
use std::time::Duration;

use cri_proto::{Deadline, Kind, Runtime, RuntimeError, v1};
use futures::future::try_join_all;
use jiff::Timestamp;

use super::{Container, Observed, Sandbox, State, User};
use crate::container::labels;
use crate::names::{ObjectName, PodUid};

/// How many instances of one name are looked at: the newest gives the state, the one before it the last state.
const EXAMINED: usize = 2;

/// The runtime could not say what it has.
#[derive(Clone, Debug, thiserror::Error)]
#[error("asking the runtime what it has of pod {pod}")]
pub struct ObserveError {
    /// The pod's uid, or `*` for all.
    pub pod: String,
    /// The call that failed.
    pub source: RuntimeError,
}

/// One pod, as the runtime shows it now.
///
/// # Errors
/// Any call that fails, except for what vanished between two calls.
pub async fn pod(runtime: &dyn Runtime, uid: &PodUid, limit: Duration) -> Result<Observed, ObserveError> {
    let selector = BTreeMap::from([(labels::POD_UID.to_owned(), uid.as_str().to_owned())]);
    let failed = |source| ObserveError { pod: uid.to_string(), source };
    let listed = list(runtime, selector, limit).await.map_err(failed)?;
    detail(runtime, listed, limit).await.map_err(failed)
}

/// All pods, by the uid in their labels. What carries no uid that could be ours is left alone.
///
/// # Errors
/// Any call that fails, except for what vanished between two calls.
pub async fn everything(runtime: &dyn Runtime, limit: Duration) -> Result<BTreeMap<PodUid, Observed>, ObserveError> {
    let failed = |source| ObserveError { pod: "*".to_owned(), source };
    let listed = list(runtime, BTreeMap::new(), limit).await.map_err(failed)?;
    let mut pods = BTreeMap::new();
    for (uid, listed) in by_pod(listed) {
        pods.insert(uid, detail(runtime, listed, limit).await.map_err(failed)?);
    }
    Ok(pods)
}

#[derive(Default)]
struct Listed {
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
}

async fn list(
    runtime: &dyn Runtime,
    label_selector: BTreeMap<String, String>,
    limit: Duration,
) -> Result<Listed, RuntimeError> {
    let by = Deadline::within(limit);
    let label_selector: std::collections::HashMap<_, _> = label_selector.into_iter().collect();
    let sandboxes = v1::ListPodSandboxRequest {
        filter: Some(v1::PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() }),
    };
    let containers =
        v1::ListContainersRequest { filter: Some(v1::ContainerFilter { label_selector, ..Default::default() }) };
    // Sandboxes first: a container that is listed then has a sandbox that is listed.
    let sandboxes = runtime.list_pod_sandbox(sandboxes, by).await?.items;
    let containers = runtime.list_containers(containers, by).await?.containers;
    Ok(Listed { sandboxes, containers })
}

fn by_pod(listed: Listed) -> BTreeMap<PodUid, Listed> {
    let mut pods: BTreeMap<PodUid, Listed> = BTreeMap::new();
    let uid = |labels: &std::collections::HashMap<String, String>| {
        PodUid::try_from(labels.get(labels::POD_UID)?.clone()).ok()
    };
    for sandbox in listed.sandboxes {
        if let Some(uid) = uid(&sandbox.labels) {
            pods.entry(uid).or_default().sandboxes.push(sandbox);
        }
    }
    for container in listed.containers {
        if let Some(uid) = uid(&container.labels) {
            pods.entry(uid).or_default().containers.push(container);
        }
    }
    pods
}

async fn detail(runtime: &dyn Runtime, listed: Listed, limit: Duration) -> Result<Observed, RuntimeError> {
    let by = Deadline::within(limit);
    let sandboxes = try_join_all(listed.sandboxes.into_iter().map(|sandbox| one_sandbox(runtime, sandbox, by))).await?;
    let examined = examined(listed.containers);
    let containers = try_join_all(examined.into_iter().map(|container| one_container(runtime, container, by))).await?;
    let containers = containers.into_iter().flatten().collect();
    Ok(Observed { sandboxes: sandboxes.into_iter().flatten().collect(), containers }.sorted())
}

/// Dead instances beyond the second newest only matter for being removed: their details are never asked for, but they
/// are listed so that somebody removes them.
fn examined(mut containers: Vec<v1::Container>) -> Vec<(v1::Container, bool)> {
    containers
        .sort_by(|a, b| (name_of(a), attempt_of(b), b.created_at).cmp(&(name_of(b), attempt_of(a), a.created_at)));
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut out = Vec::with_capacity(containers.len());
    for container in containers {
        let count = seen.entry(name_of(&container).to_owned()).or_default();
        *count += 1;
        let dead = container.state == v1::ContainerState::ContainerExited as i32;
        let ask = *count <= EXAMINED || !dead;
        out.push((container, ask));
    }
    out
}

fn name_of(container: &v1::Container) -> &str {
    let label = container.labels.get(labels::CONTAINER_NAME).map(String::as_str);
    label.or_else(|| container.metadata.as_ref().map(|meta| meta.name.as_str())).unwrap_or_default()
}

fn attempt_of(container: &v1::Container) -> u32 {
    let noted = container.annotations.get(labels::RESTART_COUNT).and_then(|count| count.parse().ok());
    noted.or_else(|| container.metadata.as_ref().map(|meta| meta.attempt)).unwrap_or_default()
}

async fn one_sandbox(
    runtime: &dyn Runtime,
    sandbox: v1::PodSandbox,
    by: Deadline,
) -> Result<Option<Sandbox>, RuntimeError> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
    match runtime.pod_sandbox_status(request, by).await {
        Ok(answer) => Ok(answer.status.map(sandbox_of)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn sandbox_of(status: v1::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    let mode = status
        .linux
        .and_then(|linux| linux.namespaces)
        .and_then(|namespaces| namespaces.options)
        .map_or(v1::NamespaceMode::Pod as i32, |options| options.network);
    let meta = status.metadata.clone().unwrap_or_default();
    Sandbox {
        pod: ObjectName::new(meta.namespace, meta.name),
        attempt: status.metadata.as_ref().map_or(0, |meta| meta.attempt),
        created: time(status.created_at),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        host_network: mode == v1::NamespaceMode::Node as i32,
        id: status.id,
    }
}

async fn one_container(
    runtime: &dyn Runtime,
    (listed, ask): (v1::Container, bool),
    by: Deadline,
) -> Result<Option<Container>, RuntimeError> {
    if !ask {
        return Ok(Some(container_of(listed, v1::ContainerStatus::default())));
    }
    let request = v1::ContainerStatusRequest { container_id: listed.id.clone(), verbose: false };
    match runtime.container_status(request, by).await {
        Ok(answer) => Ok(answer.status.map(|status| container_of(listed, status))),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn container_of(listed: v1::Container, status: v1::ContainerStatus) -> Container {
    let name = name_of(&listed).to_owned();
    let attempt = attempt_of(&listed);
    let path = listed.annotations.get(labels::MESSAGE_PATH);
    let mount = path.and_then(|path| status.mounts.iter().find(|mount| &mount.container_path == path));
    let hash = listed.annotations.get(labels::HASH).and_then(|hash| u32::from_str_radix(hash, 16).ok());
    let user = status.user.as_ref().and_then(|user| user.linux.as_ref());
    let image = status.image.as_ref().or(listed.image.as_ref());
    Container {
        name,
        attempt,
        hash,
        created: time(listed.created_at),
        image: image.map(shown_image).unwrap_or_default(),
        image_ref: if status.image_ref.is_empty() { listed.image_ref.clone() } else { status.image_ref.clone() },
        message_file: mount.map(|mount| mount.host_path.clone()),
        user: user.map(|user| User { uid: user.uid, gid: user.gid, groups: user.supplemental_groups.clone() }),
        state: state_of(&listed, &status),
        sandbox: listed.pod_sandbox_id,
        id: listed.id,
    }
}

/// What the user wrote where the runtime kept it: the image itself may be a bare id.
fn shown_image(image: &v1::ImageSpec) -> String {
    let written = &image.user_specified_image;
    if written.is_empty() { image.image.clone() } else { written.clone() }
}

fn state_of(listed: &v1::Container, status: &v1::ContainerStatus) -> State {
    let state = if status.id.is_empty() { listed.state } else { status.state };
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running { started: time(status.started_at) },
        Ok(v1::ContainerState::ContainerExited) => State::Exited {
            started: (status.started_at > 0).then(|| time(status.started_at)),
            finished: time(status.finished_at),
            code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        Ok(v1::ContainerState::ContainerUnknown) | Err(_) => State::Unknown,
    }
}

/// CRI times are nanoseconds; what is out of range is the epoch.
fn time(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

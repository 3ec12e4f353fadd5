use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use cri_proto::{Answer, Deadline, Kind, Listing, Runtime, RuntimeError, v1};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast, watch};

/// A runtime in memory: it has ids, states and times, refuses what a runtime refuses, and ends containers on command.
pub(crate) struct FakeRuntime {
    state: Mutex<State>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
    ended: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, (String, v1::ContainerStatus)>,
    calls: Vec<String>,
    /// Containers that ignore SIGTERM.
    stubborn: BTreeSet<String>,
    /// Calls that fail, by `Call` or `Call name`: how often still, and how.
    failing: HashMap<String, (usize, RuntimeError)>,
    /// Images that are not there.
    missing: BTreeSet<String>,
    /// Images that no registry is known to have.
    by_hand: BTreeSet<String>,
    /// Calls that hang until let go, by `Call name`.
    hanging: BTreeSet<String>,
    exec: HashMap<String, i32>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            events: broadcast::channel(1_000).0,
            ended: Notify::new(),
            changed: watch::Sender::new(0),
        }
    }
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).expect("a time in this century")
}

fn not_found(call: &'static str) -> RuntimeError {
    RuntimeError::new(call, Kind::NotFound, "there is no such thing")
}

impl FakeRuntime {
    /// `Call name` of every call that changes something.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|made| *made == call).count()
    }

    /// The process of the newest running instance ends.
    pub(crate) fn exit(&self, name: &str, code: i32) {
        let id = self.running(name).unwrap_or_else(|| panic!("{name} does not run: {:#?}", self.calls()));
        self.end(&id, code);
    }

    /// The id of the running instance.
    pub(crate) fn running(&self, name: &str) -> Option<String> {
        let running = v1::ContainerState::ContainerRunning as i32;
        let state = self.state.lock().unwrap();
        let mut found = state.containers.values().filter(|(_, c)| c.state == running && name_of(c) == name);
        let id = found.next().map(|(_, container)| container.id.clone());
        assert!(found.next().is_none(), "two instances of {name} run at once");
        id
    }

    pub(crate) fn ignores_sigterm(&self, name: &str) {
        self.state.lock().unwrap().stubborn.insert(name.to_owned());
    }

    pub(crate) fn fail(&self, call: &str, times: usize, error: RuntimeError) {
        self.state.lock().unwrap().failing.insert(call.to_owned(), (times, error));
    }

    pub(crate) fn lose_image(&self, image: &str) {
        self.state.lock().unwrap().missing.insert(image.to_owned());
    }

    pub(crate) fn import_image(&self, image: &str) {
        self.state.lock().unwrap().by_hand.insert(image.to_owned());
    }

    pub(crate) fn hang(&self, call: &str) {
        self.state.lock().unwrap().hanging.insert(call.to_owned());
    }

    pub(crate) fn let_go(&self, call: &str) {
        self.state.lock().unwrap().hanging.remove(call);
        self.ended.notify_waiters();
    }

    /// What an exec of this command answers; 0 for all others.
    pub(crate) fn exec_answers(&self, command: &str, code: i32) {
        self.state.lock().unwrap().exec.insert(command.to_owned(), code);
    }

    /// The sandbox's process died, and everything in it.
    pub(crate) fn lose_sandbox(&self) {
        let running: Vec<_> = {
            let mut state = self.state.lock().unwrap();
            for sandbox in state.sandboxes.values_mut() {
                sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
            }
            state.containers.keys().cloned().collect()
        };
        running.iter().for_each(|id| self.end(id, 137));
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    /// Waits until the runtime is like that.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(20), changes.wait_for(|_| holds(self))).await;
        assert!(seen.is_ok(), "never {what}: {:#?}", self.calls());
    }

    fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn end(&self, id: &str, code: i32) {
        {
            let mut state = self.state.lock().unwrap();
            let Some((_, container)) = state.containers.get_mut(id) else { return };
            if container.state != v1::ContainerState::ContainerRunning as i32 {
                return;
            }
            container.state = v1::ContainerState::ContainerExited as i32;
            container.exit_code = code;
            container.finished_at = now();
            container.reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        }
        self.tell(id);
        self.ended.notify_waiters();
    }

    fn tell(&self, id: &str) {
        self.change();
        let state = self.state.lock().unwrap();
        let sandbox = state.containers.get(id).and_then(|(sandbox, _)| state.sandboxes.get(sandbox)).cloned();
        let event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            pod_sandbox_status: sandbox,
            ..Default::default()
        };
        let _ = self.events.send(event);
    }

    /// Notes a call, and fails it where the test wants that.
    async fn called(&self, call: &'static str, name: &str) -> Result<(), RuntimeError> {
        let full = format!("{call} {name}");
        self.state.lock().unwrap().calls.push(full.clone());
        self.change();
        loop {
            let woken = self.ended.notified();
            if !self.state.lock().unwrap().hanging.contains(&full) {
                break;
            }
            woken.await;
        }
        let mut state = self.state.lock().unwrap();
        match state.failing.get_mut(&full) {
            Some((left, error)) if *left > 0 => {
                *left -= 1;
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }

    fn name(&self, id: &str) -> String {
        let state = self.state.lock().unwrap();
        state.containers.get(id).map(|(_, container)| name_of(container).to_owned()).unwrap_or_default()
    }
}

fn name_of(container: &v1::ContainerStatus) -> &str {
    container.metadata.as_ref().map(|meta| meta.name.as_str()).unwrap_or_default()
}

fn matches(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self, _: v1::VersionRequest, _: Deadline) -> Answer<v1::VersionResponse> {
        let version = cri_proto::KUBELET_API_VERSION.to_owned();
        Ok(v1::VersionResponse { version, runtime_name: "fake".into(), ..Default::default() })
    }

    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
        _: Deadline,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let config = request.config.unwrap_or_default();
        let meta = config.metadata.clone().unwrap_or_default();
        self.called("RunPodSandbox", &meta.name).await?;
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let id = format!("sandbox-{}", state.next);
        let options =
            config.linux.and_then(|linux| linux.security_context).and_then(|context| context.namespace_options);
        let sandbox = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(meta),
            state: v1::PodSandboxState::SandboxReady as i32,
            created_at: now(),
            network: Some(v1::PodSandboxNetworkStatus {
                ip: format!("10.88.0.{}", state.next + 1),
                ..Default::default()
            }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), sandbox);
        Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
        _: Deadline,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.called("StopPodSandbox", "").await?;
        let mut state = self.state.lock().unwrap();
        let sandbox = state.sandboxes.get_mut(&request.pod_sandbox_id).ok_or_else(|| not_found("StopPodSandbox"))?;
        sandbox.state = v1::PodSandboxState::SandboxNotready as i32;
        Ok(v1::StopPodSandboxResponse::default())
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
        _: Deadline,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.called("RemovePodSandbox", "").await?;
        let mut state = self.state.lock().unwrap();
        state.containers.retain(|_, (sandbox, _)| *sandbox != request.pod_sandbox_id);
        state.sandboxes.remove(&request.pod_sandbox_id);
        drop(state);
        self.change();
        Ok(v1::RemovePodSandboxResponse::default())
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
        _: Deadline,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let state = self.state.lock().unwrap();
        let status = state.sandboxes.get(&request.pod_sandbox_id).cloned();
        let status = Some(status.ok_or_else(|| not_found("PodSandboxStatus"))?);
        Ok(v1::PodSandboxStatusResponse { status, ..Default::default() })
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
        _: Deadline,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let selector = request.filter.unwrap_or_default().label_selector;
        let state = self.state.lock().unwrap();
        let found = state.sandboxes.values().filter(|sandbox| matches(&sandbox.labels, &selector));
        let items = found.map(|sandbox| v1::PodSandbox {
            id: sandbox.id.clone(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels.clone(),
            ..Default::default()
        });
        Ok(v1::ListPodSandboxResponse { items: items.collect() })
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
        _: Deadline,
    ) -> Answer<v1::CreateContainerResponse> {
        let config = request.config.unwrap_or_default();
        let meta = config.metadata.clone().unwrap_or_default();
        self.called("CreateContainer", &meta.name).await?;
        let mut state = self.state.lock().unwrap();
        let taken = |(sandbox, other): &(String, v1::ContainerStatus)| {
            *sandbox == request.pod_sandbox_id && other.metadata.as_ref() == Some(&meta)
        };
        if state.containers.values().any(taken) {
            return Err(RuntimeError::new("CreateContainer", Kind::AlreadyExists, "the name is taken"));
        }
        state.next += 1;
        let id = format!("{}-{}", meta.name, state.next);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(meta),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: now(),
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: config.log_path,
            ..Default::default()
        };
        state.containers.insert(id.clone(), (request.pod_sandbox_id, status));
        Ok(v1::CreateContainerResponse { container_id: id })
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
        _: Deadline,
    ) -> Answer<v1::StartContainerResponse> {
        self.called("StartContainer", &self.name(&request.container_id)).await?;
        {
            let mut state = self.state.lock().unwrap();
            let found = state.containers.get_mut(&request.container_id).ok_or_else(|| not_found("StartContainer"))?;
            found.1.state = v1::ContainerState::ContainerRunning as i32;
            found.1.started_at = now();
        }
        self.tell(&request.container_id);
        Ok(v1::StartContainerResponse::default())
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
        _: Deadline,
    ) -> Answer<v1::StopContainerResponse> {
        let name = self.name(&request.container_id);
        self.called("StopContainer", &name).await?;
        let stubborn = self.state.lock().unwrap().stubborn.contains(&name);
        if stubborn {
            tokio::time::sleep(Duration::from_secs(request.timeout.unsigned_abs())).await;
        }
        self.end(&request.container_id, if stubborn { 137 } else { 143 });
        Ok(v1::StopContainerResponse::default())
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
        _: Deadline,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.called("RemoveContainer", &self.name(&request.container_id)).await?;
        self.state.lock().unwrap().containers.remove(&request.container_id);
        self.change();
        Ok(v1::RemoveContainerResponse::default())
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
        _: Deadline,
    ) -> Answer<v1::ListContainersResponse> {
        let selector = request.filter.unwrap_or_default().label_selector;
        let state = self.state.lock().unwrap();
        let found = state.containers.values().filter(|(_, container)| matches(&container.labels, &selector));
        let containers = found.map(|(sandbox, container)| v1::Container {
            id: container.id.clone(),
            pod_sandbox_id: sandbox.clone(),
            metadata: container.metadata.clone(),
            image: container.image.clone(),
            state: container.state,
            created_at: container.created_at,
            labels: container.labels.clone(),
            annotations: container.annotations.clone(),
            ..Default::default()
        });
        Ok(v1::ListContainersResponse { containers: containers.collect() })
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
        _: Deadline,
    ) -> Answer<v1::ContainerStatusResponse> {
        let state = self.state.lock().unwrap();
        let found = state.containers.get(&request.container_id).ok_or_else(|| not_found("ContainerStatus"))?;
        Ok(v1::ContainerStatusResponse { status: Some(found.1.clone()), ..Default::default() })
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
        _: Deadline,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let linux = request.linux.unwrap_or_default();
        let what = match linux.memory_limit_in_bytes {
            0 => format!("quota {}", linux.cpu_quota),
            memory => format!("memory {memory}"),
        };
        self.called("UpdateContainerResources", &format!("{} {what}", self.name(&request.container_id))).await?;
        Ok(v1::UpdateContainerResourcesResponse::default())
    }

    /// Every container uses a mebibyte.
    async fn container_stats(&self, _: v1::ContainerStatsRequest, _: Deadline) -> Answer<v1::ContainerStatsResponse> {
        let usage_bytes = Some(v1::UInt64Value { value: 1 << 20 });
        let memory = Some(v1::MemoryUsage { usage_bytes, ..Default::default() });
        Ok(v1::ContainerStatsResponse { stats: Some(v1::ContainerStats { memory, ..Default::default() }) })
    }

    async fn pod_sandbox_stats(
        &self,
        _: v1::PodSandboxStatsRequest,
        _: Deadline,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let usage_bytes = Some(v1::UInt64Value { value: 1 << 20 });
        let memory = Some(v1::MemoryUsage { usage_bytes, ..Default::default() });
        let linux = Some(v1::LinuxPodSandboxStats { memory, ..Default::default() });
        Ok(v1::PodSandboxStatsResponse { stats: Some(v1::PodSandboxStats { linux, ..Default::default() }) })
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest, _: Deadline) -> Answer<v1::ExecSyncResponse> {
        let command = request.cmd.join(" ");
        self.called("ExecSync", &command).await?;
        let exit_code = self.state.lock().unwrap().exec.get(&command).copied().unwrap_or(0);
        Ok(v1::ExecSyncResponse { exit_code, ..Default::default() })
    }

    async fn get_container_events(
        &self,
        _: v1::GetEventsRequest,
        _: Deadline,
    ) -> Answer<Listing<v1::ContainerEventResponse>> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.events.subscribe());
        Ok(events.filter_map(async |event| event.ok().map(Ok)).boxed())
    }

    async fn image_status(&self, request: v1::ImageStatusRequest, _: Deadline) -> Answer<v1::ImageStatusResponse> {
        let image = request.image.unwrap_or_default().image;
        let state = self.state.lock().unwrap();
        let missing = state.missing.contains(&image);
        let from_registry = !state.by_hand.contains(&image);
        let repo_digests = from_registry.then(|| "registry.example/busybox@sha256:00".to_owned()).into_iter().collect();
        let found = v1::Image { id: format!("sha256:{image}"), repo_digests, size: 7, ..Default::default() };
        Ok(v1::ImageStatusResponse { image: (!missing).then_some(found), ..Default::default() })
    }

    async fn pull_image(&self, request: v1::PullImageRequest, _: Deadline) -> Answer<v1::PullImageResponse> {
        let image = request.image.unwrap_or_default().image;
        self.called("PullImage", &image).await?;
        self.state.lock().unwrap().missing.remove(&image);
        Ok(v1::PullImageResponse { image_ref: image })
    }
}

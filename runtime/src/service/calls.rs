//! Every CRI call of the embedded runtime, in the order of the CRI; what is not listed is refused by the trait.

use cri_proto::{Answer, Deadline, Kind, Listing, Runtime, RuntimeError, v1};
use futures::StreamExt;

use crate::Embedded;

/// Items of a streamed list in one message: a few hundred kilobytes with long annotations.
const PER_MESSAGE: usize = 100;

fn in_pieces<T: Send + 'static, M: Send + 'static>(items: Vec<T>, message: fn(Vec<T>) -> M) -> Listing<M> {
    let mut items = items.into_iter();
    let pieces = std::iter::from_fn(move || {
        let piece: Vec<T> = items.by_ref().take(PER_MESSAGE).collect();
        (!piece.is_empty()).then(|| Ok(message(piece)))
    });
    futures::stream::iter(pieces).boxed()
}

/// Calls answered by a method of `Embedded` with an error of ours.
macro_rules! answer {
    ($name:literal, $by:ident, $work:expr) => {
        $by.hold($name, async { $work.await.map_err(|error| error.answer($name)) }).await
    };
}

#[async_trait::async_trait]
impl Runtime for Embedded {
    async fn version(&self, _: v1::VersionRequest, _: Deadline) -> Answer<v1::VersionResponse> {
        Ok(super::status::version())
    }

    async fn status(&self, request: v1::StatusRequest, _: Deadline) -> Answer<v1::StatusResponse> {
        Ok(self.say_status(request.verbose))
    }

    async fn runtime_config(&self, _: v1::RuntimeConfigRequest, _: Deadline) -> Answer<v1::RuntimeConfigResponse> {
        Ok(super::status::runtime_config())
    }

    async fn update_runtime_config(
        &self,
        request: v1::UpdateRuntimeConfigRequest,
        _: Deadline,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        self.check_runtime_config(&request).map_err(|error| error.answer("UpdateRuntimeConfig"))
    }

    async fn run_pod_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
        by: Deadline,
    ) -> Answer<v1::RunPodSandboxResponse> {
        answer!("RunPodSandbox", by, self.run_sandbox(request))
    }

    async fn stop_pod_sandbox(
        &self,
        request: v1::StopPodSandboxRequest,
        by: Deadline,
    ) -> Answer<v1::StopPodSandboxResponse> {
        answer!("StopPodSandbox", by, self.stop_sandbox(request.pod_sandbox_id))
    }

    async fn remove_pod_sandbox(
        &self,
        request: v1::RemovePodSandboxRequest,
        by: Deadline,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        answer!("RemovePodSandbox", by, self.remove_sandbox(request.pod_sandbox_id))
    }

    async fn pod_sandbox_status(
        &self,
        request: v1::PodSandboxStatusRequest,
        _: Deadline,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        self.sandbox_status(&request).map_err(|error| error.answer("PodSandboxStatus"))
    }

    async fn list_pod_sandbox(
        &self,
        request: v1::ListPodSandboxRequest,
        _: Deadline,
    ) -> Answer<v1::ListPodSandboxResponse> {
        Ok(v1::ListPodSandboxResponse { items: self.list_sandboxes(request.filter.as_ref()) })
    }

    async fn stream_pod_sandboxes(
        &self,
        request: v1::StreamPodSandboxesRequest,
        _: Deadline,
    ) -> Answer<Listing<v1::StreamPodSandboxesResponse>> {
        let all = self.list_sandboxes(request.filter.as_ref());
        Ok(in_pieces(all, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: v1::CreateContainerRequest,
        by: Deadline,
    ) -> Answer<v1::CreateContainerResponse> {
        answer!("CreateContainer", by, self.make_container(request))
    }

    async fn start_container(
        &self,
        request: v1::StartContainerRequest,
        by: Deadline,
    ) -> Answer<v1::StartContainerResponse> {
        answer!("StartContainer", by, self.begin_container(request.container_id))
    }

    async fn stop_container(
        &self,
        request: v1::StopContainerRequest,
        by: Deadline,
    ) -> Answer<v1::StopContainerResponse> {
        answer!("StopContainer", by, self.end_container(request, by))
    }

    async fn remove_container(
        &self,
        request: v1::RemoveContainerRequest,
        by: Deadline,
    ) -> Answer<v1::RemoveContainerResponse> {
        answer!("RemoveContainer", by, self.delete_container(request.container_id))
    }

    async fn list_containers(
        &self,
        request: v1::ListContainersRequest,
        _: Deadline,
    ) -> Answer<v1::ListContainersResponse> {
        Ok(v1::ListContainersResponse { containers: self.list_all_containers(request.filter.as_ref()) })
    }

    async fn stream_containers(
        &self,
        request: v1::StreamContainersRequest,
        _: Deadline,
    ) -> Answer<Listing<v1::StreamContainersResponse>> {
        let all = self.list_all_containers(request.filter.as_ref());
        Ok(in_pieces(all, |containers| v1::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: v1::ContainerStatusRequest,
        _: Deadline,
    ) -> Answer<v1::ContainerStatusResponse> {
        self.status_of_container(&request).map_err(|error| error.answer("ContainerStatus"))
    }

    async fn update_container_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
        by: Deadline,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        answer!("UpdateContainerResources", by, self.update_resources(request))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: v1::UpdatePodSandboxResourcesRequest,
        _: Deadline,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        self.note_sandbox_resources(&request).map_err(|error| error.answer("UpdatePodSandboxResources"))
    }

    async fn reopen_container_log(
        &self,
        request: v1::ReopenContainerLogRequest,
        by: Deadline,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        answer!("ReopenContainerLog", by, self.reopen_log(request.container_id))
    }

    async fn exec_sync(&self, request: v1::ExecSyncRequest, by: Deadline) -> Answer<v1::ExecSyncResponse> {
        // The caller's own deadline kills the command too: nobody would hear of its end.
        self.run_exec(request, by).await.map_err(|error| error.answer("ExecSync"))
    }

    async fn exec(&self, request: v1::ExecRequest, _: Deadline) -> Answer<v1::ExecResponse> {
        self.offer_exec(request).map_err(|error| error.answer("Exec"))
    }

    async fn attach(&self, request: v1::AttachRequest, _: Deadline) -> Answer<v1::AttachResponse> {
        self.offer_attach(request).map_err(|error| error.answer("Attach"))
    }

    async fn port_forward(&self, request: v1::PortForwardRequest, _: Deadline) -> Answer<v1::PortForwardResponse> {
        self.offer_forward(&request).map_err(|error| error.answer("PortForward"))
    }

    async fn container_stats(
        &self,
        request: v1::ContainerStatsRequest,
        by: Deadline,
    ) -> Answer<v1::ContainerStatsResponse> {
        answer!("ContainerStats", by, self.stats_of_container(request.container_id))
    }

    async fn list_container_stats(
        &self,
        request: v1::ListContainerStatsRequest,
        by: Deadline,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let stats = answer!("ListContainerStats", by, self.stats_of_containers(request.filter))?;
        Ok(v1::ListContainerStatsResponse { stats })
    }

    async fn stream_container_stats(
        &self,
        request: v1::StreamContainerStatsRequest,
        by: Deadline,
    ) -> Answer<Listing<v1::StreamContainerStatsResponse>> {
        let stats = answer!("StreamContainerStats", by, self.stats_of_containers(request.filter))?;
        Ok(in_pieces(stats, |container_stats| v1::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: v1::PodSandboxStatsRequest,
        by: Deadline,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        answer!("PodSandboxStats", by, self.stats_of_sandbox(request.pod_sandbox_id))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: v1::ListPodSandboxStatsRequest,
        by: Deadline,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let stats = answer!("ListPodSandboxStats", by, self.stats_of_sandboxes(request.filter))?;
        Ok(v1::ListPodSandboxStatsResponse { stats })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: v1::StreamPodSandboxStatsRequest,
        by: Deadline,
    ) -> Answer<Listing<v1::StreamPodSandboxStatsResponse>> {
        let stats = answer!("StreamPodSandboxStats", by, self.stats_of_sandboxes(request.filter))?;
        Ok(in_pieces(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn get_container_events(
        &self,
        _: v1::GetEventsRequest,
        _: Deadline,
    ) -> Answer<Listing<v1::ContainerEventResponse>> {
        Ok(self.core.events.listen())
    }

    async fn list_images(&self, request: v1::ListImagesRequest, _: Deadline) -> Answer<v1::ListImagesResponse> {
        Ok(v1::ListImagesResponse { images: self.list_stored_images(request.filter.as_ref()) })
    }

    async fn stream_images(
        &self,
        request: v1::StreamImagesRequest,
        _: Deadline,
    ) -> Answer<Listing<v1::StreamImagesResponse>> {
        let all = self.list_stored_images(request.filter.as_ref());
        Ok(in_pieces(all, |images| v1::StreamImagesResponse { images }))
    }

    async fn image_status(&self, request: v1::ImageStatusRequest, _: Deadline) -> Answer<v1::ImageStatusResponse> {
        Ok(self.status_of_image(&request))
    }

    async fn pull_image(&self, request: v1::PullImageRequest, by: Deadline) -> Answer<v1::PullImageResponse> {
        answer!("PullImage", by, self.pull(request))
    }

    async fn remove_image(&self, request: v1::RemoveImageRequest, by: Deadline) -> Answer<v1::RemoveImageResponse> {
        answer!("RemoveImage", by, self.remove_stored_image(request))
    }

    async fn image_fs_info(&self, _: v1::ImageFsInfoRequest, by: Deadline) -> Answer<v1::ImageFsInfoResponse> {
        answer!("ImageFsInfo", by, self.say_image_fs())
    }

    async fn checkpoint_container(
        &self,
        _: v1::CheckpointContainerRequest,
        _: Deadline,
    ) -> Answer<v1::CheckpointContainerResponse> {
        Err(RuntimeError::new("CheckpointContainer", Kind::Unimplemented, "this runtime takes no checkpoints"))
    }
}

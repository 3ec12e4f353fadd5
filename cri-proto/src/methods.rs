//! The one table of CRI methods: the trait, the client and the server are all written from it.

/// Calls `$make!` with every method, sorted by service and by whether it answers once or with a stream.
macro_rules! for_every_method {
    ($make:ident) => {
        $make! {
            runtime once {
                version Version(VersionRequest) -> VersionResponse;
                run_pod_sandbox RunPodSandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
                stop_pod_sandbox StopPodSandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
                remove_pod_sandbox RemovePodSandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
                pod_sandbox_status PodSandboxStatus(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
                list_pod_sandbox ListPodSandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
                create_container CreateContainer(CreateContainerRequest) -> CreateContainerResponse;
                start_container StartContainer(StartContainerRequest) -> StartContainerResponse;
                stop_container StopContainer(StopContainerRequest) -> StopContainerResponse;
                remove_container RemoveContainer(RemoveContainerRequest) -> RemoveContainerResponse;
                list_containers ListContainers(ListContainersRequest) -> ListContainersResponse;
                container_status ContainerStatus(ContainerStatusRequest) -> ContainerStatusResponse;
                update_container_resources UpdateContainerResources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
                reopen_container_log ReopenContainerLog(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
                exec_sync ExecSync(ExecSyncRequest) -> ExecSyncResponse;
                exec Exec(ExecRequest) -> ExecResponse;
                attach Attach(AttachRequest) -> AttachResponse;
                port_forward PortForward(PortForwardRequest) -> PortForwardResponse;
                container_stats ContainerStats(ContainerStatsRequest) -> ContainerStatsResponse;
                list_container_stats ListContainerStats(ListContainerStatsRequest) -> ListContainerStatsResponse;
                pod_sandbox_stats PodSandboxStats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
                list_pod_sandbox_stats ListPodSandboxStats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
                update_runtime_config UpdateRuntimeConfig(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
                status Status(StatusRequest) -> StatusResponse;
                checkpoint_container CheckpointContainer(CheckpointContainerRequest) -> CheckpointContainerResponse;
                list_metric_descriptors ListMetricDescriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
                list_pod_sandbox_metrics ListPodSandboxMetrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
                runtime_config RuntimeConfig(RuntimeConfigRequest) -> RuntimeConfigResponse;
                update_pod_sandbox_resources UpdatePodSandboxResources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
            }
            runtime stream {
                stream_pod_sandboxes StreamPodSandboxes StreamPodSandboxesStream(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
                stream_containers StreamContainers StreamContainersStream(StreamContainersRequest) -> StreamContainersResponse;
                stream_container_stats StreamContainerStats StreamContainerStatsStream(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
                stream_pod_sandbox_stats StreamPodSandboxStats StreamPodSandboxStatsStream(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
                get_container_events GetContainerEvents GetContainerEventsStream(GetEventsRequest) -> ContainerEventResponse;
                stream_pod_sandbox_metrics StreamPodSandboxMetrics StreamPodSandboxMetricsStream(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
            }
            image once {
                list_images ListImages(ListImagesRequest) -> ListImagesResponse;
                image_status ImageStatus(ImageStatusRequest) -> ImageStatusResponse;
                pull_image PullImage(PullImageRequest) -> PullImageResponse;
                remove_image RemoveImage(RemoveImageRequest) -> RemoveImageResponse;
                image_fs_info ImageFsInfo(ImageFsInfoRequest) -> ImageFsInfoResponse;
            }
            image stream {
                stream_images StreamImages StreamImagesStream(StreamImagesRequest) -> StreamImagesResponse;
            }
        }
    };
}

pub(crate) use for_every_method;

//! Containers start, end, answer, and are limited.

use anyhow::{Context, Result, ensure};
use cri_proto::{Kind, Runtime, v1};
use tests::node::{Pod, by, container, on_a_node, pod};

#[test]
fn a_pod_runs_logs_answers_and_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "web")).await?;
        let status = pod.status().await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady);
        let address = status.network.unwrap_or_default().ip;
        ensure!(address.starts_with("10.99.0."), "{address:?}");

        let id = pod.start("main", "echo hello; echo trouble >&2; exec sleep 1000").await?;
        pod.says(&id, "trouble").await?;
        ensure!(pod.log(&id).await? == ["stdout F hello", "stderr F trouble"]);
        ensure!(pod.print(&id, "hostname").await? == "web\n");
        ensure!(pod.print(&id, "cat /etc/resolv.conf").await? == "nameserver 192.0.2.53\n");
        ensure!(pod.print(&id, "ip -4 addr show eth0").await?.contains(&address));
        ensure!(pod.exec(&id, "exit 7").await?.exit_code == 7);
        // Whatever belongs to the pod is in the pod's groups, and so outlives whoever started it.
        for (file, group) in [("shim.pid", &pod.id), ("pause.pid", &pod.id), (&*format!("c/{id}/pid"), &id)] {
            let note = std::fs::read_to_string(node.place.path("run/pods").join(&pod.id).join(file))?;
            let pid = note.split(' ').next().context("empty")?;
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            let expected = format!("{}/pod-web/{group}", node.place.cgroup());
            ensure!(groups.lines().all(|line| line.ends_with(&expected)), "{file}: {groups}");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            ensure!(file == "shim.pid" || status.contains("Seccomp:\t2\n"), "{file}: {status}");
        }

        pod.stop_container(&id, 0).await?;
        let status = pod.ended(&id).await?;
        ensure!(status.exit_code == 137 && status.reason == "Error", "{status:?}");
        pod.remove_container(&id).await?;
        pod.remove().await
    })
}

#[test]
fn a_container_ends_with_its_code_and_a_reason() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "codes")).await?;
        for (name, script, code, reason) in [
            ("well", "exit 0", 0, "Completed"),
            ("badly", "exit 3", 3, "Error"),
            ("signalled", "sh -c 'kill -9 $$'; exit $?", 137, "Error"),
        ] {
            let id = pod.start(name, script).await?;
            let status = pod.ended(&id).await?;
            ensure!((status.exit_code, status.reason.as_str()) == (code, reason), "{name}: {status:?}");
            ensure!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
        }
        let mut missing = container("missing", "");
        missing.command = vec!["/no/such/program".to_owned()];
        let id = pod.create(missing).await?;
        let request = v1::StartContainerRequest { container_id: id.clone() };
        let error = node.runtime().start_container(request, by()).await.expect_err("it cannot be started");
        let status = pod.look(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (128, "StartError"), "{status:?}");
        ensure!(status.message.contains("/no/such/program") && error.message.contains(&status.message), "{error}");
        pod.remove().await
    })
}

#[test]
fn a_container_that_takes_too_much_memory_is_oom_killed() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "hungry")).await?;
        let mut hungry = container("hungry", "exec dd if=/dev/zero of=/dev/null bs=200M count=1");
        hungry.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            memory_swap_limit_in_bytes: 32 << 20,
            ..Default::default()
        });
        let id = pod.start_with(hungry).await?;
        let status = pod.ended(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
        pod.remove().await
    })
}

#[test]
fn an_exec_that_overruns_its_time_is_killed_with_its_children() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "slow")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let cmd = ["/bin/sh", "-c", "sleep 4321 & sleep 4322"].map(str::to_owned).to_vec();
        let request = v1::ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
        let error = node.runtime().exec_sync(request, by()).await.expect_err("it takes an hour");
        ensure!(error.kind == Kind::DeadlineExceeded, "{error:?}");
        ensure!(error.message == "command \"/bin/sh -c sleep 4321 & sleep 4322\" timed out after 1s", "{error}");
        let processes = pod.print(&id, "ps").await?;
        ensure!(!processes.contains("432"), "{processes}");
        ensure!(pod.look(&id).await?.state() == v1::ContainerState::ContainerRunning);
        pod.remove().await
    })
}

#[test]
fn the_output_of_an_exec_is_whole_up_to_its_bound() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "loud")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let some = pod.exec(&id, "head -c 3000000 /dev/zero; echo x >&2").await?;
        ensure!(some.stdout.len() == 3_000_000 && some.stderr == b"x\n");
        let much = pod.exec(&id, "head -c 30000000 /dev/zero; exit 5").await?;
        ensure!(much.exit_code == 5 && much.stdout.len() > 15 << 20 && much.stdout.len() < 16 << 20);
        // A child that goes on and holds the output open does not hold the answer back.
        let begun = std::time::Instant::now();
        ensure!(pod.exec(&id, "sleep 600 & echo done").await?.stdout == b"done\n");
        ensure!(begun.elapsed().as_secs() < 10);
        pod.remove().await
    })
}

#[test]
fn a_container_is_asked_before_it_is_killed() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "polite")).await?;
        let polite = pod.start("polite", "trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done").await?;
        pod.says(&polite, "up").await?;
        pod.stop_container(&polite, 30).await?;
        ensure!(pod.look(&polite).await?.exit_code == 4);
        let deaf = pod.start("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done").await?;
        pod.says(&deaf, "up").await?;
        pod.stop_container(&deaf, 1).await?;
        ensure!(pod.look(&deaf).await?.exit_code == 137);
        // Again, and of what is not there: nothing to do.
        pod.stop_container(&deaf, 1).await?;
        pod.remove_container(&deaf).await?;
        pod.remove_container(&deaf).await?;
        pod.stop_container(&deaf, 1).await?;
        pod.remove().await?;
        pod.remove().await
    })
}

#[test]
fn limits_change_logs_rotate_and_use_is_told() -> Result<()> {
    on_a_node(async |node| {
        let (runtime, pod) = (node.runtime(), Pod::run(node.runtime(), pod(&node.place, "told")).await?);
        let mut config = container("main", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done");
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_shares: 512,
            ..Default::default()
        });
        let id = pod.start_with(config).await?;
        let limit = |bytes| v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(v1::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() }),
            ..Default::default()
        };
        runtime.update_container_resources(limit(128 << 20), by()).await?;
        let linux = pod.look(&id).await?.resources.and_then(|resources| resources.linux).unwrap_or_default();
        ensure!((linux.memory_limit_in_bytes, linux.cpu_shares) == (128 << 20, 512), "{linux:?}");
        let request = v1::ContainerStatsRequest { container_id: id.clone() };
        let stats = runtime.container_stats(request, by()).await?.stats.context("no stats")?;
        let memory = stats.memory.unwrap_or_default();
        let available = memory.available_bytes.unwrap_or_default().value;
        ensure!(available > 100 << 20 && available <= 128 << 20, "{memory:?}");
        let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let stats =
            runtime.pod_sandbox_stats(request, by()).await?.stats.and_then(|stats| stats.linux).unwrap_or_default();
        ensure!(stats.network.is_some_and(|network| network.default_interface.is_some_and(|own| own.name == "eth0")));
        ensure!(stats.containers.len() == 1 && stats.process.is_some());

        pod.says(&id, "stdout F 5").await?;
        let log = std::path::PathBuf::from(pod.look(&id).await?.log_path);
        let rotated = log.with_extension("rotated");
        std::fs::rename(&log, &rotated)?;
        runtime.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.clone() }, by()).await?;
        pod.says(&id, "stdout F").await?;
        pod.stop_container(&id, 0).await?;
        let text = std::fs::read_to_string(&rotated)? + &std::fs::read_to_string(&log)?;
        let numbers = text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect::<Vec<usize>>();
        ensure!(numbers == (1..=numbers.len()).collect::<Vec<_>>(), "{text}");
        let stopped = runtime.update_container_resources(limit(64 << 20), by()).await;
        ensure!(stopped.is_err_and(|error| error.kind == Kind::FailedPrecondition));
        pod.remove().await
    })
}

#[test]
fn images_are_told_and_removed() -> Result<()> {
    on_a_node(async |node| {
        let runtime = node.runtime();
        let images = runtime.list_images(v1::ListImagesRequest::default(), by()).await?.images;
        ensure!(images.len() == 1 && images[0].repo_tags == [tests::node::IMAGE] && images[0].size > 0, "{images:?}");
        let spec = |name: &str| Some(v1::ImageSpec { image: name.to_owned(), ..Default::default() });
        let request = v1::ImageStatusRequest { image: spec("busybox"), verbose: true };
        let status = runtime.image_status(request, by()).await?;
        ensure!(status.image.as_ref() == Some(&images[0]) && status.info.contains_key("config"), "{status:?}");
        let usage = runtime.image_fs_info(v1::ImageFsInfoRequest {}, by()).await?;
        ensure!(usage.image_filesystems[0].used_bytes.is_some_and(|used| used.value > 0), "{usage:?}");
        runtime.remove_image(v1::RemoveImageRequest { image: spec("busybox") }, by()).await?;
        runtime.remove_image(v1::RemoveImageRequest { image: spec("busybox") }, by()).await?;
        let request = v1::ImageStatusRequest { image: spec("busybox"), verbose: false };
        ensure!(runtime.image_status(request, by()).await?.image.is_none());
        let request = v1::PullImageRequest { image: spec("127.0.0.1:1/nothing:1"), ..Default::default() };
        let error = runtime.pull_image(request, by()).await.expect_err("nobody listens there");
        ensure!(error.message.contains("127.0.0.1:1/nothing"), "{error}");
        ensure!(runtime.pulls().is_empty());
        Ok(())
    })
}

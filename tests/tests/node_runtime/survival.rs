//! Runtimes and shims that were away, killed, rebooted or out of space.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_proto::{Runtime, v1};
use tests::node::{Pod, by, container, on_a_node, options_below, pod, pod_below};

#[test]
fn a_runtime_that_was_away_finds_everything_again() -> Result<()> {
    on_a_node(async |node| {
        let config = pod(&node.place, "kept");
        let first = Pod::run(node.runtime(), config.clone()).await?;
        let lasting = first.start("lasting", "echo begun; while :; do sleep 0.1; done").await?;
        let ended = first.start("ended", "exit 9").await?;
        let dying = first.start("dying", "exec sleep 1000").await?;
        let waiting = first.create(container("waiting", "exit 6")).await?;
        first.ended(&ended).await?;
        first.says(&lasting, "begun").await?;
        let (pid, dying_pid) = (first.pid(&lasting).await?, first.pid(&dying).await?);
        let before = [first.look(&lasting).await?, first.look(&ended).await?, first.look(&waiting).await?];
        let (address, sandbox) = (first.status().await?.network, first.id.clone());
        drop(first);
        node.away().await?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(dying_pid), nix::sys::signal::Signal::SIGKILL)?;
        wait_gone(dying_pid).await;
        let runtime = node.back().await?;
        let second = Pod::found(runtime.clone(), config.clone(), sandbox.clone());
        let after = [second.look(&lasting).await?, second.look(&ended).await?, second.look(&waiting).await?];
        ensure!(before == after, "{before:?}\n{after:?}");
        ensure!(second.pid(&lasting).await? == pid && second.status().await?.network == address);
        ensure!(second.status().await?.state() == v1::PodSandboxState::SandboxReady);
        let status = second.ended(&dying).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
        ensure!(second.print(&lasting, "hostname").await? == "kept\n");
        runtime.start_container(v1::StartContainerRequest { container_id: waiting.clone() }, by()).await?;
        ensure!(second.ended(&waiting).await?.exit_code == 6);
        // The name is still taken by what was found.
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        ensure!(runtime.run_pod_sandbox(request, by()).await?.pod_sandbox_id == sandbox);
        second.remove().await
    })
}

#[test]
fn a_shim_that_was_killed_is_replaced_and_nothing_is_lost() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "orphan")).await?;
        let id =
            pod.start("main", "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done").await?;
        pod.says(&id, "stdout F 3").await?;
        let pid = pod.pid(&id).await?;
        let path = node.place.path("run/pods").join(&pod.id).join("shim.pid");
        let shim: i32 = std::fs::read_to_string(&path)?.split(' ').next().context("empty")?.parse()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
        // Nobody has to wait for the next one by himself, even while this one is on its way out.
        ensure!(pod.print(&id, "hostname").await? == "orphan\n");
        pod.says(&id, "stdout F 30").await?;
        ensure!(pod.pid(&id).await? == pid && pod.print(&id, "hostname").await? == "orphan\n");
        pod.stop_container(&id, 20).await?;
        let log = pod.log(&id).await?;
        let numbers =
            log.iter().filter_map(|line| line.strip_prefix("stdout F ")?.parse().ok()).collect::<Vec<usize>>();
        ensure!(numbers == (1..=numbers.len()).collect::<Vec<_>>(), "{log:?}");
        pod.remove().await
    })
}

#[test]
fn a_runtime_killed_at_any_moment_leaves_only_whole_things() -> Result<()> {
    on_a_node(async |node| {
        let config = pod(&node.place, "lasting");
        let lasting = Pod::run(node.runtime(), config.clone()).await?;
        let id = lasting.start("main", "exec sleep 1000").await?;
        let (pid, status, sandbox) = (lasting.pid(&id).await?, lasting.look(&id).await?, lasting.id.clone());
        drop(lasting);
        for round in 0..12 {
            node.away().await?;
            let mut child = node
                .place
                .command(std::env::current_exe()?)
                .args(["--exact", "survival::child_that_embeds_a_runtime", "--nocapture"])
                .env(CHILD, node.place.dir.path())
                .env(CHILD_CGROUP, node.place.cgroup())
                .stdout(std::process::Stdio::null())
                .spawn()?;
            // A prime number of milliseconds more each time: another instruction of the same few pods' lives.
            tokio::time::sleep(Duration::from_millis(150 + 23 * round)).await;
            child.kill()?;
            child.wait()?;
            let runtime = node.back().await?;
            let again = Pod::found(runtime.clone(), config.clone(), sandbox.clone());
            ensure!(again.pid(&id).await? == pid && again.look(&id).await? == status, "round {round}");
            for other in runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default(), by()).await?.items {
                if other.id != sandbox {
                    let name = other.metadata.unwrap_or_default().name;
                    Pod::found(runtime.clone(), pod(&node.place, &name), other.id).remove().await?;
                }
            }
        }
        Pod::found(node.runtime(), config, sandbox).remove().await?;
        // What a kubelet would have made, and removes: the groups of pods that came to nothing.
        tests::agent::remove_cgroups(&node.place.cgroup())
    })
}

const CHILD: &str = "LONGSHORE_TEST_RUNTIME_CHILD";
const CHILD_CGROUP: &str = "LONGSHORE_TEST_RUNTIME_CHILD_CGROUP";

/// Not a test of its own: makes and removes pods until it is killed.
#[test]
fn child_that_embeds_a_runtime() -> Result<()> {
    let (Ok(dir), Ok(cgroup)) = (std::env::var(CHILD), std::env::var(CHILD_CGROUP)) else { return Ok(()) };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let embedded = runtime::Embedded::open(options_below(dir.as_ref())).await?;
        for number in 0.. {
            let config = pod_below(dir.as_ref(), &cgroup, &format!("short{number}"));
            let pod = Pod::run(embedded.clone(), config).await?;
            let (one, two) = tokio::try_join!(pod.start("one", "exec sleep 1000"), pod.start("two", "exit 0"))?;
            pod.print(&one, "true").await?;
            pod.ended(&two).await?;
            pod.remove().await?;
        }
        Ok(())
    })
}

async fn wait_gone(pid: i32) {
    while std::path::Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_second_runtime_on_the_same_folders_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let _first = node.runtime();
        let error = runtime::Embedded::open(options_below(node.place.dir.path())).await.expect_err("it is in use");
        ensure!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
        Ok(())
    })
}

#[test]
fn a_reboot_takes_containers_away_and_nothing_else() -> Result<()> {
    on_a_node(async |node| {
        let config = pod(&node.place, "before");
        let pod = Pod::run(node.runtime(), config.clone()).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let run = node.place.path("run/pods").join(&pod.id);
        let pids = ["shim.pid", "pause.pid"].map(|name| std::fs::read_to_string(run.join(name)));
        let container = pod.pid(&id).await?;
        drop(pod);
        node.away().await?;
        // What a reboot does: processes and mounts are gone, and so is what was on tmpfs.
        for pid in pids {
            let pid: i32 = pid?.split(' ').next().context("empty")?.parse()?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
            wait_gone(pid).await;
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(container), nix::sys::signal::Signal::SIGKILL)?;
        wait_gone(container).await;
        for mount in ["net", "shm"] {
            nix::mount::umount2(&run.join(mount), nix::mount::MntFlags::MNT_DETACH)?;
        }
        std::fs::remove_dir_all(node.place.path("run"))?;
        let runtime = node.back().await?;
        ensure!(runtime.list_pod_sandbox(v1::ListPodSandboxRequest::default(), by()).await?.items.is_empty());
        ensure!(runtime.list_images(v1::ListImagesRequest::default(), by()).await?.images.len() == 1);
        tests::agent::remove_cgroups(&node.place.cgroup())?;
        let again = Pod::run(runtime, config).await?;
        again.start("main", "exec sleep 1000").await?;
        again.remove().await
    })
}

#[test]
fn a_full_disk_stops_nothing_from_being_stopped() -> Result<()> {
    on_a_node(async |node| {
        node.away().await?;
        let run = node.place.path("run");
        let (none, size) = (nix::mount::MsFlags::empty(), Some("size=4m"));
        nix::mount::mount(Some("small"), &run, Some("tmpfs"), none, size)?;
        let runtime = node.back().await?;
        let pod = Pod::run(runtime.clone(), pod(&node.place, "full")).await?;
        let (one, two) = (pod.start("one", "exec sleep 1000").await?, pod.start("two", "sleep 1; exit 3").await?);
        let mut filler = std::fs::File::create(run.join("filler"))?;
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        ensure!(pod.ended(&two).await?.exit_code == 3);
        let refused = pod.create(container("three", "")).await.expect_err("the disk is full");
        ensure!(refused.to_string().contains("No space left"), "{refused}");
        pod.stop_container(&one, 0).await?;
        ensure!(pod.look(&one).await?.exit_code == 137);
        pod.remove().await?;
        drop((pod, runtime));
        node.away().await?;
        nix::mount::umount2(&run, nix::mount::MntFlags::MNT_DETACH)?;
        node.back().await.map(drop)
    })
}

#[test]
fn on_a_machine_with_shared_mounts_nobody_keeps_copies() -> Result<()> {
    // As systemd sets a machine up; this one may be set up otherwise.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let shared = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_SHARED;
    nix::mount::mount(None::<&str>, "/", None::<&str>, shared, None::<&str>)?;
    on_a_node(async |node| {
        let first = Pod::run(node.runtime(), pod(&node.place, "first")).await?;
        first.start("main", "exec sleep 1000").await?;
        // A service with a mount namespace of its own, which is told of what happens to the machine's.
        let mut service = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let (mut ask, mut answer) = (service.stdin.take().context("stdin")?, service.stdout.take().context("stdout")?);
        std::io::Write::write_all(&mut ask, b"x")?;
        std::io::Read::read_exact(&mut answer, &mut [0])?;
        let second = Pod::run(node.runtime(), pod(&node.place, "second")).await?;
        second.start("main", "exec sleep 1000").await?;
        let mounts = |pid: String| -> Result<usize> {
            let dir = node.place.dir.path().display().to_string();
            Ok(std::fs::read_to_string(format!("/proc/{pid}/mounts"))?
                .lines()
                .filter(|line| line.contains(&dir))
                .count())
        };
        ensure!(mounts(service.id().to_string())? == 6, "the service sees two pods' mounts");
        first.remove().await?;
        second.remove().await?;
        let left = (mounts("thread-self".to_owned())?, mounts(service.id().to_string())?);
        drop(ask);
        service.wait()?;
        ensure!(left == (0, 0), "{left:?}");
        Ok(())
    })
}

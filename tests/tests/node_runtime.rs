//! The embedded runtime on a real kernel: pods and containers through the `Runtime` trait.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_proto::{Deadline, Kind, Runtime, v1};
use futures::StreamExt;
use tests::node::{Pod, SOON, by, container, left, namespaces, on_a_node, options_below, pod, pod_below};
use tokio::time::timeout;

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
fn containers_share_what_their_pod_shares() -> Result<()> {
    on_a_node(async |node| {
        let mut config = pod(&node.place, "shared");
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        let shared = v1::NamespaceOption::default();
        security.namespace_options = Some(shared.clone());
        let pod = Pod::run(node.runtime(), config).await?;
        let with = |name: &str, script: &str| {
            let mut config = container(name, script);
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().namespace_options = Some(shared.clone());
            config
        };
        let server = pod.start_with(with("server", "echo body > /tmp/x; httpd -f -p 127.0.0.1:8080 -h /tmp")).await?;
        let client = pod.start_with(with("client", "echo through-shm > /dev/shm/x; exec sleep 1000")).await?;
        let got = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://localhost:8080/x && exit; sleep 0.2; done; exit 1";
        ensure!(pod.print(&client, got).await? == "body\n");
        ensure!(pod.print(&server, "cat /dev/shm/x").await? == "through-shm\n");
        ensure!(pod.print(&client, "ps").await?.contains("httpd"));
        // The pause is process 1 of all; nobody reaches the node's files through it.
        let root = pod.exec(&client, "ls /proc/1/root/etc").await?;
        ensure!(root.exit_code != 0, "{}", String::from_utf8_lossy(&root.stdout));
        // The end of a container takes its other processes along, although they have no namespace of their own.
        let parent = pod.start_with(with("parent", "sleep 7777 & exit 0")).await?;
        pod.ended(&parent).await?;
        ensure!(!pod.print(&client, "ps").await?.contains("7777"));
        pod.remove().await
    })
}

#[test]
fn a_pod_on_the_nodes_network_is_on_it() -> Result<()> {
    on_a_node(async |node| {
        let mut config = pod(&node.place, "host");
        let node_network = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..namespaces() };
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options = Some(node_network.clone());
        let pod = Pod::run(node.runtime(), config).await?;
        ensure!(pod.status().await?.network.unwrap_or_default().ip.is_empty());
        let mut config = container("main", "exec sleep 1000");
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().namespace_options = Some(node_network);
        let id = pod.start_with(config).await?;
        ensure!(pod.print(&id, "ip addr").await?.contains("longshore0"));
        ensure!(pod.print(&id, "hostname").await?.trim() == nix::unistd::gethostname()?.to_string_lossy());
        pod.remove().await
    })
}

#[test]
fn a_user_is_who_the_pod_or_the_image_says() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "users")).await?;
        let mut config = container("main", "exec sleep 1000");
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.run_as_username = "app".to_owned();
        security.supplemental_groups = vec![3000];
        security.no_new_privs = true;
        let id = pod.start_with(config).await?;
        ensure!(pod.print(&id, "id -u; id -g").await? == "1000\n1000\n");
        ensure!(pod.print(&id, "cat /proc/self/status").await?.contains("Groups:\t1000 2000 3000"));
        ensure!(
            pod.print(&id, "grep -E 'Seccomp:|NoNewPrivs' /proc/1/status").await? == "NoNewPrivs:\t1\nSeccomp:\t2\n"
        );
        let user = pod.look(&id).await?.user.and_then(|user| user.linux).unwrap_or_default();
        ensure!((user.uid, user.gid, user.supplemental_groups) == (1000, 1000, vec![1000, 2000, 3000]));
        pod.remove().await
    })
}

#[test]
fn a_create_whose_caller_gave_up_is_adopted_by_the_next() -> Result<()> {
    on_a_node(async |node| {
        let config = pod(&node.place, "patient");
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let gave_up = node.runtime().run_pod_sandbox(request.clone(), Deadline::within(Duration::ZERO)).await;
        ensure!(gave_up.is_err_and(|error| error.kind == Kind::DeadlineExceeded));
        let id = node.runtime().run_pod_sandbox(request.clone(), by()).await?.pod_sandbox_id;
        let again = node.runtime().run_pod_sandbox(request.clone(), by()).await?.pod_sandbox_id;
        ensure!(id == again);
        let all = node.runtime().list_pod_sandbox(v1::ListPodSandboxRequest::default(), by()).await?.items;
        ensure!(all.len() == 1, "{all:?}");
        // The same name for something else, with nobody in it: it makes room.
        let mut other = config;
        other.hostname = "other".to_owned();
        let pod = Pod::run(node.runtime(), other.clone()).await?;
        ensure!(pod.id != id);
        // With somebody in it, it does not.
        pod.start("main", "exec sleep 1000").await?;
        let refused = node.runtime().run_pod_sandbox(request, by()).await.expect_err("it is in use");
        ensure!(refused.kind == Kind::AlreadyExists && refused.message.contains(&pod.id), "{refused}");
        pod.remove().await
    })
}

#[test]
fn what_cannot_be_made_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let taken = v1::PortMapping { host_port: 8080, container_port: 80, ..Default::default() };
        let mut first = pod(&node.place, "first");
        first.port_mappings = vec![taken.clone()];
        let first = Pod::run(node.runtime(), first).await?;
        let before = left(&node.place);
        let mut second = pod(&node.place, "second");
        second.port_mappings = vec![taken];
        second.linux.get_or_insert_default().cgroup_parent = format!("{}/pod-first", node.place.cgroup());
        let request = v1::RunPodSandboxRequest { config: Some(second), runtime_handler: String::new() };
        let error = node.runtime().run_pod_sandbox(request, by()).await.expect_err("the port is taken");
        ensure!(error.message.contains("8080") && error.message.contains("second"), "{error}");
        let missing = first.create(v1::ContainerConfig {
            image: Some(v1::ImageSpec { image: "no.such/image:1".to_owned(), ..Default::default() }),
            ..container("missing", "")
        });
        let error = missing.await.expect_err("there is no such image");
        ensure!(error.to_string().contains("no.such/image:1"), "{error}");
        let mut bad = container("bad", "");
        let linux = bad.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().run_as_username = "nobody-here".to_owned();
        let error = first.create(bad).await.expect_err("there is no such user");
        ensure!(error.to_string().contains("nobody-here"), "{error}");
        let after = left(&node.place);
        ensure!(after == before, "before:\n{}\nafter:\n{}", before.join("\n"), after.join("\n"));
        first.remove().await
    })
}

#[test]
fn events_are_told_in_order_and_lists_can_be_filtered() -> Result<()> {
    on_a_node(async |node| {
        let mut events = node.runtime().get_container_events(v1::GetEventsRequest {}, Deadline::never()).await?;
        let pod = Pod::run(node.runtime(), pod(&node.place, "told")).await?;
        let id = pod.start("main", "exit 0").await?;
        pod.ended(&id).await?;
        pod.remove_container(&id).await?;
        pod.remove().await?;
        let mut told = Vec::new();
        while told.len() < 8 {
            let event = timeout(SOON, events.next()).await?.context("the stream ended")??;
            let who = if event.container_id == id { "container" } else { "sandbox" };
            told.push((who, event.container_event_type()));
        }
        use v1::ContainerEventType::*;
        let of = |kind: &str| told.iter().filter(|(who, _)| *who == kind).map(|(_, what)| *what).collect::<Vec<_>>();
        let all = [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];
        ensure!(of("container") == all && of("sandbox") == all, "{told:?}");
        Ok(())
    })
}

#[test]
fn many_pods_at_once_are_served_over_grpc() -> Result<()> {
    on_a_node(async |node| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let socket = node.place.path("cri.sock");
        let (runtime, at) = (node.runtime(), socket.clone());
        let server = tokio::spawn(async move { cri_proto::serve(runtime, &at, async { drop(stopped.await) }).await });
        let client = loop {
            match cri_proto::Client::connect(&socket).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let descriptors = || std::fs::read_dir("/proc/self/fd").map(Iterator::count);
        // The first pod brings descriptors that stay: the shim's executable, the reaper's.
        Pod::run(node.runtime(), pod(&node.place, "first")).await?.remove().await?;
        let before = descriptors()?;
        let version = client.version(v1::VersionRequest::default(), by()).await?;
        ensure!((version.version.as_str(), version.runtime_name.as_str()) == ("0.1.0", "longshore"));
        let pods = (0..20).map(|number| {
            let (client, config) = (Arc::new(client.clone()), pod(&node.place, &format!("p{number}")));
            async move {
                let pod = Pod::run(client.clone(), config).await?;
                let (one, two) = (pod.start("one", "echo one; exec sleep 1000"), pod.start("two", "exit 2"));
                let (one, two) = tokio::try_join!(one, two)?;
                pod.says(&one, "one").await?;
                ensure!(pod.ended(&two).await?.exit_code == 2);
                ensure!(pod.print(&one, "hostname").await? == format!("p{number}\n"));
                let request = v1::ContainerStatsRequest { container_id: one.clone() };
                let stats = client.container_stats(request, by()).await?.stats.context("no stats")?;
                ensure!(stats.memory.and_then(|memory| memory.usage_bytes).is_some_and(|usage| usage.value > 0));
                let address = pod.status().await?.network.unwrap_or_default().ip;
                pod.remove().await?;
                Ok::<_, anyhow::Error>(address)
            }
        });
        let addresses: BTreeSet<String> = futures::future::try_join_all(pods).await?.into_iter().collect();
        ensure!(addresses.len() > 1, "{addresses:?}");
        // Sockets of shims are closed a moment after their pods are gone. Other tests in one process have their own.
        let until = std::time::Instant::now() + SOON;
        while std::env::var_os("NEXTEST").is_some() && descriptors()? > before {
            ensure!(std::time::Instant::now() < until, "{before} descriptors became {}", descriptors()?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(stop);
        Ok(server.await??)
    })
}

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
                .args(["--exact", "child_that_embeds_a_runtime", "--nocapture"])
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

#[test]
fn ports_and_sysctls_of_a_pod_are_set() -> Result<()> {
    on_a_node(async |node| {
        let mut config = pod(&node.place, "ported");
        config.port_mappings = vec![v1::PortMapping { host_port: 18080, container_port: 80, ..Default::default() }];
        let sysctls = [("net.ipv4.ip_unprivileged_port_start", "1000"), ("kernel.shmmax", "1000000")];
        config.linux.get_or_insert_default().sysctls =
            sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let pod = Pod::run(node.runtime(), config).await?;
        let id = pod.start("main", "echo page > /tmp/x; exec httpd -f -p 80 -h /tmp").await?;
        pod.print(&id, "until wget -qO- http://127.0.0.1/x; do sleep 0.1; done").await?;
        let values = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax";
        ensure!(pod.print(&id, values).await? == "1000\n1000000\n");
        let page = async {
            let mut stream = tokio::net::TcpStream::connect("192.0.2.10:18080").await?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET /x HTTP/1.0\r\n\r\n").await?;
            let mut page = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut page).await?;
            Ok::<_, anyhow::Error>(page)
        };
        let page = timeout(SOON, page).await??;
        ensure!(page.ends_with("page\n"), "{page}");
        pod.remove().await?;
        ensure!(tokio::net::TcpStream::connect("192.0.2.10:18080").await.is_err());
        Ok(())
    })
}

//! What a pod shares and what it may have; lists, events, many at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_proto::{Deadline, Kind, Runtime, v1};
use futures::StreamExt;
use tests::node::{Pod, SOON, by, container, left, namespaces, on_a_node, pod};
use tokio::time::timeout;

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

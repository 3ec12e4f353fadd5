//! The embedded runtime on a real kernel: pods and containers through the `Runtime` trait.

use anyhow::{Result, ensure};
use cri_proto::v1;
use tests::node::{Pod, container, on_a_node, pod};

#[test]
fn a_pod_runs_logs_answers_and_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(&*node.runtime, pod(&node.place, "web")).await?;
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
        let pod = Pod::run(&*node.runtime, pod(&node.place, "codes")).await?;
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
        let error = cri_proto::Runtime::start_container(&*node.runtime, request, tests::node::by()).await.unwrap_err();
        let status = pod.look(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (128, "StartError"), "{status:?}");
        ensure!(status.message.contains("/no/such/program") && error.message.contains(&status.message), "{error}");
        pod.remove().await
    })
}

//! Exec, attach and port-forward over the URLs that the runtime hands out.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_proto::{Kind, Runtime, v1};
use tests::channel::connect;
use tests::node::{Pod, by, container, on_a_node, pod};
use tests::spdy::{self, Spdy};

#[test]
fn an_exec_carries_its_streams_and_its_exit_code() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "streams")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let script = "cat; echo trouble >&2; exit 3";
        let url = exec(&*node.runtime(), &id, script, false).await?;
        let said = tokio::task::spawn_blocking(move || {
            let mut channel = connect(&url, "v5.channel.k8s.io")?;
            channel.send(0, b"hello ")?;
            channel.send(0, b"world")?;
            // v5: the end of the input, which v4 cannot tell.
            channel.send(255, &[0])?;
            channel.until_closed()
        })
        .await??;
        ensure!(said.stdout == b"hello world" && said.stderr == b"trouble\n", "{said:?}");
        ensure!(said.status["reason"] == "NonZeroExitCode", "{said:?}");
        ensure!(said.status["details"]["causes"][0]["message"] == "3", "{said:?}");
        pod.remove().await
    })
}

#[test]
fn much_output_arrives_whole_however_slow_the_reader() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "much")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let url = exec(&*node.runtime(), &id, "head -c 5000000 /dev/zero", false).await?;
        let said = tokio::task::spawn_blocking(move || {
            let mut channel = connect(&url, "v4.channel.k8s.io")?;
            std::thread::sleep(Duration::from_millis(300));
            channel.until_closed()
        })
        .await??;
        ensure!(said.stdout.len() == 5_000_000 && said.status["status"] == "Success", "{}", said.stdout.len());
        pod.remove().await
    })
}

#[test]
fn a_terminal_is_one_and_takes_sizes() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "tty")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let url = exec(&*node.runtime(), &id, "read line; stty size; echo got $line", true).await?;
        let said = tokio::task::spawn_blocking(move || {
            let mut channel = connect(&url, "v5.channel.k8s.io")?;
            channel.send(4, br#"{"Width":123,"Height":45}"#)?;
            // The size is taken by another task than the input.
            std::thread::sleep(Duration::from_millis(300));
            channel.send(0, b"x\n")?;
            channel.until_closed()
        })
        .await??;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(text.contains("45 123\r\n") && text.contains("got x\r\n"), "{text:?}");
        pod.remove().await
    })
}

#[test]
fn an_attached_client_talks_to_the_containers_first_process() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "attached")).await?;
        let mut config = container("main", "while read line; do echo heard $line; test $line = end && exit 0; done");
        config.stdin = true;
        let id = pod.start_with(config).await?;
        let request =
            v1::AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
        let url = node.runtime().attach(request, by()).await?.url;
        let said = tokio::task::spawn_blocking(move || {
            let mut channel = connect(&url, "v5.channel.k8s.io")?;
            channel.send(0, b"one\nend\n")?;
            channel.until_closed()
        })
        .await??;
        ensure!(said.stdout == b"heard one\nheard end\n", "{said:?}");
        pod.ended(&id).await?;
        ensure!(pod.log(&id).await? == ["stdout F heard one", "stdout F heard end"]);
        pod.remove().await
    })
}

#[test]
fn a_client_that_goes_away_takes_its_command_along() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "gone")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let url = exec(&*node.runtime(), &id, "echo up; sleep 3333", false).await?;
        tokio::task::spawn_blocking(move || {
            let mut channel = connect(&url, "v5.channel.k8s.io")?;
            channel.receive()?.context("nothing came").map(drop)
        })
        .await??;
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while pod.print(&id, "ps").await?.contains("3333") {
            ensure!(std::time::Instant::now() < until, "the command goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pod.remove().await
    })
}

#[test]
fn a_port_of_a_pod_is_reached_through_the_node() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "ported")).await?;
        let id =
            pod.start("main", "mkdir /w; echo page > /w/x; echo up; exec httpd -f -p 127.0.0.1:8080 -h /w").await?;
        pod.says(&id, "up").await?;
        pod.print(&id, "until wget -qO- http://127.0.0.1:8080/x; do sleep 0.1; done").await?;
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080] };
        let url = node.runtime().port_forward(request, by()).await?.url;
        let got = tokio::task::spawn_blocking(move || {
            let mut channel = connect(&format!("{url}?port=8080&port=8081"), "v4.channel.k8s.io")?;
            channel.send(0, b"GET /x HTTP/1.0\r\n\r\n")?;
            let mut got = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
            while !String::from_utf8_lossy(&got[0]).contains("page\n") || got[3].len() < 3 {
                let (number, data) = channel.receive()?.context("closed")?;
                got.get_mut(usize::from(number)).context("a channel of none")?.extend(data);
            }
            Ok::<_, anyhow::Error>(got)
        })
        .await??;
        ensure!(got[0].starts_with(&8080u16.to_le_bytes()) && got[1] == 8080u16.to_le_bytes());
        ensure!(String::from_utf8_lossy(&got[3]).contains("connecting to port 8081"), "{got:?}");
        pod.remove().await
    })
}

#[test]
fn spdy_carries_the_streams_of_an_exec_in_every_version() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "spdy")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        for protocol in ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
            let url = exec(&*node.runtime(), &id, "cat; echo trouble >&2; exit 3", false).await?;
            let told = tokio::task::spawn_blocking(move || {
                let mut spdy = Spdy::connect(&url, protocol)?;
                let [error, stdin, stdout, stderr] = spdy.open_all(["error", "stdin", "stdout", "stderr"])?;
                spdy.send(stdin, b"hello ")?;
                spdy.send(stdin, b"world")?;
                spdy.finish(stdin)?;
                let told = spdy.until_ended(error)?;
                ensure!(spdy.until_ended(stdout)? == b"hello world" && spdy.until_ended(stderr)? == b"trouble\n");
                Ok(String::from_utf8(told)?)
            })
            .await??;
            let said = "command terminated with non-zero exit code: exit status 3";
            match protocol.starts_with("v4") {
                true => {
                    let status: serde_json::Value = serde_json::from_str(&told)?;
                    ensure!(status["reason"] == "NonZeroExitCode" && status["message"] == said, "{told}");
                    ensure!(status["details"]["causes"][0]["message"] == "3", "{told}");
                }
                false => ensure!(told == said, "{told}"),
            }
        }
        pod.remove().await
    })
}

#[test]
fn spdy_carries_a_terminal_with_its_size() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "spdy-tty")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let script = "until stty size | grep -q 45.123; do sleep 0.05; done; read line; echo got $line";
        let url = exec(&*node.runtime(), &id, script, true).await?;
        let text = tokio::task::spawn_blocking(move || {
            let mut spdy = Spdy::connect(&url, "v4.channel.k8s.io")?;
            let [_, stdin, stdout, resize] = spdy.open_all(["error", "stdin", "stdout", "resize"])?;
            spdy.send(resize, b"{\"Width\":80,\"Height\":24}\n{\"Width\":123,")?;
            spdy.send(resize, b"\"Height\":45}\n")?;
            spdy.send(stdin, b"x\n")?;
            Ok::<_, anyhow::Error>(String::from_utf8_lossy(&spdy.until_ended(stdout)?).into_owned())
        })
        .await??;
        ensure!(text.contains("got x\r\n"), "{text:?}");
        pod.remove().await
    })
}

#[test]
fn much_goes_through_spdy_in_both_directions_at_once_however_slow_the_client() -> Result<()> {
    const MUCH: usize = 20_000_000;
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "spdy-much")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        // The command answers with what it was sent, and fills every pipe while nobody reads.
        let url = exec(&*node.runtime(), &id, "head -c 20000000 /dev/zero; wc -c", false).await?;
        let said = tokio::task::spawn_blocking(move || {
            let mut spdy = Spdy::connect(&url, "v4.channel.k8s.io")?;
            let [error, stdin, stdout, _] = spdy.open_all(["error", "stdin", "stdout", "stderr"])?;
            for _ in 0..MUCH / 100_000 {
                spdy.send(stdin, &[7; 100_000])?;
            }
            spdy.finish(stdin)?;
            let told = spdy.until_ended(error)?;
            ensure!(String::from_utf8_lossy(&told).contains("Success"), "{told:?}");
            spdy.until_ended(stdout)
        })
        .await??;
        ensure!(said[..MUCH].iter().all(|byte| *byte == 0) && said[MUCH..] == *b"20000000\n", "{}", said.len());
        pod.remove().await
    })
}

#[test]
fn ports_are_forwarded_on_spdy_many_at_once_also_through_a_websocket() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "spdy-ports")).await?;
        let id =
            pod.start("main", "mkdir /w; echo page > /w/x; echo up; exec httpd -f -p 127.0.0.1:8080 -h /w").await?;
        pod.says(&id, "up").await?;
        pod.print(&id, "until wget -qO- http://127.0.0.1:8080/x; do sleep 0.1; done").await?;
        for tunnelled in [false, true] {
            let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![] };
            let url = node.runtime().port_forward(request, by()).await?.url;
            tokio::task::spawn_blocking(move || {
                forward(if tunnelled { Spdy::tunnel(&url)? } else { Spdy::connect(&url, "portforward.k8s.io")? })
            })
            .await??;
        }
        pod.remove().await
    })
}

/// Forty connections at once to a port that is served, and one to a port that is not.
fn forward(mut spdy: Spdy) -> Result<()> {
    let mut pair = |port, request: &str| -> Result<_> {
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        let error = spdy.open(&headers("error"))?;
        spdy.finish(error)?;
        Ok((error, spdy.open(&headers("data"))?))
    };
    let refused = pair("8081", "none")?;
    let served = (0..40).map(|n| pair("8080", &n.to_string())).collect::<Result<Vec<_>>>()?;
    for (_, data) in &served {
        spdy.send(*data, b"GET /x HTTP/1.0\r\n\r\n")?;
    }
    for (error, data) in served {
        let page = spdy.until_ended(data)?;
        ensure!(page.ends_with(b"page\n"), "{:?}", String::from_utf8_lossy(&page));
        ensure!(spdy.until_ended(error)?.is_empty());
        spdy.finish(data)?;
    }
    let why = String::from_utf8(spdy.until_ended(refused.0)?)?;
    ensure!(why.contains("connecting to port 8081"), "{why}");
    Ok(())
}

#[test]
fn a_url_works_once_and_bad_clients_are_sent_away() -> Result<()> {
    on_a_node(async |node| {
        let pod = Pod::run(node.runtime(), pod(&node.place, "once")).await?;
        let id = pod.start("main", "exec sleep 1000").await?;
        let url = exec(&*node.runtime(), &id, "true", false).await?;
        let unknown = exec(&*node.runtime(), &id, "true", false).await?;
        let broken = exec(&*node.runtime(), &id, "sleep 3344", false).await?;
        tokio::task::spawn_blocking(move || {
            connect(&url, "v5.channel.k8s.io")?.until_closed()?;
            ensure!(connect(&url, "v5.channel.k8s.io").is_err_and(|error| error.to_string().contains("404")));
            let offers = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9.channel.k8s.io\r\n";
            let (answer, mut rest) = spdy::ask(&unknown, offers)?;
            ensure!(answer.starts_with("HTTP/1.1 403"), "{answer}");
            ensure!(answer.contains("X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io\r\n"), "{answer}");
            // Nothing follows on the connection of a refused upgrade.
            rest.read_to_end(&mut Vec::new())?;
            let offers = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
            let (answer, mut stream) = spdy::ask(&broken, offers)?;
            ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
            // A control frame of 16 MB.
            stream.write_all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff])?;
            let mut farewell = Vec::new();
            stream.read_to_end(&mut farewell)?;
            ensure!(farewell == [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1], "{farewell:?}");
            Ok(())
        })
        .await??;
        ensure!(!pod.print(&id, "ps").await?.contains("3344"), "it was begun without its streams");
        let request = v1::ExecRequest { container_id: id, cmd: vec!["true".to_owned()], ..Default::default() };
        let error = node.runtime().exec(request, by()).await.expect_err("no stream was asked for");
        ensure!(error.kind == Kind::InvalidArgument);
        pod.remove().await
    })
}

async fn exec(runtime: &dyn Runtime, id: &str, script: &str, tty: bool) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: !tty,
        tty,
    };
    Ok(runtime.exec(request, by()).await?.url)
}

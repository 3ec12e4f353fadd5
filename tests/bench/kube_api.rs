//! An API server as the administrator's programs see it: requests, and a watch whose events are stamped as they arrive.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::control_plane::ControlPlane;
use tests::pod_network::Netns;

/// Requests go through a `kubectl proxy`, which adds credentials and TLS.
pub(crate) struct Api {
    netns: Netns,
    proxy: Child,
}

impl Api {
    /// Waits until the proxy answers.
    pub(crate) fn open(plane: &ControlPlane) -> Result<Self> {
        let proxy = kubectl(plane).args(["proxy", "--port=8001"]).stdout(Stdio::null()).spawn()?;
        let api = Self { netns: Netns::named(plane.netns())?, proxy };
        let by = Instant::now() + Duration::from_secs(60);
        while let Err(error) = api.request("GET", "/version", &Value::Null) {
            ensure!(Instant::now() < by, "kubectl proxy does not answer: {error:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(api)
    }

    /// One request; what comes back has to be a success.
    pub(crate) fn request(&self, method: &str, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut stream = self.netns.run(|| TcpStream::connect("127.0.0.1:8001"))??;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        Ok(())
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        _ = self.proxy.kill();
        _ = self.proxy.wait();
    }
}

/// Events of a path, each with the moment at which it arrived.
pub(crate) struct Watched {
    kubectl: Child,
    events: Receiver<(Instant, Value)>,
}

impl Watched {
    /// From now on.
    pub(crate) fn begin(plane: &ControlPlane, path: &str) -> Result<Self> {
        let raw = format!("{path}?watch=true");
        let mut child = kubectl(plane).args(["get", "--raw", &raw]).stdout(Stdio::piped()).spawn()?;
        let (sender, events) = channel();
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let arrived = Instant::now();
                let told = serde_json::from_str(&line).is_ok_and(|event| sender.send((arrived, event)).is_ok());
                if !told {
                    return;
                }
            }
        });
        Ok(Self { kubectl: child, events })
    }

    /// The next event, within a minute.
    pub(crate) fn next(&self) -> Result<(Instant, Value)> {
        self.events.recv_timeout(Duration::from_secs(60)).context("no event of the watch for a minute")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        _ = self.kubectl.kill();
        _ = self.kubectl.wait();
    }
}

fn kubectl(plane: &ControlPlane) -> Command {
    let mut command = plane.command("kubectl".as_ref());
    command.env("HOME", plane.path("")).arg("--kubeconfig").arg(plane.path("admin.conf")).stdin(Stdio::null());
    command
}

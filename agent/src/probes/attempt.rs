//! One attempt of one probe.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::{ExecSyncRequest, ExecSyncResponse};
use cri_proto::{Deadline, Kind, Runtime};
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, Probe, TCPSocketAction};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::http::{self, Http};
use super::{Outcome, grpc, target};
use crate::expand::expand;

/// What is kept of an output.
pub(super) const LONGEST: usize = 10 << 10;
/// How often an attempt that could not even be made is repeated at once.
const TRIES: usize = 3;
/// What the runtime may take beyond the probe's own time before it is given up.
const BEYOND: Duration = Duration::from_secs(120);

/// What an attempt found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Success,
    /// Fine, but worth telling.
    Warning(String),
    Failure(String),
    /// The attempt could not be made: it says nothing about the container.
    Error(String),
    /// An answer came that could not be read to its end; no more is known of the container than after [`Self::Error`].
    Broken(String),
}

impl Found {
    /// What counts towards the thresholds.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Success | Self::Warning(_) => Some(Outcome::Success),
            Self::Failure(_) => Some(Outcome::Failure),
            Self::Error(_) | Self::Broken(_) => None,
        }
    }
}

/// Everything one attempt needs.
#[derive(Clone)]
pub(super) struct Attempt {
    pub probe: Arc<Probe>,
    pub container: Arc<Container>,
    pub id: String,
    pub pod_ip: Option<String>,
}

impl Attempt {
    /// Looks once; what cannot be tried is tried again at once, a clean failure is not.
    pub(super) async fn run(&self, runtime: &dyn Runtime, http: &Http) -> Found {
        let mut found = self.once(runtime, http).await;
        for _ in 1..TRIES {
            if !matches!(found, Found::Error(_) | Found::Broken(_)) {
                break;
            }
            found = self.once(runtime, http).await;
        }
        found
    }

    fn limit(&self) -> Duration {
        let seconds = self.probe.timeout_seconds.unwrap_or(1).max(1);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
    }

    async fn once(&self, runtime: &dyn Runtime, http: &Http) -> Found {
        if let Some(action) = &self.probe.exec {
            return self.exec(action, runtime).await;
        }
        if let Some(action) = &self.probe.http_get {
            return match http::Request::of(action, &self.container, self.pod_ip.as_deref(), "kube-probe") {
                Ok(request) => http::probe(http, &request, self.limit()).await,
                Err(error) => Found::Error(error.to_string()),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            return self.tcp(action).await;
        }
        if let Some(action) = &self.probe.grpc {
            return self.grpc(action).await;
        }
        Found::Error(format!("missing probe handler for container {}", self.container.name))
    }

    async fn exec(&self, action: &ExecAction, runtime: &dyn Runtime) -> Found {
        let cmd = command(action, &self.container);
        let limit = self.limit();
        let request = ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: cmd.clone(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        match runtime.exec_sync(request, Deadline::within(limit + BEYOND)).await {
            Ok(answer) if answer.exit_code == 0 => Found::Success,
            Ok(answer) => Found::Failure(output(&answer)),
            Err(error) if error.kind == Kind::DeadlineExceeded => {
                Found::Failure(format!("command timed out: {:?} timed out after {}s", cmd.join(" "), limit.as_secs()))
            }
            Err(error) => Found::Error(error.to_string()),
        }
    }

    async fn tcp(&self, action: &TCPSocketAction) -> Found {
        let port = match target::port(&action.port, &self.container) {
            Ok(port) => port,
            Err(error) => return Found::Error(error.to_string()),
        };
        let host = target::host(action.host.as_deref(), self.pod_ip.as_deref());
        let address = target::authority(host, port);
        match timeout(self.limit(), TcpStream::connect((host.trim_matches(['[', ']']), port))).await {
            Ok(Ok(_)) => Found::Success,
            Ok(Err(error)) => Found::Failure(format!("dial tcp {address}: {}", http::in_words(&error))),
            Err(_) => Found::Failure(format!("dial tcp {address}: i/o timeout")),
        }
    }

    async fn grpc(&self, action: &GRPCAction) -> Found {
        match target::in_range(i64::from(action.port)) {
            Ok(port) => {
                let host = self.pod_ip.as_deref().unwrap_or_default();
                grpc::probe(host, port, action.service.as_deref().unwrap_or_default(), self.limit()).await
            }
            Err(error) => Found::Error(error.to_string()),
        }
    }
}

/// The command with what the container's own literal variables put into it.
fn command(action: &ExecAction, container: &Container) -> Vec<String> {
    let literal = |name: &str| {
        let mut variables = container.env.iter().flatten().rev();
        variables.find(|v| v.name == name && v.value_from.is_none()).map(|v| v.value.clone().unwrap_or_default())
    };
    action.command.iter().flatten().map(|word| expand(word, literal)).collect()
}

fn output(answer: &ExecSyncResponse) -> String {
    let mut bytes = [answer.stdout.as_slice(), answer.stderr.as_slice()].concat();
    bytes.truncate(LONGEST);
    String::from_utf8_lossy(&bytes).into_owned()
}

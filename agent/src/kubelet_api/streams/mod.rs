//! exec, attach, portForward and run: the runtime is asked for a one-time URL, and the upgraded connection is carried
//! between the client and that URL. The embedded runtime and one on a socket are the same thing here.
//!
//! [`options`] is what a query says (pure), [`relay`] carries.

mod options;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use cri_proto::{Deadline, Kind, Runtime, RuntimeError, v1};
use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::answers::{Answer, text, whole};
use super::pods::find;
use super::route::{PodRef, StreamRoute};
use super::server::Streams;
use crate::container::labels;
use crate::errors::chain;
use crate::node::Handle;
use crate::view::PodView;
use options::{Options, forwarded_ports};
use relay::Relay;

/// Streams at the same time. Each holds two connections and some 100 KiB.
const MOST_STREAMS: usize = 1024;

/// The runtime only hands out an address.
const ASKING: Duration = Duration::from_secs(10);

/// `run` answers when its command has ended; the API server gives up after a minute.
const RUN: Duration = Duration::from_secs(120);

/// Streams of a node's containers, from its runtime.
pub struct RuntimeStreams {
    relay: Relay,
}

impl RuntimeStreams {
    /// Streams end with `stop`, and when nothing moves on them for `idle`.
    pub fn new(idle: Duration, stop: CancellationToken) -> Self {
        Self { relay: Relay { places: Arc::new(Semaphore::new(MOST_STREAMS)), idle, stop } }
    }
}

#[async_trait]
impl Streams for RuntimeStreams {
    async fn serve(&self, wanted: StreamRoute, node: &Handle, request: Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let url = match wanted {
            StreamRoute::Run(pod, container) => return run(node, &pod, &container, &query).await,
            StreamRoute::Exec(pod, container) => exec(node, &pod, &container, &query).await,
            StreamRoute::Attach(pod, container) => attach(node, &pod, &container, &query).await,
            StreamRoute::PortForward(pod) => forward(node, &pod, &request, &query).await,
        };
        match url {
            Ok(url) => self.relay.serve(&url, request).await,
            Err(refused) => refused.into(),
        }
    }
}

/// Why there is no stream.
struct Refused(StatusCode, String);

impl From<Refused> for Answer {
    fn from(Refused(status, words): Refused) -> Self {
        let mut answer = text(status, words);
        if status == StatusCode::TOO_MANY_REQUESTS {
            // The life of a URL that nobody came for.
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        answer
    }
}

async fn exec(node: &Handle, pod: &PodRef, container: &str, query: &str) -> Result<String, Refused> {
    let options = Options::of(query).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let exec = v1::ExecRequest {
        container_id: running(&view(node, pod)?, container)?,
        cmd: options.command,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        tty: options.tty,
    };
    node.runtime.exec(exec, Deadline::within(ASKING)).await.map(|answer| answer.url).map_err(|error| failed(&error))
}

async fn attach(node: &Handle, pod: &PodRef, container: &str, query: &str) -> Result<String, Refused> {
    let options = Options::of(query).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let attach = v1::AttachRequest {
        container_id: running(&view(node, pod)?, container)?,
        stdin: options.stdin,
        stdout: options.stdout,
        stderr: options.stderr,
        tty: options.tty,
    };
    node.runtime.attach(attach, Deadline::within(ASKING)).await.map(|answer| answer.url).map_err(|error| failed(&error))
}

async fn forward(node: &Handle, pod: &PodRef, request: &Request<Incoming>, query: &str) -> Result<String, Refused> {
    let port = forwarded_ports(request.headers(), query).map_err(|why| Refused(StatusCode::BAD_REQUEST, why))?;
    let view = view(node, pod)?;
    let by = Deadline::within(ASKING);
    let pod_sandbox_id = match sandbox(node.runtime.as_ref(), &view, by).await {
        Ok(Some(id)) => id,
        Ok(None) => return Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({:?})", pod.name))),
        Err(error) => return Err(failed(&error)),
    };
    let request = v1::PortForwardRequest { pod_sandbox_id, port };
    let answer = node.runtime.port_forward(request, by).await.map_err(|error| failed(&error))?;
    // Ports over the channels of a WebSocket are named in the query, and opened by it.
    Ok(if query.is_empty() { answer.url } else { format!("{}?{query}", answer.url) })
}

/// The words of a command that ran to its end are its output and then its errors, as the kubelet has it.
async fn run(node: &Handle, pod: &PodRef, container: &str, query: &str) -> Answer {
    let container_id = match view(node, pod).and_then(|view| running(&view, container)) {
        Ok(id) => id,
        Err(refused) => return refused.into(),
    };
    let command = options::command_of_run(query);
    let request = v1::ExecSyncRequest { container_id, cmd: command.clone(), timeout: 0 };
    match node.runtime.exec_sync(request, Deadline::within(RUN)).await {
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, chain(&error)),
        Ok(done) if done.exit_code != 0 => {
            let (command, errors) = (command.join(" "), String::from_utf8_lossy(&done.stderr).into_owned());
            let why = format!("command '{command}' exited with {}: {errors}", done.exit_code);
            text(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        Ok(done) if done.stdout.is_empty() && done.stderr.is_empty() => Response::new(Body::empty()),
        Ok(done) => whole(StatusCode::OK, "application/json", [done.stdout, done.stderr].concat()),
    }
}

fn view(node: &Handle, pod: &PodRef) -> Result<PodView, Refused> {
    let views = node.views.borrow().clone();
    find(&views, pod).cloned().ok_or_else(|| Refused(StatusCode::NOT_FOUND, "pod does not exist".into()))
}

fn running(view: &PodView, container: &str) -> Result<String, Refused> {
    let missing = || Refused(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})"));
    view.running(container).ok_or_else(missing)
}

async fn sandbox(runtime: &dyn Runtime, view: &PodView, by: Deadline) -> Result<Option<String>, RuntimeError> {
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    let filter = v1::PodSandboxFilter {
        label_selector: [(labels::POD_UID.to_owned(), uid)].into(),
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() }),
        ..Default::default()
    };
    let listed = runtime.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }, by).await?;
    Ok(listed.items.into_iter().max_by_key(|sandbox| sandbox.created_at).map(|sandbox| sandbox.id))
}

/// In the kubelet's codes.
fn failed(error: &RuntimeError) -> Refused {
    let status = match error.kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refused(status, chain(error))
}

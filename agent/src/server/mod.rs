//! The agent's own socket: what `longshore ps`, `logs`, `exec` and the others ask.
//!
//! HTTP over a Unix socket (0600) in the agent's run folder. Everything answers JSON; streams answer one value a line,
//! logs answer text. Errors are a [`Refusal`]. Nothing here decides about pods: it reads views and passes requests on.
//!
//! ```text
//! GET  /v1/pods                 Pods           GET  /v1/images                Images
//! GET  /v1/events?follow=       Event lines    POST /v1/images/import         ImageLine lines
//! GET  /v1/logs?…               text           POST /v1/images/pull           ImageLine lines
//! POST /v1/exec                 ExecAnswer     POST /v1/stop                  Stopped
//! GET  /v1/services             Services
//! GET  /v1/explain?…            Explanation    POST /v1/start                 Stopped
//! GET  /v1/top                  Top
//! GET  /v1/workloads            Workloads      GET, POST /v1/log-level        LogLevel
//! ```

mod events;
mod exec;
mod explain;
mod images;
mod log_level;
mod logs;
mod pods;
mod services;
mod top;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cri_proto::Runtime;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::errors::chain;
use crate::events::Recorder;
use crate::names::ObjectName;
use crate::pods::held::HeldPods;
use crate::proxy::Listed;
use crate::sources::Desired;
use crate::timeline::Timelines;
use crate::view::PodViews;
use crate::workloads::Rows;

pub use exec::{ExecAnswer, ExecRequest};
pub use images::{ImageLine, ImageRow, Images, ImportRequest, PullRequest};
pub(crate) use log_level::LogLevel;
pub use pods::{PodRow, Pods, Workloads};
pub(crate) use pods::{StopRequest, Stopped};
pub use services::Services;
pub use top::{Top, TopPod, Used};

/// The socket's name in the run folder.
pub const SOCKET: &str = "agent.sock";

/// Largest request; the longest is an exec with a long command line.
const LARGEST_REQUEST: usize = 1 << 20;

/// Pulls that run: the image, bytes that are here, bytes there are.
pub type Pulls = Arc<dyn Fn() -> Vec<(String, u64, u64)> + Send + Sync>;

/// What the socket shows and whom it passes requests to.
#[derive(Clone)]
pub struct Surface {
    /// All pods.
    pub views: PodViews,
    /// Services, as they were programmed last.
    pub services: watch::Receiver<Arc<Listed>>,
    /// All workloads.
    pub workloads: Rows,
    /// What happened.
    pub recorder: Recorder,
    /// What was tried.
    pub timelines: Timelines,
    /// Pods that were stopped by hand.
    pub held: HeldPods,
    /// What should run, and what is wrong with manifests.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// Where containers live.
    pub runtime: Arc<dyn Runtime>,
    /// The embedded runtime's images, for `import` and for a pull with progress.
    pub images: runtime::images::ImageStore,
    /// Pulls that run.
    pub pulls: Pulls,
    /// Root of the pods' log folders.
    pub logs: PathBuf,
    /// Who stops pods.
    pub control: Arc<dyn Control>,
}

/// Stops pods on a person's word.
#[async_trait::async_trait]
pub trait Control: Send + Sync {
    /// Stops these pods with their grace periods, or with this one where it is sooner, and keeps them stopped until they
    /// are started or their manifest changes. Answers when they are gone.
    async fn stop_pods(&self, pods: Vec<ObjectName>, grace: Option<Duration>);
    /// Starts those of these pods again that were stopped so; answers which those are.
    async fn start_pods(&self, pods: Vec<ObjectName>) -> Vec<ObjectName>;
    /// Ends the agent, with all of its pods.
    fn stop_agent(&self);
}

/// Why a request was not served.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// For a person.
    pub message: String,
    /// HTTP status; not on the wire.
    #[serde(skip)]
    status: u16,
}

impl Refusal {
    fn not_found(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 404 }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 400 }
    }

    fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { message: chain(error), status: 500 }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listening on {}", socket.display())]
pub struct ListenError {
    socket: PathBuf,
    source: io::Error,
}

/// Serves `surface` on `<run>/agent.sock` until `stop`.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(surface: Surface, run: &Path, stop: CancellationToken) -> Result<(), ListenError> {
    let socket = run.join(SOCKET);
    let listener = listen(&socket).map_err(|source| ListenError { socket: socket.clone(), source })?;
    let router = axum::Router::new()
        .route("/v1/pods", get(pods::list))
        .route("/v1/workloads", get(pods::workloads))
        .route("/v1/events", get(events::list))
        .route("/v1/logs", get(logs::read))
        .route("/v1/exec", post(exec::start))
        .route("/v1/explain", get(explain::one))
        .route("/v1/images", get(images::list))
        .route("/v1/images/import", post(images::import))
        .route("/v1/images/pull", post(images::pull))
        .route("/v1/stop", post(pods::stop))
        .route("/v1/services", get(services::list))
        .route("/v1/start", post(pods::start))
        .route("/v1/top", get(top::list))
        .route("/v1/log-level", get(log_level::show).post(log_level::change))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(surface);
    let served = axum::serve(listener, router);
    // Followers never end by themselves, so there is nothing to wait for when the agent goes.
    tokio::select! {
        result = served => result.map_err(|source| ListenError { socket: socket.clone(), source })?,
        () = stop.cancelled() => {}
    }
    // A socket that stays behind only costs the next client a clearer message.
    let _ = std::fs::remove_file(socket);
    Ok(())
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

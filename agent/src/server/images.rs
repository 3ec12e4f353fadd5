//! Images by hand: what is there, imports, pulls with their progress.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use runtime::images::{Credentials, Image, ImageError, ImageRef, PullProgress};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::events::line;
use super::{Refusal, Surface};
use crate::errors::chain;

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// `GET /v1/images`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Images {
    /// In no order.
    pub images: Vec<ImageRow>,
}

/// One image.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageRow {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Names with tags, then names with digests.
    pub names: Vec<String>,
    /// Bytes on disk, unpacked.
    pub size: u64,
}

impl From<&Image> for ImageRow {
    fn from(image: &Image) -> Self {
        let names = image.tags.iter().chain(&image.digests).cloned().collect();
        Self { id: image.id.to_string(), names, size: image.size }
    }
}

/// `POST /v1/images/import`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// Absolute path on this machine.
    pub path: PathBuf,
    /// Name for an image that carries none.
    pub name: Option<String>,
}

/// `POST /v1/images/pull`.
#[derive(Serialize, Deserialize)]
pub struct PullRequest {
    /// Any form of reference.
    pub image: String,
    /// `user:password`.
    pub credentials: Option<String>,
}

/// One line of an import's or pull's answer. The last one is not `Progress`.
#[derive(Debug, Serialize, Deserialize)]
pub enum ImageLine {
    /// How far it is.
    Progress {
        /// Bytes read.
        done: u64,
        /// Bytes to read, where that is known.
        total: Option<u64>,
        /// How many layers there are.
        layers: usize,
    },
    /// An image is there.
    Done(ImageRow),
    /// Why not, for a person.
    Failed {
        /// The error with its causes.
        message: String,
    },
}

pub(super) async fn list(State(surface): State<Surface>) -> Json<Images> {
    Json(Images { images: surface.images.list().iter().map(ImageRow::from).collect() })
}

pub(super) async fn import(
    State(surface): State<Surface>,
    Json(request): Json<ImportRequest>,
) -> Result<Response, Refusal> {
    if !request.path.is_absolute() {
        return Err(Refusal::bad(format!("{} is not an absolute path", request.path.display())));
    }
    let name = request.name.as_deref().map(reference).transpose()?;
    let images = surface.images;
    Ok(answer(PullProgress::default(), async move { images.import(&request.path, name.as_ref()).await }))
}

pub(super) async fn pull(
    State(surface): State<Surface>,
    Json(request): Json<PullRequest>,
) -> Result<Response, Refusal> {
    let name = reference(&request.image)?;
    let credentials = request.credentials.as_deref().map(credentials).transpose()?;
    let (progress, images) = (PullProgress::default(), surface.images);
    let watched = progress.clone();
    Ok(answer(watched, async move { images.pull(&name, credentials, &progress).await.map(|image| vec![image]) }))
}

fn reference(text: &str) -> Result<ImageRef, Refusal> {
    text.parse().map_err(|error| Refusal::bad(chain(&error)))
}

fn credentials(text: &str) -> Result<Credentials, Refusal> {
    let (username, password) =
        text.split_once(':').ok_or_else(|| Refusal::bad("credentials are written user:password"))?;
    Ok(Credentials::Basic { username: username.into(), password: password.into() })
}

/// Streams the progress of `work`, then how it ended. A client that goes away does not end the work.
fn answer(
    progress: PullProgress,
    work: impl Future<Output = Result<Vec<Image>, ImageError>> + Send + 'static,
) -> Response {
    let (lines, stream) = mpsc::channel::<Result<Bytes, serde_json::Error>>(4);
    tokio::spawn(async move {
        let mut work = Box::pin(work);
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = tokio::time::sleep(TOLD_EVERY) => {
                    // A client that reads slowly misses steps, not the end.
                    let _ = lines.try_send(line(&step(&progress)));
                }
            }
        };
        let last = match ended {
            Ok(images) => images.iter().map(|image| ImageLine::Done(image.into())).collect(),
            Err(error) => vec![ImageLine::Failed { message: chain(&error) }],
        };
        for told in last {
            let _ = lines.send(line(&told)).await;
        }
    });
    Body::from_stream(ReceiverStream::new(stream)).into_response()
}

fn step(progress: &PullProgress) -> ImageLine {
    let (done, total) = progress.bytes();
    ImageLine::Progress { done, total: (total > 0).then_some(total), layers: progress.layers().len() }
}

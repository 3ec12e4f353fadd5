//! Speaks with the agent that runs on this machine, over its Unix socket.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// Longest line of a stream of values, and largest single answer, bytes: a node's pods with their statuses fit.
const LARGEST: usize = 64 << 20;

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {}; start one with `longshore run FILE…`, or name its folder with --run-dir", socket.display())]
    NoAgent {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("talking to the agent")]
    Http(#[from] hyper::Error),
    /// The agent's own words.
    #[error("{0}")]
    Refused(String),
    /// Not an answer of this version's agent.
    #[error("the agent's answer could not be read")]
    Answer(#[source] serde_json::Error),
    /// The answer is larger than any that an agent gives.
    #[error("the agent's answer is larger than {LARGEST} bytes")]
    TooLarge,
}

/// The agent's socket.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    /// The agent whose run folder is `run`.
    pub(super) fn of(run: &Path) -> Self {
        Self { socket: run.join(crate::server::SOCKET) }
    }

    /// Whether an agent is there.
    pub(super) async fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Asks for one value.
    ///
    /// # Errors
    /// When no agent runs, it refuses, or its answer is not of type `T`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        whole(self.send("GET", path, Bytes::new()).await?).await
    }

    /// Hands `body` over and reads one value back.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        whole(self.send("POST", path, json(body)?).await?).await
    }

    /// Asks for a stream of bytes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn stream(&self, path: &str) -> Result<Incoming, ClientError> {
        Ok(self.send("GET", path, Bytes::new()).await?.into_body())
    }

    /// Hands `body` over and reads values, one a line, until the agent has no more.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn post_for_lines(&self, path: &str, body: &impl Serialize) -> Result<Lines, ClientError> {
        Ok(Lines::of(self.send("POST", path, json(body)?).await?.into_body()))
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NoAgent { socket: self.socket.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "longshore")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Refused(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

fn json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    Ok(serde_json::to_vec(body).map_err(ClientError::Answer)?.into())
}

async fn refusal(response: Response<Incoming>) -> ClientError {
    let status = response.status();
    let text = read(response.into_body()).await.unwrap_or_default();
    let said = serde_json::from_slice::<crate::server::Refusal>(&text).map(|refusal| refusal.message);
    ClientError::Refused(said.unwrap_or_else(|_| status.to_string()))
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    serde_json::from_slice(&read(response.into_body()).await?).map_err(ClientError::Answer)
}

async fn read(mut body: Incoming) -> Result<BytesMut, ClientError> {
    let mut text = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if text.len() + data.len() > LARGEST {
                return Err(ClientError::TooLarge);
            }
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

/// Values, one a line.
pub(super) struct Lines {
    body: Incoming,
    rest: BytesMut,
}

impl Lines {
    /// Reads lines from `body`.
    pub(super) fn of(body: Incoming) -> Self {
        Self { body, rest: BytesMut::new() }
    }

    /// The next value, or `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or a line is not a `T`.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(ClientError::Answer);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                    if self.rest.len() > LARGEST {
                        return Err(ClientError::TooLarge);
                    }
                }
            }
        }
    }
}

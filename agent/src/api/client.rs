//! One call to the API server: connection, credentials, deadline, and the wait that it asks for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self};
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::credentials::{Credentials, CredentialsError, files};
use super::error::ApiError;
use super::kubeconfig::Kubeconfig;
use crate::metrics::{Figures, Metric};
use crate::reloaded::Reloaded;

/// A server in the same cluster answers a handshake in milliseconds; one that is gone must not use up a call's patience.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a call may take with all of its tries: the kubelet's own limit for status and lease is 10 s.
const ANSWER: Duration = Duration::from_secs(10);
/// A server that is asked to hold back says for how long; more is not believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A list comes in pages of five hundred objects.
const LARGEST: usize = 64 << 20;
/// A dead peer is found after 15 s of silence and three unanswered questions: half a minute.
const SILENCE: Duration = Duration::from_secs(15);

// Names and bounds are client-go's.
const CALLS: Metric = Metric::counter("rest_client_requests_total", "Calls to the API server, by method and code.");
const TOOK: Metric = Metric::histogram(
    "rest_client_request_duration_seconds",
    "From a call to the API server to the beginning of its answer.",
    || vec![0.005, 0.025, 0.1, 0.25, 0.5, 1., 2., 4., 8., 15., 30., 60.],
);

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// A whole object.
    Json,
    /// Lists of known types are merged by their keys.
    StrategicMergePatch,
    /// RFC 7386.
    MergePatch,
}

impl Body {
    fn content_type(self) -> &'static str {
        match self {
            Body::Json => "application/json",
            Body::StrategicMergePatch => "application/strategic-merge-patch+json",
            Body::MergePatch => "application/merge-patch+json",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<(Body, Bytes)>,
}

impl Call {
    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), query: Vec::new(), body: None }
    }

    /// Anything else, with what is sent.
    pub fn send(method: Method, path: impl Into<String>, kind: Body, body: Vec<u8>) -> Self {
        Self { method, body: Some((kind, body.into())), ..Self::get(path) }
    }

    /// One more query parameter.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn target(&self) -> String {
        let mut target = self.path.clone();
        for (index, (key, value)) in self.query.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(key);
            target.push('=');
            escape(value, &mut target);
        }
        target
    }
}

fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => into.push(char::from(byte)),
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

type Https = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Connections that were made with one set of credentials.
struct Transport {
    https: Https,
    token: Option<HeaderValue>,
}

/// Calls the API server of one kubeconfig. Clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    config: Kubeconfig,
    figures: Figures,
    /// Connections for the next call: when a file of the credentials has changed, they are new, and a certificate that was
    /// renewed is used without a restart.
    transport: Reloaded<Transport, CredentialsError>,
}

impl Client {
    /// A client for `config`. Nothing is sent yet.
    ///
    /// # Errors
    /// When a certificate, key or token cannot be used.
    pub fn new(config: Kubeconfig) -> Result<Self, CredentialsError> {
        let what = format!("the credentials for {}", config.server);
        let of = config.clone();
        let transport = Reloaded::new(what, files(&config), move || transport(&of))?;
        Ok(Self(Arc::new(Shared { config, figures: Figures::default(), transport })))
    }

    /// The calls that were made, counted.
    pub(crate) fn figures(&self) -> &Figures {
        &self.0.figures
    }

    /// `https://host:port` of the API server.
    pub fn server(&self) -> &str {
        &self.0.config.server
    }

    /// One call, its answer decoded.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, ApiError> {
        let bytes = self.bytes(&call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ApiError::Unreadable { call: call.shown(), source: source.into() })
    }

    /// One call, its answer as it came.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn bytes(&self, call: &Call) -> Result<Bytes, ApiError> {
        let by = Instant::now() + ANSWER;
        loop {
            let pause =
                match self.once(call, by).await {
                    Err(ApiError::Refused {
                        code: StatusCode::TOO_MANY_REQUESTS, retry_after: Some(pause), ..
                    }) if Instant::now() + pause < by => pause,
                    done => return done,
                };
            sleep(pause).await;
        }
    }

    async fn once(&self, call: &Call, by: Instant) -> Result<Bytes, ApiError> {
        let whole = async {
            let answer = self.open(call).await?;
            let (code, pause) = (answer.status(), retry_after(&answer));
            let body = http_body_util::Limited::new(answer.into_body(), LARGEST).collect().await;
            let bytes = body.map_err(|source| ApiError::Unreadable { call: call.shown(), source })?.to_bytes();
            match code.is_success() {
                true => Ok(bytes),
                false => Err(ApiError::of_answer(&call.shown(), code, pause, &bytes)),
            }
        };
        timeout_at(by, whole).await.unwrap_or_else(|_| Err(self.too_slow(call, ANSWER)))
    }

    /// A watch: the body as it comes, once the server has begun to answer.
    pub(super) async fn stream(&self, call: &Call) -> Result<Incoming, ApiError> {
        // Until the server's cache is as new as what is asked for, nothing comes; it gives up after 3 s itself.
        let answer = timeout(ANSWER, self.open(call)).await.unwrap_or_else(|_| Err(self.too_slow(call, ANSWER)))?;
        let (code, pause) = (answer.status(), retry_after(&answer));
        if code.is_success() {
            return Ok(answer.into_body());
        }
        let body = http_body_util::Limited::new(answer.into_body(), LARGEST).collect();
        let bytes = match timeout(ANSWER, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            _ => Bytes::new(),
        };
        Err(ApiError::of_answer(&call.shown(), code, pause, &bytes))
    }

    async fn open(&self, call: &Call) -> Result<Response<Incoming>, ApiError> {
        let unreadable =
            |source: hyper::http::Error| ApiError::Unreadable { call: call.shown(), source: source.into() };
        let transport = self.0.transport.current();
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.server(), call.target()))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("longshore/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &transport.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let body = match &call.body {
            Some((kind, body)) => {
                request = request.header(CONTENT_TYPE, kind.content_type());
                body.clone()
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(unreadable)?;
        let began = Instant::now();
        let answer = transport.https.request(request).await;
        self.count(call, began.elapsed(), answer.as_ref().ok().map(Response::status));
        answer.map_err(|source| ApiError::Unreachable {
            call: call.shown(),
            server: self.server().to_owned(),
            source: source.into(),
        })
    }

    /// Until the answer begins; without a code there was none.
    fn count(&self, call: &Call, took: Duration, code: Option<StatusCode>) {
        let host = self.server().split_once("://").map_or(self.server(), |(_, host)| host);
        let (method, code) =
            (call.method.as_str(), code.map_or_else(|| "<error>".into(), |code| code.as_str().to_owned()));
        self.figures().add(CALLS, &[("code", &code), ("host", host), ("method", method)], 1.0);
        self.figures().took(TOOK, &[("host", host), ("verb", method)], took);
    }

    fn too_slow(&self, call: &Call, within: Duration) -> ApiError {
        ApiError::TooSlow { call: call.shown(), server: self.server().to_owned(), within }
    }
}

fn transport(config: &Kubeconfig) -> Result<Transport, CredentialsError> {
    let Credentials { tls, token } = Credentials::read(config)?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(SILENCE));
    http.set_keepalive_interval(Some(Duration::from_secs(5)));
    http.set_keepalive_retries(Some(3));
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
    let name = config.server_name.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok());
    let https = match name {
        Some(name) => https.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => https,
    };
    let https = https.enable_http1().wrap_connector(http);
    Ok(Transport { https: legacy::Client::builder(TokioExecutor::new()).build(https), token })
}

fn retry_after(answer: &Response<Incoming>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let call = Call::get("/api/v1/pods").with("fieldSelector", "spec.nodeName=n 1&x").with("limit", "500");
        assert_eq!(call.target(), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn%201%26x&limit=500");
        assert_eq!(call.shown(), "GET /api/v1/pods");
    }
}

//! HTTP requests of probes and hooks: a new connection each time, no proxy, certificates not verified.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERER, USER_AGENT};
use hyper::{Method, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::attempt::{Found, LONGEST};
use super::target::{self, BadPort};
use super::url::{self, Url};

/// As many requests a chain of redirects may have, the first included; one more is a failure.
const REDIRECTS: usize = 10;
/// The version that probes and hooks say they are.
pub(super) const VERSION: &str = "1.36";

/// What requests share: the TLS configuration.
#[derive(Clone)]
pub struct Http {
    tls: TlsConnector,
}

impl Http {
    /// A client that trusts every certificate: probes ask whether something answers, not who.
    ///
    /// # Errors
    /// When the TLS library has no usable protocol version, which a build decides.
    pub fn new() -> Result<Self, rustls::Error> {
        Ok(Self { tls: TlsConnector::from(Arc::new(runtime::tls::trusting()?)) })
    }
}

/// A request that cannot be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRequest {
    #[error(transparent)]
    Port(#[from] BadPort),
    #[error("{0:?} is not an HTTP header")]
    Header(String),
}

/// A GET, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub url: Url,
    headers: HeaderMap,
}

impl Request {
    /// The request of an action; `agent` is `kube-probe` or `kube-lifecycle`.
    pub(super) fn of(
        action: &HTTPGetAction,
        container: &Container,
        pod_ip: Option<&str>,
        agent: &str,
    ) -> Result<Self, BadRequest> {
        let port = target::port(&action.port, container)?;
        let host = target::host(action.host.as_deref(), pod_ip);
        let tls = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        let path = url::escaped(action.path.as_deref().unwrap_or("/"));
        let url = Url { tls, host: host.trim_matches(['[', ']']).to_owned(), port, path };
        Ok(Self { url, headers: headers(action, agent)? })
    }

    /// Where an answer sent us. A `Host` of the probe's own goes along only where the answer named no host itself.
    fn redirected(&self, url: Url, location: &str) -> Self {
        let mut headers = self.headers.clone();
        if url::names_host(location) {
            headers.remove(HOST);
        }
        match HeaderValue::from_str(&self.url.to_string()) {
            Ok(from) if url.tls || !self.url.tls => drop(headers.insert(REFERER, from)),
            // Nobody is told over plain HTTP where we were over TLS.
            _ => drop(headers.remove(REFERER)),
        }
        Self { url, headers }
    }

    /// The same over plain HTTP, without what should not be read on the way.
    pub(super) fn in_plain_text(&self) -> Self {
        let mut plain = self.clone();
        plain.url.tls = false;
        plain.headers.remove(hyper::header::AUTHORIZATION);
        plain
    }
}

fn headers(action: &HTTPGetAction, agent: &str) -> Result<HeaderMap, BadRequest> {
    let mut headers = HeaderMap::new();
    for header in action.http_headers.iter().flatten() {
        let bad = || BadRequest::Header(header.name.clone());
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_str(&header.value).map_err(|_| bad())?;
        if name == HOST {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    if !headers.contains_key(USER_AGENT) {
        let agent = format!("{agent}/{VERSION}");
        headers.insert(USER_AGENT, HeaderValue::from_str(&agent).map_err(|_| BadRequest::Header(agent))?);
    }
    match headers.get(ACCEPT) {
        None => drop(headers.insert(ACCEPT, HeaderValue::from_static("*/*"))),
        // Given but empty: none is sent.
        Some(accept) if accept.is_empty() => drop(headers.remove(ACCEPT)),
        Some(_) => {}
    }
    Ok(headers)
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("dial tcp {address}")]
    Connect { address: String, source: io::Error },
    #[error("tls")]
    Tls(#[source] io::Error),
    #[error("http")]
    Http(#[from] hyper::Error),
    #[error("{0:?} is no address to send a request to")]
    Address(String),
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Late,
}

impl SendError {
    /// The other side speaks plain HTTP where TLS was expected.
    pub(super) fn is_plain_http(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidMessage(_)))
    }

    /// The chain in one line, in the words people look for.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Connect { address, source } => format!("dial tcp {address}: {}", in_words(source)),
            Self::Tls(error) => format!("tls: {error}"),
            Self::Http(error) => error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
            Self::Address(_) | Self::Late => self.to_string(),
        }
    }
}

/// An I/O error as the tools around Kubernetes print it.
pub(super) fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

/// Probes once, redirects and body included, within `limit`.
pub(super) async fn probe(http: &Http, request: &Request, limit: Duration) -> Found {
    let by = Some(Instant::now() + limit);
    let mut request = request.clone();
    let failed = |url: &Url, text: &str| Found::Failure(format!("Get \"{url}\": {text}"));
    match follow(http, &mut request, by).await {
        Ok(answer) => answer.judged(),
        Err(Followed::Send(error)) => failed(&request.url, &error.in_words()),
        Err(Followed::TooFar) => failed(&request.url, &format!("stopped after {REDIRECTS} redirects")),
        Err(Followed::Body(error)) => Found::Broken(error.to_string()),
    }
}

/// By when; whoever waits for a hook has a limit of its own.
type By = Option<Instant>;

async fn within<T>(by: By, work: impl Future<Output = T>) -> Option<T> {
    match by {
        Some(by) => timeout_at(by, work).await.ok(),
        None => Some(work.await),
    }
}

/// The last answer of a chain of redirects.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

impl Answer {
    fn judged(&self) -> Found {
        match self.status.as_u16() {
            200..=299 => Found::Success,
            300..=399 => {
                let body = String::from_utf8_lossy(&self.body);
                Found::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            code => Found::Failure(format!("HTTP probe failed with statuscode: {code}")),
        }
    }
}

enum Followed {
    Send(SendError),
    Body(BodyError),
    TooFar,
}

/// An answer whose body could not be read.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("context deadline exceeded (Client.Timeout or context cancellation while reading body)")]
    Late,
}

/// Follows redirects on the host that the first request goes to; `request` becomes the last one.
async fn follow(http: &Http, request: &mut Request, by: By) -> Result<Answer, Followed> {
    let first_host = request.url.host.clone();
    for _ in 0..REDIRECTS {
        let response = exchange(http, request, by).await.map_err(Followed::Send)?;
        match next(&request.url, &response.head) {
            Some((url, location)) if url.host == first_host => *request = request.redirected(url, location),
            _ => return response.answer().map_err(Followed::Body),
        }
    }
    Err(Followed::TooFar)
}

/// Where an answer sends us, if it does.
fn next<'a>(from: &Url, head: &'a Head) -> Option<(Url, &'a str)> {
    let redirects = [301, 302, 303, 307, 308].contains(&head.status.as_u16());
    let location = head.location.as_deref().filter(|_| redirects)?;
    Some((url::resolved(from, location)?, location))
}

struct Head {
    status: StatusCode,
    location: Option<String>,
}

struct Exchanged {
    head: Head,
    body: Result<Vec<u8>, BodyError>,
}

impl Exchanged {
    fn answer(self) -> Result<Answer, BodyError> {
        Ok(Answer { status: self.head.status, body: self.body? })
    }
}

/// Sends one request over a connection of its own; any answer will do.
pub(super) async fn send(http: &Http, request: &Request) -> Result<StatusCode, SendError> {
    Ok(exchange(http, request, None).await?.head.status)
}

async fn exchange(http: &Http, request: &Request, by: By) -> Result<Exchanged, SendError> {
    let (host, port) = (request.url.host.as_str(), request.url.port);
    let refused = |source| SendError::Connect { address: target::authority(host, port), source };
    let connected = within(by, TcpStream::connect((host, port))).await.ok_or(SendError::Late)?;
    let stream = connected.map_err(refused)?;
    if !request.url.tls {
        // The request goes out in one piece, and at once: nothing of ours is on its way.
        return over(stream, request, by).await;
    }
    // It follows the end of the handshake, which must not hold it up.
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(host.to_owned()).map_err(|_| SendError::Address(host.to_owned()))?;
    let secured = within(by, http.tls.connect(name, stream)).await.ok_or(SendError::Late)?;
    over(secured.map_err(SendError::Tls)?, request, by).await
}

async fn over<S>(stream: S, request: &Request, by: By) -> Result<Exchanged, SendError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        // What no sane server sends: a header block of 64 KiB or a hundred fields.
        .max_buf_size(64 << 10)
        // As Go writes them; a shell script behind a probe may not know that case means nothing.
        .title_case_headers(true)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await?;
    let message = message(request)?;
    let exchange = async move {
        let response = within(by, sender.send_request(message)).await.ok_or(SendError::Late)??;
        Ok::<_, SendError>(read(response, by).await)
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    // The connection moves the bytes; it may end first, with the answer still to be taken.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

fn message(request: &Request) -> Result<hyper::Request<Empty<Bytes>>, SendError> {
    let bad = || SendError::Address(request.url.to_string());
    let uri: Uri = request.url.path.parse().map_err(|_| bad())?;
    let mut message = hyper::Request::new(Empty::new());
    *message.method_mut() = Method::GET;
    *message.uri_mut() = uri;
    *message.headers_mut() = request.headers.clone();
    let headers = message.headers_mut();
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(&request.url.host_header()).map_err(|_| bad())?);
    }
    headers.insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
    Ok(message)
}

/// The head, and as much of the body as is of interest.
async fn read(response: Response<Incoming>, by: By) -> Exchanged {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let head = Head { status: response.status(), location };
    let body = within(by, read_body(response.into_body())).await.unwrap_or(Err(BodyError::Late));
    Exchanged { head, body }
}

async fn read_body(mut body: Incoming) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST {
        match body.frame().await {
            Some(frame) => bytes.extend_from_slice(frame?.data_ref().map_or(&[], |data| data)),
            None => break,
        }
    }
    bytes.truncate(LONGEST);
    Ok(bytes)
}

#[cfg(test)]
mod tests;

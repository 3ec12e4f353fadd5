//! `grpc.health.v1.Health/Check` over plaintext HTTP/2. Its two messages are one field each, so they are written here.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::Service as _;

use super::attempt::Found;
use super::http::VERSION;
use super::target;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// An answer is five bytes of frame and two of message; a server that sends more than this is no health service.
const LARGEST_ANSWER: usize = 4 << 10;
/// How soon a refused connection is tried again, doubled each time: the kubelet's client, too, tries until its time
/// is up.
const AGAIN: Duration = Duration::from_millis(50);

/// gRPC's status codes by number, as Go prints them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const UNKNOWN: usize = 2;
const DEADLINE_EXCEEDED: usize = 4;
const UNIMPLEMENTED: usize = 12;
const INTERNAL: usize = 13;
const UNAVAILABLE: usize = 14;

/// `HealthCheckResponse.ServingStatus` by number.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// A call that was answered with a status other than OK, or not at all.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    code: usize,
    message: String,
}

impl Refused {
    fn new(code: usize, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Asks once, connecting included, within `limit`. Never an error: whatever goes wrong is the container's failure.
pub(super) async fn probe(host: &str, port: u16, service: &str, limit: Duration) -> Found {
    let address = target::authority(host, port);
    if host.is_empty() {
        return Found::Failure(format!("error: failed to connect service at {address:?}: the pod has no address"));
    }
    let by = Instant::now() + limit;
    let within = duration(limit);
    let Ok(channel) = timeout_at(by, connected(host, port, &address)).await else {
        return Found::Failure(format!(
            "timeout: failed to connect service {address:?} within {within}: context deadline exceeded"
        ));
    };
    let answer = match channel {
        Err(error) => return Found::Failure(format!("error: failed to connect service at {address:?}: {error}")),
        Ok(channel) => timeout_at(by, check(channel, &address, service, limit)).await,
    };
    match answer {
        Ok(Ok(1)) => Found::Success,
        Ok(Ok(status)) => {
            let known = usize::try_from(status).ok().and_then(|status| SERVING.get(status));
            let name = known.map_or_else(|| status.to_string(), |name| (*name).to_owned());
            Found::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        // Tonic, too, watches the time that the request names.
        Ok(Err(_)) if Instant::now() >= by => Found::Failure(told(&Refused::new(DEADLINE_EXCEEDED, ""), &within)),
        Ok(Err(refused)) => Found::Failure(told(&refused, &within)),
        Err(_) => Found::Failure(told(&Refused::new(DEADLINE_EXCEEDED, ""), &within)),
    }
}

fn told(Refused { code, message }: &Refused, within: &str) -> String {
    match *code {
        UNIMPLEMENTED => {
            format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
        }
        DEADLINE_EXCEEDED => format!("timeout: health rpc did not complete within {within}"),
        code => {
            let name = CODES.get(code).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
            format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}")
        }
    }
}

/// Whole seconds as Go prints a duration.
fn duration(limit: Duration) -> String {
    let (minutes, seconds) = (limit.as_secs() / 60, limit.as_secs() % 60);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Dials until somebody accepts; only what can never be dialled is an error.
async fn connected(host: &str, port: u16, address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.user_agent(format!("kube-probe/{VERSION}"))?;
    let mut wait = AGAIN;
    loop {
        let host = host.to_owned();
        // The same type as the way to a container runtime's socket: HTTP/2 is not compiled once more for probes.
        let dial = tower::service_fn(move |_| {
            let host = host.clone();
            async move { TcpStream::connect((host.as_str(), port)).await.map(TokioIo::new) }
        });
        match endpoint.connect_with_connector(dial).await {
            Ok(channel) => return Ok(channel),
            Err(_) => sleep(wait).await,
        }
        wait *= 2;
    }
}

/// The serving status that the server answers with.
async fn check(mut channel: Channel, address: &str, service: &str, limit: Duration) -> Result<u64, Refused> {
    let lost = |error: tonic::transport::Error| Refused::new(UNAVAILABLE, crate::errors::chain(&error));
    let request = request(address, service, limit)?;
    poll_fn(|context| channel.poll_ready(context)).await.map_err(lost)?;
    let answer = channel.call(request).await.map_err(lost)?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    if let Some(refused) = refused(&headers) {
        return refused.and(Err(Refused::new(INTERNAL, "the answer holds no message")));
    }
    if status != StatusCode::OK {
        return Err(foreign(status));
    }
    serving(&read(answer).await?)
}

fn request(address: &str, service: &str, limit: Duration) -> Result<Request<Body>, Refused> {
    let message = message(service);
    let mut request = Request::new(Body::new(Full::new(message)));
    *request.method_mut() = Method::POST;
    let uri = format!("http://{address}{CHECK}").parse();
    *request.uri_mut() = uri.map_err(|error| Refused::new(INTERNAL, format!("{address:?} is no address: {error}")))?;
    let headers = request.headers_mut();
    headers.insert(TE, hyper::header::HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/grpc"));
    if let Ok(limit) = format!("{}S", limit.as_secs().min(99_999_999)).parse() {
        headers.insert("grpc-timeout", limit);
    }
    Ok(request)
}

/// `HealthCheckRequest { string service = 1; }` in its frame.
fn message(service: &str) -> Bytes {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.push((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(service.as_bytes());
    }
    // Not compressed, and how long it is.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &body].concat().into()
}

/// The message's bytes, once the trailers have said OK.
async fn read(answer: Response<Body>) -> Result<Vec<u8>, Refused> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|status| Refused::new(UNAVAILABLE, status.message()))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if let Some(end) = frame.trailers_ref().and_then(refused) {
            end?;
        }
        if bytes.len() > LARGEST_ANSWER {
            return Err(Refused::new(INTERNAL, "the answer is too long for a health check"));
        }
    }
    Ok(bytes)
}

/// What headers or trailers say of the call, if they say it.
fn refused(headers: &HeaderMap) -> Option<Result<(), Refused>> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(|message| unescaped(message.as_bytes())).unwrap_or_default();
    Some(Err(Refused { code, message }))
}

/// `grpc-message` has `%XX` for what a header cannot hold.
fn unescaped(text: &[u8]) -> String {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| *first == b'%') {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A server that does not speak gRPC, by the table of gRPC's own clients.
fn foreign(status: StatusCode) -> Refused {
    let code = match status.as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    let mut text = format!("unexpected HTTP status code received from server: {}", status.as_u16());
    let _ = status.canonical_reason().map(|reason| write!(text, " ({reason})"));
    Refused::new(code, text)
}

/// `HealthCheckResponse { ServingStatus status = 1; }` in its frame; other fields are from a later protocol.
fn serving(frame: &[u8]) -> Result<u64, Refused> {
    let broken = || Refused::new(INTERNAL, "the answer is no HealthCheckResponse");
    let (head, body) = frame.split_at_checked(5).ok_or_else(broken)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || usize::try_from(length) != Ok(body.len()) {
        return Err(broken());
    }
    let mut rest = body;
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(broken)?;
        let skipped = match key & 7 {
            0 => {
                let value = varint(&mut rest).ok_or_else(broken)?;
                if key >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest).ok_or_else(broken)?).map_err(|_| broken())?,
            5 => 4,
            _ => return Err(broken()),
        };
        rest = rest.get(skipped..).ok_or_else(broken)?;
    }
    Ok(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;

//! Carries an upgrade, and what follows it, between a client and a runtime's one-time URL.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use runtime::idle::watch;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::super::answers::{Answer, text};

/// The runtime is on this machine, and answers the head at once.
const UPGRADING: Duration = Duration::from_secs(30);

/// Words of a runtime that refuses.
const LARGEST_REFUSAL: usize = 64 << 10;

/// What is on its way in one direction.
const PIECE: usize = 32 << 10;

/// What of a request's head is the runtime's business: how to go on. Who asked, and with what token, is not.
const PASSED_ON: [&str; 5] = [
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
];

/// Carries streams.
pub(super) struct Relay {
    pub(super) places: Arc<Semaphore>,
    pub(super) idle: Duration,
    pub(super) stop: CancellationToken,
}

impl Relay {
    /// Asks at `url` what the client asks here. A refusal is passed on, and nothing after it.
    pub(super) async fn serve(&self, url: &str, mut request: Request<Incoming>) -> Answer {
        if !is_upgrade(request.headers()) {
            return text(StatusCode::BAD_REQUEST, "Upgrade request required");
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return text(StatusCode::TOO_MANY_REQUESTS, "too many streams are open on this node");
        };
        let client = hyper::upgrade::on(&mut request);
        let answered = timeout(UPGRADING, ask(url, &request)).await;
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, format!("asking the runtime for a stream: {error}"));
            }
            Err(_) => return text(StatusCode::INTERNAL_SERVER_ERROR, "the runtime did not answer the upgrade in time"),
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return refusal(answer).await;
        }
        self.go_on(answer, client, place)
    }

    fn go_on(&self, mut answer: Response<Incoming>, client: OnUpgrade, place: OwnedSemaphorePermit) -> Answer {
        let runtime = hyper::upgrade::on(&mut answer);
        let (idle, stop) = (self.idle, self.stop.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                result = carry(client, runtime, idle) => if let Err(error) = result {
                    debug!(%error, "a stream ended");
                },
                () = stop.cancelled() => {}
            }
        });
        let mut switched = Response::new(Body::empty());
        *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *switched.headers_mut() = std::mem::take(answer.headers_mut());
        switched
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    headers.contains_key(UPGRADE)
        && values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("upgrade"))
}

async fn ask(url: &str, request: &Request<Incoming>) -> io::Result<Response<Incoming>> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(io::Error::other("its streaming address is no http:// address"));
    };
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the connection, or with whoever holds its upgraded half.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "the runtime's end of a stream");
        }
    });
    let host = HeaderValue::from_str(authority.as_str()).map_err(io::Error::other)?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let asked = Request::builder().method(request.method()).uri(target).body(Empty::<Bytes>::new());
    let mut asked = asked.map_err(io::Error::other)?;
    *asked.headers_mut() = passed_on(request.headers(), host);
    sender.send_request(asked).await.map_err(io::Error::other)
}

fn passed_on(headers: &HeaderMap, host: HeaderValue) -> HeaderMap {
    let mut passed = HeaderMap::new();
    passed.insert(HOST, host);
    passed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    for name in [UPGRADE].into_iter().chain(PASSED_ON.map(HeaderName::from_static)) {
        for value in headers.get_all(&name) {
            passed.append(&name, value.clone());
        }
    }
    passed
}

/// The runtime's words and, for clients that try another version then, its versions.
async fn refusal(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let words = match timeout(UPGRADING, Limited::new(body, LARGEST_REFUSAL).collect()).await {
        Ok(Ok(words)) => String::from_utf8_lossy(&words.to_bytes()).into_owned(),
        _ => "the runtime refused".to_owned(),
    };
    let mut refused = text(head.status, words);
    for value in head.headers.get_all("x-accepted-stream-protocol-versions") {
        refused.headers_mut().append("x-accepted-stream-protocol-versions", value.clone());
    }
    refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refused
}

/// Both directions until both have ended, or nothing moves.
async fn carry(client: OnUpgrade, runtime: OnUpgrade, idle: Duration) -> io::Result<()> {
    let upgraded = timeout(UPGRADING, async { tokio::try_join!(client, runtime) }).await?;
    let (client, runtime): (Upgraded, Upgraded) = upgraded.map_err(io::Error::other)?;
    let (mut client, silence) = watch(TokioIo::new(client), idle);
    let mut runtime = TokioIo::new(runtime);
    tokio::select! {
        result = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut runtime, PIECE, PIECE) => result.map(drop),
        () = silence => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved on it for too long")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_how_to_go_on_is_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("content-length", "0"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(is_upgrade(&headers));
        let passed = passed_on(&headers, HeaderValue::from_static("127.0.0.1:1"));
        let mut names: Vec<_> =
            passed.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "connection: Upgrade",
                "host: 127.0.0.1:1",
                "upgrade: SPDY/3.1",
                "x-stream-protocol-version: v3.channel.k8s.io",
                "x-stream-protocol-version: v4.channel.k8s.io",
            ]
        );
        assert!(!is_upgrade(&HeaderMap::new()));
    }
}

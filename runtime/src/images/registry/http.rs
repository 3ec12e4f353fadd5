//! One request and its redirects, with deadlines.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, LOCATION};
use hyper::http::uri::{Parts, Uri};
use hyper::{Method, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::error::RegistryError;
use super::hosts::TlsOptions;
use super::tls;

// Far from any real registry a connection takes a second; a dead one must not use up a pull's patience.
const CONNECT: Duration = Duration::from_secs(10);
// Registries look a blob up in their own storage before they answer.
const ANSWER: Duration = Duration::from_secs(30);
/// A transfer that stands still that long is broken. There is no limit on the whole: layers may be huge.
pub(super) const STALL: Duration = Duration::from_secs(30);
// hyper's own 400 KiB for each piece would add up to tens of megabytes between network and disk.
const MAX_BUFFER: usize = 64 << 10;
// Registry, its storage, and one hop of a network's own.
const MAX_REDIRECTS: usize = 5;

type HttpsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Connections of one pull, kept apart by what they trust.
#[derive(Default)]
pub(super) struct Http(Mutex<HashMap<TlsOptions, HttpsClient>>);

/// What is asked for.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Sent to the first server only, not to where it redirects.
    pub(super) private: HeaderMap,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn get(uri: Uri) -> Self {
        Self { method: Method::GET, uri, private: HeaderMap::new(), headers: HeaderMap::new(), body: Bytes::new() }
    }
}

impl Http {
    /// Sends a call and follows its redirects. Any status is an answer.
    pub(super) async fn send(&self, call: &Call, tls: &TlsOptions) -> Result<Response<Incoming>, RegistryError> {
        let mut uri = call.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let at_home = same_server(&uri, &call.uri);
            // Elsewhere nobody is shown who we are.
            let elsewhere = TlsOptions { client: None, ..tls.clone() };
            let client = self.client(if at_home { tls } else { &elsewhere })?;
            let answer = self.send_once(&client, call, &uri, at_home).await?;
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            match location {
                Some(location) if answer.status().is_redirection() => uri = redirected(&uri, location)?,
                _ => return Ok(answer),
            }
        }
        Err(bad_answer(&call.uri, "it redirects without end"))
    }

    async fn send_once(
        &self,
        client: &HttpsClient,
        call: &Call,
        uri: &Uri,
        at_home: bool,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = call.headers.clone();
        if at_home {
            request.headers_mut().extend(call.private.clone());
        }
        let unreachable = |source| RegistryError::Unreachable { address: shown(uri), source };
        match timeout(ANSWER, client.request(request)).await {
            Ok(answer) => answer.map_err(|error| unreachable(error.into())),
            Err(_) => Err(unreachable(stalled(ANSWER).into())),
        }
    }

    fn client(&self, tls: &TlsOptions) -> Result<HttpsClient, RegistryError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(tls) {
            return Ok(client.clone());
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let connector = HttpsConnector::from((http, tls::client_config(tls)?));
        let client = Client::builder(TokioExecutor::new()).http1_max_buf_size(MAX_BUFFER).build(connector);
        clients.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

/// The whole body, if it is no longer than `limit`.
pub(super) async fn read_all(answer: Response<Incoming>, address: &Uri, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let promised = answer.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let too_large = || bad_answer(address, &format!("it is longer than {limit} bytes"));
    if promised.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    loop {
        match next_chunk(&mut body).await {
            Ok(Some(chunk)) if (bytes.len() + chunk.len()) as u64 > limit => return Err(too_large()),
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(bytes),
            Err(source) => return Err(RegistryError::Broken { address: shown(address), source }),
        }
    }
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next_chunk(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    loop {
        match timeout(STALL, body.frame()).await {
            Err(_) => return Err(stalled(STALL)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(io::Error::other(error)),
            // Trailers are no data.
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(_) => {}
            },
        }
    }
}

fn stalled(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} s", limit.as_secs()))
}

fn same_server(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

/// Where a redirect leads. Never from TLS to plain HTTP: a signed address of private storage would be there to read.
fn redirected(from: &Uri, location: &str) -> Result<Uri, RegistryError> {
    let bad = || bad_answer(from, "it redirects to what is no address");
    let target: Uri = location.parse().map_err(|_| bad())?;
    let mut parts: Parts = target.into_parts();
    if parts.authority.is_none() {
        parts.authority = from.authority().cloned();
        parts.scheme = from.scheme().cloned();
    }
    if parts.scheme.is_none() {
        parts.scheme = from.scheme().cloned();
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some("/".parse().map_err(|_| bad())?);
    }
    let target = Uri::from_parts(parts).map_err(|_| bad())?;
    match (from.scheme_str(), target.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(target),
        _ => Err(bad_answer(from, "it redirects to a server without TLS")),
    }
}

/// An address for people: without its query, which may hold a signature.
pub(super) fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

pub(super) fn bad_answer(uri: &Uri, why: &str) -> RegistryError {
    RegistryError::BadAnswer { address: shown(uri), why: why.to_owned() }
}

/// A value of an `Authorization` header, which no `Debug` shows.
pub(super) fn authorization(value: &str) -> Option<HeaderMap> {
    let mut value: hyper::header::HeaderValue = value.parse().ok()?;
    value.set_sensitive(true);
    Some(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(from: &str, location: &str) -> String {
        match redirected(&from.parse().unwrap(), location) {
            Ok(uri) => uri.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_redirect_may_leave_out_what_stays() {
        assert_eq!(lead("https://a/x?y", "/z?q=1"), "https://a/z?q=1");
        assert_eq!(lead("http://a/x", "https://b"), "https://b/");
        assert_eq!(lead("http://a/x", "http://b:5/c"), "http://b:5/c");
    }

    #[test]
    fn a_redirect_never_leaves_tls() {
        let refused = lead("https://a/x?signature=secret", "http://a/z");
        assert_eq!(refused, "https://a/x gave an answer that cannot be used: it redirects to a server without TLS");
        assert!(lead("https://a/x", "ftp://a/z").contains("cannot be used"));
        assert!(lead("https://a/x", "::").contains("cannot be used"));
    }
}

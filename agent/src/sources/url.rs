//! Static pods from a URL: asked for again and again; a server that is away or answers nonsense changes nothing.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::http::uri::{Parts, Uri};
use hyper::{Request, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::manifest::LARGEST_FILE;

/// The kubelet's time-out for the whole of an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// As many redirects as the kubelet's client follows.
const MOST_REDIRECTS: usize = 10;
/// Where distributions keep the authorities they trust: Debian, Fedora, Alpine.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Where static pods are asked for, and how.
#[derive(Clone)]
pub struct ManifestUrl {
    /// As given.
    pub(super) url: String,
    uri: Uri,
    headers: HeaderMap,
    every: Duration,
    cache: PathBuf,
    client: HttpsClient,
}

impl fmt::Debug for ManifestUrl {
    /// Without headers: they may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManifestUrl").field("url", &self.url).finish_non_exhaustive()
    }
}

/// A URL or header that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadUrl {
    /// Not a URL of http or https.
    #[error("{0:?} is no URL; http://host/path and https://host/path are")]
    Url(String),
    /// Not `Name: value`. The value may be secret: only the place is told.
    #[error("the {0}. header is no Name:value")]
    Header(usize),
    /// The TLS library.
    #[error("preparing TLS")]
    Tls(#[from] rustls::Error),
}

impl ManifestUrl {
    /// `headers` are `Name:value`; `state` is a folder for the last good answer.
    ///
    /// # Errors
    /// [`BadUrl`].
    pub fn new(url: &str, headers: &[String], every: Duration, state: &Path) -> Result<Self, BadUrl> {
        let bad = || BadUrl::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(bad());
        }
        let mut map = HeaderMap::new();
        for (index, header) in headers.iter().enumerate() {
            let parsed = header.split_once(':').and_then(|(name, value)| {
                let value: HeaderValue = value.trim().parse().ok()?;
                Some((name.trim().parse::<HeaderName>().ok()?, value))
            });
            let (name, value) = parsed.ok_or(BadUrl::Header(index + 1))?;
            map.append(name, value);
        }
        // Another URL's pods are not this one's.
        let hash =
            Sha256::digest(url.as_bytes()).iter().take(8).fold(0, |hash: u64, byte| hash << 8 | u64::from(*byte));
        let cache = state.join(format!("manifest-url-{hash:016x}"));
        Ok(Self { url: url.to_owned(), uri, headers: map, every, cache, client: client()? })
    }

    /// What was last answered and could be used, perhaps to a former agent: with the server away its pods run on.
    pub(super) fn last_good(&self) -> Option<Vec<u8>> {
        std::fs::read(&self.cache).ok().filter(|bytes| bytes.len() as u64 <= LARGEST_FILE)
    }

    /// Keeps an answer for the next agent.
    pub(super) fn remember(&self, bytes: &[u8]) {
        if self.last_good().as_deref() == Some(bytes) {
            return;
        }
        let next = self.cache.with_extension("next");
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(bytes)?;
            std::fs::rename(&next, &self.cache)
        };
        if let Err(error) = write() {
            warn!(path = %self.cache.display(), %error, "the next agent will not know the static pods of the URL");
        }
    }

    /// Asks until `stop`; an answer that is the same as the one before is not told again.
    pub(super) async fn poll(self, answers: mpsc::Sender<Result<Vec<u8>, String>>, stop: CancellationToken) {
        let mut last = None;
        loop {
            let answer = match tokio::time::timeout(ANSWER, self.ask()).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("did not answer within {} s; its pods stay as they are", ANSWER.as_secs())),
            };
            if last.as_ref() != Some(&answer) {
                last = Some(answer.clone());
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    async fn ask(&self) -> Result<Vec<u8>, String> {
        let stays = |what: String| format!("{what}; its pods stay as they are");
        let mut uri = self.uri.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            // Elsewhere nobody is shown our headers.
            if uri.authority() == self.uri.authority() {
                request.headers_mut().clone_from(&self.headers);
            }
            let answer = self.client.request(request).await;
            let answer =
                answer.map_err(|error| stays(format!("cannot be reached: {}", crate::errors::chain(&error))))?;
            let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            match (answer.status(), location) {
                (StatusCode::OK, _) => {
                    let limit = usize::try_from(LARGEST_FILE).unwrap_or(usize::MAX);
                    let body = Limited::new(answer.into_body(), limit).collect().await;
                    let body = body.map_err(|error| stays(format!("broke off: {error}")))?;
                    return Ok(body.to_bytes().to_vec());
                }
                (status, Some(location)) if status.is_redirection() => {
                    uri = redirected(&uri, location).ok_or_else(|| stays("redirects to no URL".to_owned()))?;
                }
                (status, _) => return Err(stays(format!("answers {status}"))),
            }
        }
        Err(stays("redirects without end".to_owned()))
    }
}

fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = location.parse().ok()?;
    let mut parts: Parts = to.into_parts();
    if parts.authority.is_none() {
        let from = from.clone().into_parts();
        (parts.scheme, parts.authority) = (from.scheme, from.authority);
    }
    Uri::from_parts(parts).ok()
}

fn client() -> Result<HttpsClient, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundle = named.into_iter().chain(AUTHORITIES.map(PathBuf::from)).find_map(|path| std::fs::read(path).ok());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)).flatten());
    // Without a bundle on this machine, Mozilla's list as it was when this program was built.
    let builder = if roots.is_empty() { builder.with_webpki_roots() } else { builder.with_root_certificates(roots) };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(ANSWER));
    let connector = HttpsConnector::from((http, builder.with_no_client_auth()));
    Ok(Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector))
}

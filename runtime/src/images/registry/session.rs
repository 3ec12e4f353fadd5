//! One conversation with the servers of one repository.

use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, RANGE, USER_AGENT, WWW_AUTHENTICATE};
use hyper::http::uri::Uri;
use hyper::{Method, Response, StatusCode};
use tracing::debug;

use super::auth::{Asker, Tokens};
use super::challenge;
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::http::{Call, Http, bad_answer, read_all};
use super::status;
use crate::images::credentials::Credentials;
use crate::images::digest::{Digest, Hasher};
use crate::images::manifest::MAX_MANIFEST;
use crate::images::reference::ImageRef;

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const AGENT: &str = concat!("longshore/", env!("CARGO_PKG_VERSION"));
// With the waits between them some four seconds: longer outages are for the kubelet's own back-off.
const TRIES: u32 = 4;

/// What is asked for below `/v2/REPOSITORY/`.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    /// A manifest or index by tag or digest.
    Manifest(&'a str),
    /// A blob from this byte on.
    Blob(&'a Digest, u64),
}

pub(crate) struct Session<'a> {
    tokens: &'a Tokens,
    http: Http,
    endpoints: Vec<Endpoint>,
    host: String,
    repository: String,
    credentials: Option<Credentials>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        tokens: &'a Tokens,
        endpoints: Vec<Endpoint>,
        image: &ImageRef,
        credentials: Option<Credentials>,
    ) -> Self {
        let (host, repository) = (image.host().to_owned(), image.path().to_owned());
        Self { tokens, http: Http::default(), endpoints, host, repository, credentials }
    }

    /// The digest that a tag has now, without fetching what it names; hubs that count pulls do not count this.
    pub(crate) async fn head(&self, tag: &str) -> Option<Digest> {
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.resolves) {
            if let Ok((_, answer)) = self.ask(endpoint, Method::HEAD, What::Manifest(tag)).await {
                return content_digest(answer.headers());
            }
        }
        None
    }

    /// A manifest or index by tag or digest, and its digest. One that was asked for by digest has it.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<(Vec<u8>, Digest), RegistryError> {
        let wanted: Option<Digest> = selector.parse().ok();
        let (bytes, uri, claimed) = self.small(What::Manifest(selector), MAX_MANIFEST).await?;
        // Asked by tag, the registry's word is checked where it gives one.
        let expected = wanted.as_ref().or(claimed.as_ref());
        let mut hasher = expected.map_or_else(Hasher::sha256, Hasher::like);
        hasher.update(&bytes);
        let found = hasher.finish();
        match expected.filter(|expected| **expected != found) {
            Some(expected) => Err(bad_answer(&uri, &format!("it should have digest {expected}, but has {found}"))),
            None => Ok((bytes, found)),
        }
    }

    /// A blob of at most `limit` bytes, as a whole and checked.
    pub(crate) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let (bytes, uri, _) = self.small(What::Blob(digest, 0), limit).await?;
        let mut hasher = Hasher::like(digest);
        hasher.update(&bytes);
        match hasher.finish() {
            found if found == *digest => Ok(bytes),
            found => Err(bad_answer(&uri, &format!("it should have digest {digest}, but has {found}"))),
        }
    }

    async fn small(&self, what: What<'_>, limit: u64) -> Result<(Vec<u8>, Uri, Option<Digest>), RegistryError> {
        let mut tries = 0;
        loop {
            let result = match self.open(what).await {
                Ok((uri, answer)) => {
                    let claimed = content_digest(answer.headers());
                    read_all(answer, &uri, limit).await.map(|bytes| (bytes, uri, claimed))
                }
                Err(error) => Err(error),
            };
            let error = match result {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            match error.wait_before_retry(tries) {
                Some(wait) if tries + 1 < TRIES => tokio::time::sleep(wait).await,
                _ => return Err(error),
            }
            tries += 1;
        }
    }

    /// Asks one server after the other, mirrors first; the error is that of the last, the registry itself.
    pub(super) async fn open(&self, what: What<'_>) -> Result<(Uri, Response<Incoming>), RegistryError> {
        let by_tag = matches!(what, What::Manifest(selector) if selector.parse::<Digest>().is_err());
        let suits = |endpoint: &&Endpoint| if by_tag { endpoint.resolves } else { endpoint.pulls };
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(suits) {
            match self.ask(endpoint, Method::GET, what).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    debug!(server = endpoint.authority, %error, "a server of a registry could not help");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::Hosts {
            path: self.host.clone().into(),
            why: "none of its servers may be asked for this; see their capabilities".to_owned(),
        }))
    }

    /// One question to one server, with an answer to its challenge. A status of success is guaranteed.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        method: Method,
        what: What<'_>,
    ) -> Result<(Uri, Response<Incoming>), RegistryError> {
        let mut call = self.call(endpoint, method, what)?;
        // A mirror is not the registry: what was meant for one is not shown to the other.
        let credentials = self.credentials.as_ref().filter(|_| endpoint.is_origin);
        let asker = Asker { endpoint, repository: &self.repository, credentials };
        call.private.extend(self.tokens.kept(&asker, Instant::now()).unwrap_or_default());
        let mut answer = self.http.send(&call, &endpoint.tls).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            if let Some(challenge) = challenge::choose(headers)
                && let Some(headers) = self.tokens.answer(&self.http, &asker, &challenge, Instant::now()).await?
            {
                for (name, value) in &headers {
                    call.private.insert(name, value.clone());
                }
                answer = self.http.send(&call, &endpoint.tls).await?;
            }
        }
        if answer.status().is_success() { Ok((call.uri, answer)) } else { Err(status::error(&call.uri, answer).await) }
    }

    fn call(&self, endpoint: &Endpoint, method: Method, what: What<'_>) -> Result<Call, RegistryError> {
        let kind = match what {
            What::Manifest(selector) => format!("manifests/{selector}"),
            What::Blob(digest, _) => format!("blobs/{digest}"),
        };
        let is_itself = endpoint.authority == self.host || (self.host == "docker.io" && endpoint.is_origin);
        // Mirrors of several registries are told which one is meant.
        let namespace = if is_itself { String::new() } else { format!("?ns={}", self.host) };
        let Endpoint { scheme, authority, path, .. } = endpoint;
        let address = format!("{scheme}://{authority}{path}/{}/{kind}{namespace}", self.repository);
        let unusable = |_| RegistryError::BadAnswer { address: address.clone(), why: "it is no address".to_owned() };
        let mut call = Call::get(address.parse().map_err(unusable)?);
        call.method = method;
        call.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        match what {
            What::Manifest(_) => drop(call.headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED))),
            What::Blob(_, 0) => {}
            What::Blob(_, start) => drop(call.headers.insert(RANGE, range(start))),
        }
        call.private = endpoint.headers.iter().cloned().collect();
        Ok(call)
    }
}

fn range(start: u64) -> HeaderValue {
    // Digits only: cannot fail.
    HeaderValue::from_str(&format!("bytes={start}-")).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

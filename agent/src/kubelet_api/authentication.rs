//! Who asks: a client certificate, then a bearer token that the API server knows, then nobody where that is allowed.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::warn;

use super::remembered::Remembered;
use super::tls::ClientAuthority;
use super::users::User;
use crate::api::{ApiError, Client, path_of_all};
use crate::errors::chain;

/// Tokens that are known, good and bad; an entry is a hash and a name.
const MOST_TOKENS: usize = 2_048;
/// Reviews at a time: a flood of made-up tokens must not become a flood of calls.
const AT_ONCE: usize = 16;
/// How a browser's WebSocket says its token.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Finds out who asks.
pub(super) struct Authentication {
    pub(super) certificates: Option<ClientAuthority>,
    pub(super) tokens: Option<Tokens>,
    pub(super) anonymous: bool,
}

impl Authentication {
    /// `None` is 401. What proved who asks is taken out of the headers: nothing behind this needs it.
    pub(super) async fn user(&self, chain: &[CertificateDer<'_>], headers: &mut HeaderMap) -> Option<User> {
        let (token, certificate) = (take_token(headers), self.by_certificate(chain));
        match (certificate, token) {
            (Some(Ok(user)), _) => Some(user),
            (certificate, Some(token)) => match &self.tokens {
                Some(tokens) => tokens.user(&token).await,
                None => self.nobody(certificate.is_some()),
            },
            (certificate, None) => self.nobody(certificate.is_some()),
        }
    }

    /// Whoever fails to prove a name is not nobody.
    fn nobody(&self, failed: bool) -> Option<User> {
        (self.anonymous && !failed).then(User::anonymous)
    }

    /// `None` where there is none, or it names nobody.
    fn by_certificate(&self, chain: &[CertificateDer<'_>]) -> Option<Result<User, ()>> {
        let (authority, (own, between)) = (self.certificates.as_ref()?, chain.split_first()?);
        let vouched = authority.current().verify_client_cert(own, between, UnixTime::now());
        match vouched {
            Ok(_) => User::of_certificate(own).map(Ok),
            Err(error) => {
                tracing::debug!("a client's certificate: {error}");
                Some(Err(()))
            }
        }
    }
}

/// The token of a request, out of the headers that brought it.
fn take_token(headers: &mut HeaderMap) -> Option<String> {
    let bearer = headers.remove(AUTHORIZATION);
    let by_protocol = take_protocol(headers);
    let bearer = bearer.and_then(|value| bearer_of(&value));
    bearer.or(by_protocol)
}

fn bearer_of(value: &HeaderValue) -> Option<String> {
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    let token = token.split(' ').next()?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// The protocols that are left stay in their order.
fn take_protocol(headers: &mut HeaderMap) -> Option<String> {
    let all: Vec<String> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|one| one.trim().to_owned()))
        .collect();
    let (bearers, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.starts_with(BEARER_PROTOCOL));
    let encoded = bearers.first()?.strip_prefix(BEARER_PROTOCOL)?;
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(rest) = HeaderValue::from_str(&rest.join(", ")) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    }
    let decoded = URL_SAFE_NO_PAD.decode(encoded).or_else(|_| URL_SAFE.decode(encoded)).ok()?;
    String::from_utf8(decoded).ok().filter(|token| !token.is_empty())
}

/// Tokens that the API server has judged.
pub(super) struct Tokens {
    client: Client,
    counts_for: Duration,
    /// By the token's hash: the tokens themselves are not kept.
    known: Remembered<[u8; 32], Option<User>>,
    turns: Semaphore,
}

impl Tokens {
    pub(super) fn new(client: Client, counts_for: Duration) -> Self {
        Self { client, counts_for, known: Remembered::new(MOST_TOKENS), turns: Semaphore::new(AT_ONCE) }
    }

    async fn user(&self, token: &str) -> Option<User> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known.get(&hash, Instant::now()) {
            return known;
        }
        let _turn = self.turns.acquire().await.ok()?;
        // Whoever came with the same token may have asked in the meantime.
        if let Some(known) = self.known.get(&hash, Instant::now()) {
            return known;
        }
        match self.review(token).await {
            Ok(user) => {
                let now = Instant::now();
                self.known.put(hash, user.clone(), now + self.counts_for, now);
                user
            }
            Err(error) => {
                warn!("asking the API server whose token that is: {}", chain(&error));
                None
            }
        }
    }

    async fn review(&self, token: &str) -> Result<Option<User>, ApiError> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer: TokenReview = self.client.create(&path_of_all::<TokenReview>(None), &review).await?;
        Ok(answer.status.and_then(reviewed))
    }
}

fn reviewed(status: TokenReviewStatus) -> Option<User> {
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    let name = user.username.filter(|name| !name.is_empty())?;
    let (uid, groups) = (user.uid.unwrap_or_default(), user.groups.unwrap_or_default());
    Some(User { name, uid, groups, extra: user.extra.unwrap_or_default() }.authenticated())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    #[test]
    fn a_token_is_taken_out_of_the_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer  abc"));
        assert_eq!(take_token(&mut headers), None, "an empty word is no token");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("BEARER abc"));
        assert_eq!(take_token(&mut headers).as_deref(), Some("abc"));
        assert!(headers.is_empty());
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!((take_token(&mut headers), headers.len()), (None, 0));
        let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0, v4.channel.k8s.io";
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
        assert_eq!(take_token(&mut headers).as_deref(), Some("secret"));
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io, v4.channel.k8s.io");
    }

    #[test]
    fn only_what_the_api_server_vouches_for_is_believed() {
        let info = UserInfo { username: Some("jane".into()), groups: Some(vec!["dev".into()]), ..UserInfo::default() };
        let status =
            |authenticated| TokenReviewStatus { authenticated, user: Some(info.clone()), ..Default::default() };
        assert_eq!(reviewed(status(None)), None);
        assert_eq!(reviewed(status(Some(false))), None);
        assert_eq!(reviewed(status(Some(true))).unwrap().groups, ["dev", "system:authenticated"]);
        assert_eq!(reviewed(TokenReviewStatus { authenticated: Some(true), ..Default::default() }), None);
    }

    #[tokio::test]
    async fn nobody_is_served_only_where_that_is_allowed_and_nothing_was_claimed() {
        let with = |anonymous| Authentication { certificates: None, tokens: None, anonymous };
        assert_eq!(with(false).user(&[], &mut HeaderMap::new()).await, None);
        assert_eq!(with(true).user(&[], &mut HeaderMap::new()).await, Some(User::anonymous()));
        assert_eq!(with(true).nobody(true), None);
    }
}

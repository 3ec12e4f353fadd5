//! Who asks: answers to a registry's challenge, and tokens kept until they run out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::uri::Uri;
use serde::Deserialize;

use super::challenge::Challenge;
use super::error::RegistryError;
use super::hosts::{Endpoint, TlsOptions};
use super::http::{Call, Http, authorization, bad_answer, read_all};
use super::status;
use crate::images::credentials::Credentials;

// Tokens are a few KiB; some carry a list of all groups of a person.
const MAX_TOKEN_ANSWER: u64 = 256 << 10;
// What the token specification says when the answer says nothing.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
// A registry that took user and password is asked in the same way for that long.
const BASIC_LIFE: Duration = Duration::from_secs(3600);
// One entry per repository and credential; beyond that the oldest habits go.
const MAX_KEPT: usize = 1000;

/// Answers that were accepted, by server, repository and who asks.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, (HeaderMap, Instant)>>);

type Key = (String, String, Option<Credentials>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens(..)")
    }
}

/// Who asks what of whom.
pub(super) struct Asker<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) repository: &'a str,
    pub(super) credentials: Option<&'a Credentials>,
}

impl Asker<'_> {
    fn key(&self) -> Key {
        let server = format!("{}://{}", self.endpoint.scheme, self.endpoint.authority);
        (server, self.repository.to_owned(), self.credentials.cloned())
    }
}

impl Tokens {
    /// The answer that was good the last time, if it still is.
    pub(super) fn kept(&self, asker: &Asker<'_>, now: Instant) -> Option<HeaderMap> {
        if let Some(Credentials::RegistryToken(token)) = asker.credentials {
            return authorization(&format!("Bearer {token}"));
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&asker.key()).filter(|(_, until)| *until > now).map(|(headers, _)| headers.clone())
    }

    /// Answers a challenge; `None` when these credentials have no answer to it.
    pub(super) async fn answer(
        &self,
        http: &Http,
        asker: &Asker<'_>,
        challenge: &Challenge,
        now: Instant,
    ) -> Result<Option<HeaderMap>, RegistryError> {
        let (headers, life) = match (challenge, asker.credentials) {
            (_, Some(Credentials::RegistryToken(_))) => return Ok(None),
            (Challenge::Basic, Some(Credentials::Basic { username, password })) => {
                (authorization(&basic(username, password)), BASIC_LIFE)
            }
            (Challenge::Basic, _) => return Ok(None),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let token = fetch(http, asker, realm, service.as_deref(), scope.as_deref()).await?;
                let life = token.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
                (authorization(&format!("Bearer {}", token.text())), life)
            }
        };
        // A tenth is left for the way and for clocks that differ.
        if let Some(headers) = &headers {
            self.keep(asker.key(), headers.clone(), now, life.mul_f64(0.9));
        }
        Ok(headers)
    }

    fn keep(&self, key: Key, headers: HeaderMap, now: Instant, life: Duration) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (_, until)| *until > now);
        if kept.len() < MAX_KEPT {
            // A token that never runs out is asked for again after a day.
            let until = now + life.min(Duration::from_secs(86_400));
            kept.insert(key, (headers, until));
        }
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
}

impl Token {
    fn text(&self) -> &str {
        if self.token.is_empty() { &self.access_token } else { &self.token }
    }
}

async fn fetch(
    http: &Http,
    asker: &Asker<'_>,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
) -> Result<Token, RegistryError> {
    let own = format!("repository:{}:pull", asker.repository);
    let call = token_call(asker, realm, service, scope.unwrap_or(&own))?;
    let endpoint = asker.endpoint;
    let at_home = call.uri.authority().is_some_and(|authority| authority.as_str() == endpoint.authority);
    let elsewhere = TlsOptions { client: None, ..endpoint.tls.clone() };
    let answer = http.send(&call, if at_home { &endpoint.tls } else { &elsewhere }).await?;
    if !answer.status().is_success() {
        return Err(status::error(&call.uri, answer).await);
    }
    let json = read_all(answer, &call.uri, MAX_TOKEN_ANSWER).await?;
    // The parser's own words could quote the token.
    let token: Token = serde_json::from_slice(&json).map_err(|_| bad_answer(&call.uri, "it is no token"))?;
    if token.text().is_empty() { Err(bad_answer(&call.uri, "there is no token in it")) } else { Ok(token) }
}

/// The request for a token: with a refresh token OAuth2's, otherwise Docker's older one, which every server knows.
fn token_call(asker: &Asker<'_>, realm: &str, service: Option<&str>, scope: &str) -> Result<Call, RegistryError> {
    let bad = |why| RegistryError::BadAnswer { address: realm.split('?').next().unwrap_or_default().to_owned(), why };
    let uri: Uri = realm.parse().map_err(|_| bad("its token server has no usable address".to_owned()))?;
    let is_safe = uri.scheme_str() == Some("https") || asker.endpoint.scheme == "http";
    if uri.authority().is_none() || (asker.credentials.is_some() && !is_safe) {
        return Err(bad("credentials are not sent to a token server without TLS".to_owned()));
    }
    let mut query: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
    query.push(("scope", scope));
    let mut call = Call::get(uri);
    call.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    match asker.credentials {
        Some(Credentials::IdentityToken(token)) => {
            query.extend([("grant_type", "refresh_token"), ("client_id", "longshore"), ("refresh_token", token)]);
            call.method = Method::POST;
            call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            call.body = form(&query).into();
            return Ok(call);
        }
        Some(Credentials::Basic { username, password }) => {
            query.push(("account", username));
            call.private = authorization(&basic(username, password)).unwrap_or_default();
        }
        _ => {}
    }
    let separator = if call.uri.query().is_some() { '&' } else { '?' };
    call.uri = format!("{}{separator}{}", call.uri, form(&query))
        .parse()
        .map_err(|_| bad("its token server has no usable address".to_owned()))?;
    Ok(call)
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

/// `a=b&c=d`, with everything escaped that is not surely plain.
fn form(pairs: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(scheme: &str) -> Endpoint {
        Endpoint {
            scheme: scheme.into(),
            authority: "reg".into(),
            path: "/v2".into(),
            resolves: true,
            pulls: true,
            is_origin: true,
            tls: TlsOptions::default(),
            headers: Vec::new(),
        }
    }

    fn call(scheme: &str, realm: &str, credentials: Option<&Credentials>) -> Result<Call, RegistryError> {
        let endpoint = endpoint(scheme);
        let asker = Asker { endpoint: &endpoint, repository: "a/b", credentials };
        token_call(&asker, realm, Some("x y"), "repository:a/b:pull")
    }

    #[test]
    fn a_password_is_sent_in_a_header_and_a_refresh_token_in_the_body() {
        let user = Credentials::Basic { username: "ann".into(), password: "p:w".into() };
        let asked = call("https", "https://auth/token?x=1", Some(&user)).unwrap();
        assert_eq!(
            asked.uri.to_string(),
            "https://auth/token?x=1&service=x%20y&scope=repository%3Aa%2Fb%3Apull&account=ann"
        );
        assert_eq!(asked.private["authorization"].to_str().unwrap(), basic("ann", "p:w"));
        assert!(!format!("{:?}", asked.private).contains(&STANDARD.encode("ann:p:w")));
        let refresh = Credentials::IdentityToken("r&t".into());
        let asked = call("https", "https://auth/token", Some(&refresh)).unwrap();
        assert_eq!((asked.method, asked.uri.to_string().as_str()), (Method::POST, "https://auth/token"));
        let body = "service=x%20y&scope=repository%3Aa%2Fb%3Apull&grant_type=refresh_token&client_id=longshore&refresh_token=r%26t";
        assert_eq!(asked.body, body);
    }

    #[test]
    fn credentials_do_not_leave_tls() {
        let user = Credentials::Basic { username: "ann".into(), password: "secret".into() };
        let error = call("https", "http://auth/token", Some(&user)).err().unwrap();
        assert!(error.to_string().contains("without TLS") && !error.to_string().contains("secret"));
        assert!(call("https", "http://auth/token", None).is_ok());
        assert!(call("http", "http://auth/token", Some(&user)).is_ok());
        assert!(call("https", "/token", Some(&user)).is_err());
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_its_server_repository_and_person_until_it_runs_out() {
        let (tokens, http, now) = (Tokens::default(), Http::default(), Instant::now());
        let endpoint = endpoint("https");
        let user = Credentials::Basic { username: "ann".into(), password: "p".into() };
        let asker = Asker { endpoint: &endpoint, repository: "a", credentials: Some(&user) };
        assert!(tokens.kept(&asker, now).is_none());
        tokens.answer(&http, &asker, &Challenge::Basic, now).await.unwrap().unwrap();
        assert!(tokens.kept(&asker, now).is_some());
        assert!(tokens.kept(&asker, now + BASIC_LIFE).is_none());
        assert!(tokens.kept(&Asker { repository: "b", ..asker }, now).is_none());
        assert!(tokens.kept(&Asker { credentials: None, ..asker }, now).is_none());
    }
}

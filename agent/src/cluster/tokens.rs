//! Tokens of service accounts, by request: issued for one pod, kept in memory only, renewed before they end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};
use tracing::warn;

use crate::api::{ApiError, Client, path_of, random_part};
use crate::errors::chain;
use crate::names::PodUid;
use crate::volumes::{Token, TokenWanted, Tokens};

/// A token of a year is still changed each day (see `volumes`, section serviceAccountToken).
const OLDEST: SignedDuration = SignedDuration::from_hours(24);
/// Nodes that got their tokens together do not renew them together.
const JITTER_SECONDS: f64 = 10.0;

/// When a token was issued, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    issued: Timestamp,
    expires: Timestamp,
}

impl Life {
    /// One that ends then, having lasted so long.
    fn new(expires: Timestamp, seconds: i64) -> Option<Self> {
        let issued = expires.checked_sub(SignedDuration::from_secs(seconds)).ok()?;
        Some(Self { issued, expires })
    }

    /// From here on another one is wanted: after 80 % of its life, or a day. `jitter` brings that forward.
    fn is_due(&self, now: Timestamp, jitter: SignedDuration) -> bool {
        let life = self.expires.duration_since(self.issued);
        now.duration_since(self.issued) > OLDEST.min(life / 5 * 4) - jitter
    }
}

fn jitter() -> SignedDuration {
    SignedDuration::from_secs_f64(random_part() * JITTER_SECONDS)
}

#[derive(Clone, Debug)]
struct Held {
    token: Token,
    life: Life,
}

/// Asks the API server for tokens. Clones share what is held.
#[derive(Clone)]
pub struct AccountTokens {
    client: Client,
    held: Arc<Mutex<BTreeMap<TokenWanted, Held>>>,
}

impl AccountTokens {
    /// Nothing held yet.
    pub fn new(client: Client) -> Self {
        Self { client, held: Arc::default() }
    }

    /// The API server that issues them.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut BTreeMap<TokenWanted, Held>) -> T) -> T {
        use_it(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets tokens of pods that are gone, and says whether one of the others is due. One that has ended is due for
    /// the last time: then its volume says so, and asks by itself; a pod that has ended asks no more.
    pub(super) fn look(&self, is_wanted: impl Fn(&PodUid) -> bool) -> bool {
        let now = Timestamp::now();
        self.with(|held| {
            held.retain(|wanted, _| is_wanted(&wanted.uid));
            let due = held.values().any(|held| held.life.is_due(now, SignedDuration::ZERO));
            held.retain(|_, held| held.life.expires > now);
            due
        })
    }

    async fn issue(&self, wanted: &TokenWanted) -> Result<Held, String> {
        let audiences: Vec<_> = Some(&wanted.audience).filter(|audience| !audience.is_empty()).into_iter().collect();
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
            "audiences": audiences, "expirationSeconds": wanted.seconds, "boundObjectRef": {
                "apiVersion": "v1", "kind": "Pod", "name": wanted.pod.name, "uid": wanted.uid.as_str()}}});
        let account = path_of::<ServiceAccount>(Some(&wanted.pod.namespace), &wanted.account);
        let answer: Value =
            self.client.create(&format!("{account}/token"), &request).await.map_err(|error| why(&error))?;
        read(&answer).ok_or_else(|| "the API server's answer holds no token".to_owned())
    }
}

/// A server before 1.20 may not have what is asked for; that is another 404 than that of a missing account.
fn why(error: &ApiError) -> String {
    let text = chain(error);
    match error.is_not_found() && text.contains("could not find the requested resource") {
        true => "the API server does not have TokenRequest endpoints enabled".to_owned(),
        false => text,
    }
}

/// The answer is never decoded into a type: a decoder's error could quote it.
fn read(answer: &Value) -> Option<Held> {
    let status = &answer["status"];
    let token = status["token"].as_str().filter(|token| !token.is_empty())?;
    let expires = status["expirationTimestamp"].as_str()?.parse().ok()?;
    let life = Life::new(expires, answer["spec"]["expirationSeconds"].as_i64()?)?;
    Some(Held { token: Token(token.to_owned()), life })
}

#[async_trait]
impl Tokens for AccountTokens {
    async fn token(&self, wanted: &TokenWanted) -> Result<Token, String> {
        let held = self.with(|held| held.get(wanted).cloned());
        if let Some(held) = held.as_ref().filter(|held| !held.life.is_due(Timestamp::now(), jitter())) {
            return Ok(held.token.clone());
        }
        match (self.issue(wanted).await, held) {
            (Ok(fresh), _) => {
                self.with(|held| held.insert(wanted.clone(), fresh.clone()));
                Ok(fresh.token)
            }
            (Err(error), Some(held)) if held.life.expires > Timestamp::now() => {
                warn!(pod = %wanted.pod, account = wanted.account, error, "a token is not renewed yet; the old one is still valid");
                Ok(held.token)
            }
            (Err(error), Some(_)) => Err(format!("token of {} expired and refresh failed: {error}", wanted.account)),
            (Err(error), None) => Err(format!("failed to fetch token: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn due(life: i64, at: i64, jitter: i64) -> bool {
        Life::new(after(life), life).unwrap().is_due(after(at), SignedDuration::from_secs(jitter))
    }

    #[test]
    fn a_token_is_due_after_four_fifths_of_its_life_or_a_day() {
        assert!(!due(3_600, 0, 10) && !due(3_600, 2_880, 0) && due(3_600, 2_881, 0));
        assert!(!due(3_600, 2_870, 10) && due(3_600, 2_871, 10), "jitter brings it forward");
        let (day, year) = (86_400, 365 * 86_400);
        assert!(!due(year, day, 0) && due(year, day + 1, 0));
        assert!(due(3_600, 4_000, 0), "one that has ended is due");
    }

    #[test]
    fn an_answer_is_read_and_never_shown() {
        let answer = json!({"spec": {"expirationSeconds": 3_607},
            "status": {"token": "eyJ.secret", "expirationTimestamp": "1970-01-01T02:00:07Z"}});
        let held = read(&answer).unwrap();
        assert_eq!((held.token.0.as_str(), held.life.issued), ("eyJ.secret", after(3_600)));
        assert!(!format!("{held:?}").contains("secret"));
        assert!(read(&json!({"spec": {}, "status": {"token": "x"}})).is_none());
    }
}

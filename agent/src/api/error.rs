//! What can go wrong between us and the API server.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use super::credentials::CredentialsError;

/// A call that did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server answered with something else than success.
    #[error("{call}: {} {reason}: {message}", code.as_u16())]
    Refused {
        /// Method and path.
        call: String,
        /// HTTP status.
        code: StatusCode,
        /// The API's reason, such as `NotFound` or `Conflict`; the status' own words where it gave none.
        reason: String,
        /// Its message.
        message: String,
        /// When it asks to be asked again.
        retry_after: Option<Duration>,
    },
    /// The API server could not be reached, or hung up.
    #[error("{call}: reaching the API server {server}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// Where it should be.
        server: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("{call}: no answer from the API server {server} within {within:?}")]
    TooSlow {
        /// Method and path.
        call: String,
        /// Where it is.
        server: String,
        /// How long was waited.
        within: Duration,
    },
    /// Its answer is not what was asked for.
    #[error("{call}: the API server's answer cannot be read")]
    Unreadable {
        /// Method and path.
        call: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// We cannot say who we are.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// The API's `Status`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: Option<u16>,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Messages are shown to people; whatever answered may not have been an API server at all.
const LONGEST_MESSAGE: usize = 1_000;

impl ApiError {
    pub(super) fn of_answer(call: &str, code: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let status: Status = serde_json::from_slice(body).unwrap_or_else(|_| Status {
            message: String::from_utf8_lossy(body).trim().to_owned(),
            ..Status::default()
        });
        Self::of_status(call, code, retry_after, status)
    }

    pub(super) fn of_status(call: &str, code: StatusCode, retry_after: Option<Duration>, status: Status) -> Self {
        let own = || code.canonical_reason().unwrap_or("unknown").to_owned();
        let reason = if status.reason.is_empty() { own() } else { status.reason };
        let message = status.message.chars().take(LONGEST_MESSAGE).collect();
        Self::Refused { call: call.to_owned(), code, reason, message, retry_after }
    }

    /// The HTTP status, where there was an answer.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(code.as_u16()),
            _ => None,
        }
    }

    /// There is no such object (or no such kind).
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The version that was asked for is no longer known.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    /// We may not do this.
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The API server does not believe who we are.
    pub fn is_unauthorized(&self) -> bool {
        self.code() == Some(401)
    }

    /// There is such an object already.
    pub fn is_already_there(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// Somebody else changed the object meanwhile, or it is another one of the same name.
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict")
    }

    /// Nobody answered: the network's fault or a server's that is down.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TooSlow { .. })
    }

    fn has_reason(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { reason, .. } if reason == wanted)
    }
}

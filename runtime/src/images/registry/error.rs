//! What a registry can do wrong, or refuse.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::images::error::ErrorKind;

/// A request to a registry failed. No text holds a credential; addresses are shown without their query.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A configuration file cannot be used.
    #[error("the registry configuration {path} cannot be used: {why}")]
    Hosts {
        /// `hosts.toml`, or a certificate that it names.
        path: PathBuf,
        /// The key that is wrong, and how.
        why: String,
    },
    /// There was no answer.
    #[error("no answer from {address}")]
    Unreachable {
        /// Scheme, host and path.
        address: String,
        /// Why there was none.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The registry wants other credentials, or grants these no access.
    #[error("{address} refused access{message}")]
    Denied {
        /// Scheme, host and path.
        address: String,
        /// Its own words, in brackets, or empty.
        message: String,
    },
    /// The registry does not have it.
    #[error("{address} does not exist{message}")]
    NotFound {
        /// Scheme, host and path.
        address: String,
        /// Its own words, in brackets, or empty.
        message: String,
    },
    /// The registry answered with an error.
    #[error("{address} answered with status {status}{message}")]
    Status {
        /// Scheme, host and path.
        address: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
        /// Its own words, in brackets, or empty.
        message: String,
    },
    /// The answer is not what the protocol has.
    #[error("{address} gave an answer that cannot be used: {why}")]
    BadAnswer {
        /// Scheme, host and path.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The connection broke or stood still more often than is tried.
    #[error("the transfer from {address} broke off")]
    Broken {
        /// Scheme, host and path.
        address: String,
        /// The last break.
        source: io::Error,
    },
}

impl RegistryError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied { .. } => ErrorKind::Denied,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Unreachable { .. } | Self::Broken { .. } => ErrorKind::Unavailable,
            Self::Status { status, .. } if is_passing(*status) => ErrorKind::Unavailable,
            Self::Hosts { .. } | Self::Status { .. } | Self::BadAnswer { .. } => ErrorKind::Internal,
        }
    }

    /// How long to wait before the same request may succeed; `None` when it will not.
    pub(super) fn wait_before_retry(&self, tries: u32) -> Option<Duration> {
        // 0.5, 1, 2 … s: what a restart of a server behind a balancer takes.
        let own = Duration::from_millis(500) * 2u32.saturating_pow(tries.min(5));
        match self {
            Self::Unreachable { source, .. } if is_refusal_of_tls(source.as_ref()) => None,
            Self::Unreachable { .. } | Self::Broken { .. } => Some(own),
            // More than ten seconds is for the kubelet's own back-off, which tells the user what it waits for.
            Self::Status { status, retry_after, .. } if is_passing(*status) => {
                Some(retry_after.unwrap_or(own).min(Duration::from_secs(10)))
            }
            _ => None,
        }
    }
}

fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// A certificate that is not trusted now will not be in a second either.
fn is_refusal_of_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error hides what it wraps from `source`, and connectors wrap one in another.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, after: Option<u64>) -> RegistryError {
        let retry_after = after.map(Duration::from_secs);
        RegistryError::Status { address: String::new(), status, retry_after, message: String::new() }
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_never_after_long() {
        let wait = |error: RegistryError, tries| error.wait_before_retry(tries).map(|wait| wait.as_millis());
        assert_eq!(wait(status(503, None), 0), Some(500));
        assert_eq!(wait(status(503, None), 2), Some(2000));
        assert_eq!(wait(status(429, Some(3)), 0), Some(3000));
        assert_eq!(wait(status(429, Some(3600)), 0), Some(10_000));
        assert_eq!(wait(status(400, None), 0), None);
        let tls = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError));
        assert_eq!(wait(RegistryError::Unreachable { address: String::new(), source: tls.into() }, 0), None);
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(wait(RegistryError::Unreachable { address: String::new(), source: refused.into() }, 1), Some(1000));
    }
}

//! What a registry can do wrong, or refuse.

use std::error::Error;
use std::io;
use std::path::PathBuf;

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
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Status { status: 408 | 429 | 500.., .. } => {
                ErrorKind::Unavailable
            }
            Self::Hosts { .. } | Self::Status { .. } | Self::BadAnswer { .. } => ErrorKind::Internal,
        }
    }
}

//! Why something could not be done to a sandbox or a container.

use std::error::Error;

use cni::NetworkError;
use cri_proto::{Kind, RuntimeError};

use crate::containers::SpecError;
use crate::images::{ErrorKind, ImageError};
use crate::sandbox::shim_link::ShimError;

/// A cause of any type.
pub(crate) type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// What was tried, on which object; why it failed is in the source.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub(crate) struct LifeError {
    kind: Kind,
    doing: String,
    #[source]
    source: Option<BoxError>,
}

impl LifeError {
    /// A refusal of our own.
    pub(crate) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { kind, doing: why.into(), source: None }
    }

    /// `doing` failed because of `source`.
    pub(crate) fn because(doing: impl Into<String>, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        Self { kind: kind_of(source.as_ref()), doing: doing.into(), source: Some(source) }
    }

    /// What a caller can act on.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// As the answer to the CRI call `call`: here the chain becomes one text, because only text crosses the socket.
    pub(crate) fn answer(&self, call: &'static str) -> RuntimeError {
        RuntimeError::new(call, self.kind, chain(self))
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Adds what was being tried to a failure.
pub(crate) trait Doing<T> {
    /// `what` names the step and the object.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LifeError>;
}

impl<T, E: Into<BoxError>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LifeError> {
        self.map_err(|source| LifeError::because(what(), source))
    }
}

/// The kind of the first cause that says one.
fn kind_of(error: &(dyn Error + 'static)) -> Kind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(kind) = kind_of_one(error) {
            return kind;
        }
        cause = error.source();
    }
    Kind::Internal
}

fn kind_of_one(error: &(dyn Error + 'static)) -> Option<Kind> {
    if let Some(error) = error.downcast_ref::<LifeError>() {
        return Some(error.kind);
    }
    if let Some(ShimError::Connect { .. }) = error.downcast_ref::<ShimError>() {
        return Some(Kind::Unavailable);
    }
    if let Some(error) = error.downcast_ref::<ImageError>() {
        return kind_of_image(error.kind());
    }
    if let Some(error) = error.downcast_ref::<SpecError>() {
        return Some(match error {
            SpecError::NoNamespace(_) => Kind::FailedPrecondition,
            _ => Kind::InvalidArgument,
        });
    }
    if let Some(NetworkError::Exhausted { .. }) = error.downcast_ref::<NetworkError>() {
        return Some(Kind::ResourceExhausted);
    }
    let error = error.downcast_ref::<std::io::Error>()?;
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::OutOfMemory => {
            Some(Kind::ResourceExhausted)
        }
        std::io::ErrorKind::TimedOut => Some(Kind::DeadlineExceeded),
        _ => None,
    }
}

/// What is internal may have a cause that says more.
fn kind_of_image(kind: ErrorKind) -> Option<Kind> {
    match kind {
        ErrorKind::InvalidName | ErrorKind::BadImage => Some(Kind::InvalidArgument),
        ErrorKind::NotFound => Some(Kind::NotFound),
        ErrorKind::Denied => Some(Kind::PermissionDenied),
        ErrorKind::Unavailable => Some(Kind::Unavailable),
        ErrorKind::NoSpace => Some(Kind::ResourceExhausted),
        ErrorKind::Conflict => Some(Kind::FailedPrecondition),
        ErrorKind::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_comes_from_the_cause_and_the_text_from_all() {
        let full: Result<(), _> = Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        let error = full.doing(|| "writing the record of sandbox abc".into()).unwrap_err();
        let error: Result<(), _> = Err(error);
        let answer = error.doing(|| "making sandbox abc".into()).unwrap_err().answer("RunPodSandbox");
        assert_eq!(answer.kind, Kind::ResourceExhausted);
        assert_eq!(answer.message, "making sandbox abc: writing the record of sandbox abc: no storage space");
    }
}

use tonic::{Code, Status};

/// Why a runtime refused or failed a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// The CRI method, such as `RunPodSandbox`.
    pub call: &'static str,
    /// What a caller can act on.
    pub kind: Kind,
    /// The runtime's own words: what was tried, on which object, and why it failed.
    pub message: String,
}

/// The gRPC codes a CRI caller tells apart; every other code is [`Kind::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The sandbox, container or image does not exist (any more).
    NotFound,
    /// Something with that name or id is there already.
    AlreadyExists,
    /// The request can never succeed as it stands.
    InvalidArgument,
    /// The object is not in the state that the call needs, such as an exec into a stopped container.
    FailedPrecondition,
    /// The answer did not come in time.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Disk, memory, addresses or another bounded thing ran out.
    ResourceExhausted,
    /// The registry or the runtime said that these credentials are not enough.
    PermissionDenied,
    /// The runtime cannot be reached, or asks to be tried again.
    Unavailable,
    /// This runtime has no such call.
    Unimplemented,
    /// Anything else.
    Internal,
}

impl RuntimeError {
    /// An error of `kind` in the name of the CRI method `call`.
    pub fn new(call: &'static str, kind: Kind, message: impl Into<String>) -> Self {
        Self { call, kind, message: message.into() }
    }

    /// What a gRPC peer answered to `call`.
    pub fn from_status(call: &'static str, status: &Status) -> Self {
        Self::new(call, Kind::from_code(status.code()), status.message())
    }

    /// The same error as a gRPC status.
    pub fn to_status(&self) -> Status {
        Status::new(self.kind.code(), self.message.clone())
    }
}

impl Kind {
    fn from_code(code: Code) -> Self {
        match code {
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Cancelled => Self::Cancelled,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::PermissionDenied | Code::Unauthenticated => Self::PermissionDenied,
            Code::Unavailable => Self::Unavailable,
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Internal,
        }
    }

    fn code(self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::InvalidArgument => Code::InvalidArgument,
            Self::FailedPrecondition => Code::FailedPrecondition,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Cancelled => Code::Cancelled,
            Self::ResourceExhausted => Code::ResourceExhausted,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::Unavailable => Code::Unavailable,
            Self::Unimplemented => Code::Unimplemented,
            Self::Internal => Code::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_survives_the_wire() {
        for kind in [
            Kind::NotFound,
            Kind::AlreadyExists,
            Kind::InvalidArgument,
            Kind::FailedPrecondition,
            Kind::DeadlineExceeded,
            Kind::Cancelled,
            Kind::ResourceExhausted,
            Kind::PermissionDenied,
            Kind::Unavailable,
            Kind::Unimplemented,
            Kind::Internal,
        ] {
            let sent = RuntimeError::new("Version", kind, "why");
            assert_eq!(RuntimeError::from_status("Version", &sent.to_status()), sent);
        }
    }
}

//! Why a start failed: made in the child, read by the shim, shown to a person.

use std::io;

use crate::sys;

/// Longest failure that travels, bytes; longer texts are cut.
pub(super) const LONGEST: usize = 4096;

/// The step and the object, with the errno.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) errno: i32,
}

impl Failure {
    /// `errno`'s meaning is added to what was being done.
    pub(crate) fn new(doing: String, errno: i32) -> Self {
        Self { reason: format!("{doing}: {}", sys::describe(errno)), errno }
    }

    /// A text that says it all.
    pub(crate) fn plain(reason: String, errno: i32) -> Self {
        Self { reason, errno }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![b'F'];
        bytes.extend_from_slice(&self.errno.to_le_bytes());
        bytes.extend_from_slice(self.reason.as_bytes());
        bytes.truncate(LONGEST);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let errno = bytes.get(1..5).and_then(|errno| errno.try_into().ok()).map_or(0, i32::from_le_bytes);
        let reason = String::from_utf8_lossy(bytes.get(5..).unwrap_or_default()).into_owned();
        Self { reason, errno }
    }
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// `what` as in "mounting tmpfs at /dev".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Failure::new(what(), errno),
            None => Failure::plain(format!("{}: {error}", what()), 0),
        })
    }
}

//! SPDY/3.1 as kubectl and API servers speak it after an upgrade, of which only the streams are used.
//!
//! ```text
//! bytes --decode--> frames --session--> Event        (pure: buffers in, buffers out)
//! Stream <--connection--> Session <--> a socket      (tokio)
//! ```
//!
//! Bounds, whatever the other side does: a control frame has 16 KiB, its headers 16 KiB after inflation, there are
//! [`session::MOST_STREAMS`] streams, and nobody's data is kept beyond a window. The other side's windows are kept to
//! once it has spoken of any; until then, and for those that never do (all of Kubernetes), TCP holds the sender back.
//!
//! Facts: the SPDY drafts 3 and 3.1, and what moby/spdystream does. Reading order: `headers`, `frame`, `decode`,
//! [`session`], [`connection`].

pub mod connection;
mod decode;
mod dictionary;
mod frame;
#[cfg(test)]
mod fuzz;
mod headers;
pub mod session;
#[cfg(test)]
mod tests;

pub use frame::{ResetStatus, StreamId};
pub use headers::{Headers, LARGEST_BLOCK};

/// How the other side broke the protocol. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Another version than 3.
    #[error("a frame of SPDY/{0} on a connection of SPDY/3.1")]
    Version(u16),
    /// A control frame beyond all need.
    #[error("a control frame of more than {} bytes", decode::LARGEST_CONTROL)]
    FrameTooLarge,
    /// Headers beyond all need.
    #[error("headers of more than {LARGEST_BLOCK} bytes")]
    HeadersTooLarge,
    /// Headers that are none.
    #[error("headers that cannot be understood")]
    Headers,
    /// Compressed headers that cannot be inflated.
    #[error("headers that cannot be inflated")]
    Compression,
    /// A frame that cannot be one.
    #[error("{0}")]
    Frame(&'static str),
}

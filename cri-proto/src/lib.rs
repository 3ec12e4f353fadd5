//! The contract with a container runtime.
//!
//! [`v1`] holds the messages of CRI v1 as Kubernetes 1.36 defines them. [`Runtime`] is the whole of its two
//! services as one Rust trait: the embedded runtime implements it in-process, [`Client`] implements it over
//! a Unix socket for containerd, CRI-O or another Longshore, and [`serve`] puts any implementation on a socket.
//! To a caller the three are the same thing. [`Observed`] is any of them, with somebody who is told how long calls take.
//!
//! Every call takes a [`Deadline`] and fails with a [`RuntimeError`] whose [`Kind`] can be matched on.

mod client;
mod deadline;
mod error;
mod methods;
mod observed;
mod redact;
mod runtime;
mod server;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from the field table; the CRI is its documentation"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

pub use client::{Client, ConnectError};
pub use deadline::Deadline;
pub use error::{Kind, RuntimeError};
pub use observed::{Observed, Observer};
pub use runtime::{Answer, Listing, Runtime};
pub use server::{ServeError, serve};

/// What `Version` answers and what the kubelet insists on in its `version` field.
pub const KUBELET_API_VERSION: &str = "0.1.0";

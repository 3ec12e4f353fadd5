//! The embedded container runtime: pods' sandboxes, containers, images, streams and statistics behind the CRI.
//!
//! ```text
//!            CRI calls                 rooms                                          on disk
//! agent --> service::calls --> sandbox    (make, unmake, watch) --> shim_process, cni   <run>/pods/<id>/
//!                          --> container  (create, start, finish, stop, exec, remove)   <run>/pods/<id>/c/<id>/
//!                          --> images     (pull, import, snapshots)                     <root>/
//!                          --> streaming  (one-time URLs: exec, attach, port-forward)
//!                          --> cgroups, stats, events
//! ```
//!
//! Tasks: one per sandbox hears what ends in it (`sandbox::watch`), one accepts streaming connections, one per exec
//! sees it off. Everything that makes or removes something runs in a task of its own too, so that a caller who gives up
//! leaves whole things behind.
//!
//! The truth is on disk, and in the kernel: what is in memory is a copy. A sandbox's shim outlives us, and what it notes
//! on disk is believed over what we remember. There is one lock per sandbox and one per container, held while they
//! change and never while one waits for them to end.
//!
//! Reading order: `state`, `core`, `sandbox`, `container`, `service`, `recovery`; beside them [`images`],
//! [`containers`] (CRI to OCI to what a shim starts), [`cgroups`], [`spdy`], `streaming`.
//! Nothing here knows Kubernetes objects or decides what should run.

pub mod binaries;
mod blocking;
pub mod cgroups;
mod container;
pub mod containers;
mod core;
mod embedded;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
pub mod idle;
mod idmap;
mod ids;
pub mod images;
pub mod lock;
mod options;
mod process;
mod pulls;
mod recovery;
mod sandbox;
mod service;
mod signals;
pub mod spdy;
mod state;
mod stats;
mod streaming;
pub mod tls;

pub use cni::{Instance, NetworkConfig, NetworkError, Peer};
pub use embedded::Embedded;
pub use options::{OpenError, Options};

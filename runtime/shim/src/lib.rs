//! The parent of one pod's containers, and what the runtime needs to speak with it.
//!
//! [`plan`] says what to start, [`wire`] how a shim is asked to, [`client`] asks. The binary `longshore-shim` is the
//! shim itself: one per pod, started on a sandbox directory, replaced on the same directory when it was killed.

pub mod client;
mod codec;
pub mod packet;
pub mod plan;
pub mod wire;

pub use codec::DecodeError;

/// The executable of the pause, about a kilobyte. The shim starts it itself; see [`plan::Launch::args`].
pub static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

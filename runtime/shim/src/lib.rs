//! The parent of one pod's containers, and what the runtime needs to speak with it.
//!
//! [`plan`] says what to start, [`wire`] how a shim is asked to. The binary of the same name is the shim itself.

pub mod plan;
pub mod wire;

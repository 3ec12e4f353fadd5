//! The embedded container runtime: images, sandboxes, containers, streams, stats.
//!
//! Everything below the CRI is here; Kubernetes' own objects are unknown.

pub mod binaries;
pub mod cgroups;
pub mod containers;
pub mod images;

//! The node agent: decides what this node should be doing, and has it done.
//!
//! Long-lived tasks; every arrow is a `watch` channel that carries a whole value:
//!
//! ```text
//! sources --Desired--> workloads --Desired with their pods--> pods --PodView--> workloads, server, proxy
//! observe --ObservedPods--> pods            source --Snapshot--> proxy --Transaction--> netfilter
//! probes  --ProbeResults--> pods            pods, images, volumes --Event--> events
//! node::pressure --Conditions--> pods, cluster
//! ```
//!
//! `server` (a Unix socket) and `kubelet_api` (the cluster's ports) show what the views and the runtime have.
//! `pods` also tells `timeline` what it tries and what it waits for; `log_rotation` looks at logs of what the views show.
//! Only `pods` starts or stops containers. Nothing here knows what is inside the runtime: containers are reached
//! through [`cri_proto::Runtime`] alone. Modules stand in reading order.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod container;
pub(crate) mod container_logs;
mod der;
pub mod errors;
pub mod events;
pub mod expand;
pub mod fields;
mod files;
mod heap;
pub mod images;
pub mod join;
pub mod kubelet_api;
mod listen;
pub mod log_rotation;
pub mod logging;
mod machine;
pub(crate) mod metrics;
pub mod names;
pub mod node;
pub mod observe;
pub mod pods;
pub mod probes;
pub mod proxy;
pub mod quantity;
mod reloaded;
pub mod resources;
mod selectors;
pub mod server;
pub mod sources;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod timeline;
pub mod view;
pub mod volumes;
pub mod workloads;
pub mod yaml;

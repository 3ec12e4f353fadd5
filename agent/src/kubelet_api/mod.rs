//! The node's own API, the kubelet's: what `kubectl logs`, `exec`, `top` and Prometheus end at.
//!
//! ```text
//! bind(Settings)            the ports, before anything else starts
//! Bound::serve(…)           TLS, connections and their bounds                       (tls, connections)
//!   Asked::of(method, path) what is asked for, and the right that it needs; pure    (route)
//!   Authentication          certificate, then token, then nobody: 401               (authentication, users)
//!   Authorization           the API server says yes or no: 403                      (authorization)
//!   Routes                  the answer                                              (health, pods, container_logs, node_logs,
//!                           stats, own_metrics)
//!   Streams                 exec, attach, portForward, run: whoever implements it
//! ```
//!
//! :10250 asks who it is and what one may do; :10255, where it is on, serves only what changes nothing and asks nobody;
//! :10248 says whether the agent lives. The ports answer from the first moment: what needs the node is told 503 until it
//! is there ([`NodeSlot`]). Paths, codes and messages: node.md, section 10.

mod answers;
mod authentication;
mod authorization;
mod connections;
mod container_logs;
mod health;
mod node_logs;
mod own_metrics;
mod pages;
mod pods;
mod remembered;
mod requests;
mod route;
mod server;
mod settings;
mod stats;
mod streams;
mod tls;
mod users;

use std::time::Duration;

pub use answers::{Answer, text};
pub use pods::{find, names};
pub use route::{PodRef, StreamRoute};
pub use server::{Bound, ListenError, NodeSlot, Streams, bind};
pub use settings::Settings;
pub use streams::RuntimeStreams;
pub use tls::TlsError;

/// Lists and figures of the runtime.
const RUNTIME: Duration = Duration::from_secs(10);

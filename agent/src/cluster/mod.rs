//! This node as a member of a cluster: its Node object, its heartbeat, and the pods that the API server gives it.
//!
//! ```text
//! Bootstrap::run         a token becomes a client certificate and a kubeconfig
//! rotate                 certificates are renewed before they end (certificates)
//! ensure                 the Node object exists, ours to update     (register)
//! heartbeat              conditions and facts, when they change or every five minutes
//! lease                  "alive", every ten seconds
//! follow_pods            own pods + what they refer to + static pods -> Desired   (refs: which ConfigMaps and Secrets)
//! keep_mirrors           static pods as the API server shows them
//! pod_cidr               the range of the node's pods, and its change
//! Known                  what a start needs before the API server answers
//! AccountTokens          tokens for the pods' volumes, by request
//! service_snapshots      Services + EndpointSlices -> what the proxy programs
//! tell_events            what happened to pods and to the node -> Event objects
//! peers                  other Nodes -> whose pods are reached over which address
//! ```
//!
//! What is decided is in `node_object`, `refs`, `peers` and `pods`: values in, values out. Statuses of pods go the other
//! way, through [`crate::status`].

mod bootstrap;
mod certificates;
mod events;
mod facts;
mod heartbeat;
mod known;
mod lease;
mod mirrors;
mod node_object;
mod peers;
mod pods;
mod range;
mod refs;
mod register;
mod services;
mod tokens;

pub use bootstrap::{Bootstrap, BootstrapError, Credentials, keeps_client_certificate};
pub use certificates::{Rotation, rotate};
pub use events::run as tell_events;
pub use facts::Machine;
pub use heartbeat::{Vitals, run as heartbeat};
pub use known::{Known, KnownError};
pub use lease::run as lease;
pub use mirrors::run as keep_mirrors;
pub(crate) use mirrors::{is_static, mirrored};
pub(crate) use node_object::VERSION;
pub use node_object::{Identity, Taints};
pub use peers::{Neighbourhood, peers};
pub use pods::{Own, Sources, own_node, own_pods, run as follow_pods, services};
pub use range::{changed as range_changed, needs_address, pod_cidr};
pub use register::{RegisterError, ensure};
pub use services::snapshots as service_snapshots;
pub use tokens::AccountTokens;

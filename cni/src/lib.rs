//! The pod network of one node: a bridge, a veth pair and an address per pod, host ports, and the way out.
//!
//! ```text
//!   Bridge::open ── config (checked) ── survey (does it fit the machine?) ── rules + bridge + forwarding
//!   attach ── leases (address on disk) ── netlink (veth pair) ── pod_netns (inside the pod) ── rules, if host ports
//!   detach ── the same things the other way round, each of them fine when it is gone already
//!   set_peers ── routes to the pods of other nodes, and rules that let them keep their addresses
//! ```
//!
//! The lease store is the truth: links and packet rules are made again from it. Every name that the kernel sees follows
//! from the [`Instance`], so two agents on one machine never touch each other's. `range`, `ports`, `names`, `survey` and
//! `rules` only compute; `netlink`, `pod_netns`, `sysctl` and `firewall` only do. IPv4 only. Nothing here knows pods,
//! containers or Kubernetes.

mod attach;
mod bridge;
mod config;
mod conntrack;
mod error;
mod firewall;
mod forwarding;
mod ids;
mod leases;
mod names;
mod netlink;
mod peers;
mod pod_netns;
mod ports;
mod range;
mod removal;
mod rules;
mod survey;
mod sysctl;

pub use attach::{Attachment, Released};
pub use bridge::Bridge;
pub use config::{ConfigError, DEFAULT_BRIDGE, NetworkConfig};
pub use error::{FirewallError, NetworkError};
pub use ids::{BadId, Instance, SandboxId};
pub use ipnet::Ipv4Net;
pub use names::POD_INTERFACE;
pub use peers::Peer;
pub use pod_netns::open_netns;
pub use ports::{HostPort, PortError, Protocol};
pub use range::RangeError;

//! Packet rules as values.
//!
//! A [`Model`] holds the services and endpoints of one address family, a [`NodeConfig`] what the node
//! itself adds. Both become a [`Ruleset`]; two rulesets become a [`Transaction`]; its text is what
//! `iptables-restore --noflush` takes. Nothing on that way touches the kernel:
//!
//! ```text
//! Model + NodeConfig --render--> Ruleset --between--> Transaction --text--> iptables-restore
//!                                                          \--apply--> Fake (for tests)
//! ```
//!
//! Chain names, rule text and rule order are those of kube-proxy in iptables mode, so that either can
//! take over from the other. This crate knows neither an async runtime nor the Kubernetes API.
#![warn(missing_docs)]

pub mod config; // what the node adds: mark bit, local-traffic detector, node-port addresses
mod count; // how much came
pub mod model; // services and endpoints as plain values
mod name; // names that become comments and hashes
mod select; // which endpoints a service port sends to
mod walk; // two sorted maps at once

pub mod apply; // into the kernel, through the iptables programs
pub mod conntrack; // connections that lead where no service does any more
mod hash; // chain names
pub mod iptables; // rules, rulesets and transactions of the iptables back end
pub mod nft; // the same for the nftables back end

#[cfg(test)]
mod testing;

pub use crate::iptables::{Fake, Ruleset, Transaction};
pub use config::{LocalTraffic, NodeConfig, NodePortAddresses};
pub use count::Count;
pub use model::{Endpoint, Family, Model, Policy, Protocol, ServicePort};
pub use name::{BadName, InterfaceName, ServicePortName};

//! What is proved from outside: kernel, node, bench.
//!
//! [`agent`] runs whole agents, each in a network namespace, folders and a cgroup of its own, and says what they
//! leave behind; [`pod_network`] lays out hosts and pods in namespaces for the network's own tests; [`registry`] is a real
//! image registry and what can go wrong with one, [`trust`] what it believes.

pub mod agent;
pub mod channel;
pub mod cluster_node;
pub mod cluster_trust;
pub mod control_plane;
pub mod kubelet_client;
pub mod node;
pub mod pod_network;
pub mod registry;
pub mod sctp;
pub mod service_world;
pub mod spdy;
pub mod trust;

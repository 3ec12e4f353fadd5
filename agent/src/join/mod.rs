//! Joining a cluster: whom to believe, what to check first, what is written where. Pure; `cli::join` carries it out.
//!
//! ```text
//! HOST:PORT --anybody's answer--> cluster-info --signature (token), pin (CA)--> Cluster
//! Cluster + token --> kubelet-config --> Files --> the agent, which asks for its certificate --> Ready
//! ```
//!
//! Nothing is written before everything that can be asked was answered. A mark beside the files says that they are ours: a
//! second try begins anew over them, and `leave` removes what it names.
//!
//! Facts: kubeadm's join phases, `k8s.io/cluster-bootstrap/token`, and its CA pins (`pubkeypin`), Kubernetes 1.20 to 1.36.

mod cluster_info;
mod files;
mod pin;
mod preflight;
mod token;

pub use cluster_info::{Cluster, ClusterInfoError, SignedBy, verify};
pub use files::{Files, Layout};
pub use pin::{BadPin, Pin, Pins};
pub use preflight::{Facts, Obstacle, obstacles};
pub use token::{BadToken, Token};

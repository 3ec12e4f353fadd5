//! Services and their endpoints into the kernel. Knows objects and addresses, nothing of iptables' syntax.
//!
//! ```text
//! standalone (manifests, pods) --\
//! a cluster's API                --Snapshot--> compile --Model--> sync --> kernel --> netfilter, for each family
//! ```
//!
//! On a node of its own the parts a control plane would do are here too: [`addresses`] gives Services what they lack,
//! `endpoints` finds the pods their selectors name.

pub mod addresses;
mod compile; // snapshots as models
mod endpoints; // pods that selectors name
mod health; // whether Services are programmed, for those who ask over HTTP
mod isolated; // Services that the kernel refuses
mod kernel; // both families' rules, and the right to change them
mod listed; // what is programmed, for people to see
mod local; // how packets of pods are recognised
mod measured; // what came of a sync, in figures
mod metrics; // kube-proxy's figures
pub mod owner; // who may change rules
mod repairs; // when everything is looked at again
pub mod rows; // a Service for a family, without endpoints
mod rules; // one family's rules
mod settings; // what the proxy is told once
mod slice; // EndpointSlices and Endpoints as endpoints
mod snapshot; // what every source publishes
pub mod standalone; // manifests and pods as a source
mod sync; // the task: what to do when
mod sysctls; // kernel parameters
mod told; // what people are told
mod watched; // whether somebody else wrote

pub use compile::model_of;
pub use endpoints::ready_count;
pub use kernel::Turns;
pub use listed::{Listed, PortRow, ServiceRow, counts as listed_counts, rows as listed_rows};
pub use local::{BadDetect, Detect, LocalMode};
pub use settings::{BadNodePorts, Mode, NodePorts, Settings};
pub use slice::{Group, Slice, SliceAddress, SlicePort};
pub use snapshot::{NodeFacts, Snapshot, Snapshots};
pub use sync::run;
pub use sysctls::Conntrack;

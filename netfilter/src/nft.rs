//! The nftables back end: one table per family, verdict maps instead of long chains.
//!
//! A packet finds its service by one look-up, whatever the number of services, and a change adds or
//! removes an element instead of rewriting a chain. Names are those of kube-proxy's nftables mode.

mod base; // what no service changes
mod census; // how much of everything there is
mod counters; // what came for each service port
mod fake; // a table that takes transactions like the kernel
mod found; // what an earlier run or kube-proxy left
mod object; // the table's sets and maps, its chains
mod ruleset; // everything together
mod service; // chains and elements of one service port
mod transaction; // from one ruleset to the next

pub use census::Census;
pub use counters::counts;
pub use fake::{Fake, Refused};
pub use found::Found;
pub use object::{Chain, Element, Object, Set, TABLE};
pub use ruleset::Ruleset;
pub use transaction::{Batch, Command, Transaction};

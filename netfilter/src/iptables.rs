//! The iptables back end: rules, chains, rulesets, and what leads from one ruleset to the next.

mod chain; // tables, chains, the rule builder
mod counters; // what came for each service port
mod dispatch; // the chains in which every service has rules
mod fake; // tables that take transactions like the kernel
mod fixed; // rules that are there without any service
mod jumps; // from the kernel's own chains into ours
mod ruleset; // everything together
mod save; // how iptables-save prints a rule
mod service; // the rules of one service port
mod tables; // what is in the kernel, as iptables-save prints it
mod transaction; // from one ruleset to the next

pub use chain::{Chain, ChainName, Rule, Table};
pub use counters::counts;
pub use dispatch::Dispatch;
pub use fake::{Fake, Refused};
pub(crate) use fixed::block_localnet;
pub use jumps::{JUMPS, Jump, KUBELET_JUMPS};
pub use ruleset::Ruleset;
pub use save::Unreadable;
pub use tables::{Tables, TablesError};
pub use transaction::{Edit, Line, Op, Section, Transaction};

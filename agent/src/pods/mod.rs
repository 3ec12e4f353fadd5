//! The heart: one task per pod that looks at what is wanted and what is there, and does the difference.
//!
//! ```text
//! registry --Wish--> mailbox --> worker: observe, plan, status, execute --> runtime, volumes, probes, images
//! ```
//!
//! `life`, `plan` (with `sandbox`, `containers`, `stop`, `phase`), `status` (with `container_status`, `conditions`),
//! `backoff` and `mailbox` are pure: values in, values out, the time is an argument.

mod account;
mod awaits;
pub mod backoff;
pub mod conditions;
mod container_status;
mod containers;
mod execute;
mod generation;
pub mod held;
pub mod life;
pub mod mailbox;
pub mod memory;
mod messages;
mod outcome;
mod phase;
pub mod plan;
mod probing;
pub mod registry;
mod resizing;
mod restart_all;
pub mod roles;
mod sandbox;
pub mod seams;
pub mod status;
pub mod step;
mod stop;
#[cfg(test)]
mod tests;
pub mod tools;
mod worker;

//! The one writer of pod statuses to the API server.
//!
//! `decide` compares what the API server has with what this node knows and says what to send; `writer` sends it, one call
//! for each pod at a time, and tries again for ever.

mod decide;
mod writer;

pub use writer::run;

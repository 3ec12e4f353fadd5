//! CRI calls, each made of one or two calls into the rooms below. Repeating a call is fine; what does not exist is
//! `NotFound`, except where CRI wants its absence to be no error.
//!
//! `calls` is the list of them all; `view` and `filter` (pure) turn what we know into CRI's words.

mod calls;
mod containers;
mod filter;
mod images;
mod sandboxes;
mod stats;
mod status;
mod streams;
pub(crate) mod view;

use std::time::Duration;

use cri_proto::Deadline;

/// How long an operation that kills may take when the caller names no time.
pub(super) const DEFAULT_PATIENCE: Duration = Duration::from_secs(120);

/// Time that is left for waiting, a little less than what the caller has, so that our own answer arrives first.
pub(super) fn patience(by: Deadline) -> Duration {
    match by.left() {
        None => DEFAULT_PATIENCE,
        Some(left) => left.saturating_sub(Duration::from_millis(100)).min(DEFAULT_PATIENCE),
    }
}

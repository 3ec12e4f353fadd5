//! Containers' logs as they are read: by `longshore logs` and by `kubectl logs`.
//!
//! ```text
//! instance(status, previous) -> number      which instance is meant, or why there is no log
//! open(root, views, view, …) -> stream      its lines: `file` reads, `chain` goes on over rotations, `growth` wakes
//! ```
//!
//! A reader holds two blocks of output, however slow it is and however much is written.

mod chain;
mod file;
mod growth;
mod instance;

use std::io;
use std::path::Path;

use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::container::logs;
use crate::view::{PodView, PodViews};

pub(crate) use file::{Choice, Stream};
pub(crate) use instance::instance;

/// Blocks of output on their way to one reader; with blocks of 64 KiB a stalled reader holds 128 KiB.
const IN_FLIGHT: usize = 2;

/// The chosen lines of one instance's log; with `follow` also those that are written until it ends.
///
/// # Errors
/// When there is no such log (any more).
pub(crate) async fn open(
    root: &Path,
    views: &PodViews,
    view: &PodView,
    (container, instance): (&str, i32),
    choice: Choice,
    follow: bool,
) -> io::Result<ReceiverStream<io::Result<Bytes>>> {
    let number = u32::try_from(instance).unwrap_or_default();
    let path = logs::pod_dir(root, &view.pod).join(logs::relative(container, number));
    // Asked before anything is answered: a stream that has begun can only break off.
    tokio::fs::metadata(&path).await?;
    let running = follow.then(|| instance::still_running(views.clone(), view, container, instance));
    let (lines, stream) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(file::follow(path, choice, running, lines));
    Ok(ReceiverStream::new(stream))
}

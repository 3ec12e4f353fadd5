//! Work that blocks, off the threads that must not.

use std::panic::resume_unwind;

/// Runs `work` on a thread for blocking calls. It runs to its end even when nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // Only a runtime that is being shut down cancels blocking work, and it polls nobody again.
        Err(_) => std::future::pending().await,
    }
}

/// Nanoseconds since the epoch; the clock of everything that CRI reports.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

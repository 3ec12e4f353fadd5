use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{Kind, RuntimeError};

/// The moment by which a call must have answered.
///
/// Every call of [`Runtime`](crate::Runtime) takes one, so that one stuck container holds up one pod only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// The call must answer within `limit` from now.
    pub fn within(limit: Duration) -> Self {
        Self(Instant::now().checked_add(limit))
    }

    /// No limit: for calls that last as long as what they watch, such as an event stream or a pull.
    pub const fn never() -> Self {
        Self(None)
    }

    /// What is left, or `None` where there is no limit. Zero once it has passed.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|by| by.saturating_duration_since(Instant::now()))
    }

    /// Runs `work` and gives it up when the deadline passes.
    ///
    /// # Errors
    /// What `work` answers, or [`Kind::DeadlineExceeded`] in the name of `call`.
    pub async fn hold<T>(
        self,
        call: &'static str,
        work: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        match self.0 {
            None => work.await,
            Some(by) => timeout_at(by, work).await.unwrap_or_else(|_| {
                Err(RuntimeError::new(call, Kind::DeadlineExceeded, "no answer before the deadline"))
            }),
        }
    }
}

//! `GET` and `POST /v1/log-level`: how much the agent says of itself, now and from now on.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::logging;

/// How much is said.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogLevel {
    /// Levels and modules, separated by commas.
    pub(crate) level: String,
}

pub(super) async fn show() -> Json<LogLevel> {
    Json(LogLevel { level: logging::level() })
}

pub(super) async fn change(Json(wanted): Json<LogLevel>) -> Result<Json<LogLevel>, Refusal> {
    let refused = |error: logging::BadLevel| Refusal::bad(error.to_string());
    logging::set(&logging::read(&wanted.level).map_err(refused)?).map_err(refused)?;
    Ok(show().await)
}

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::Surface;
use crate::heap;
use crate::proxy::{ServiceRow, listed_counts, listed_rows};

/// So many Services that what the kernel said of them is megabytes.
const MANY: usize = 500;

/// `GET /v1/services`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Services {
    /// By name.
    pub services: Vec<ServiceRow>,
}

pub(super) async fn list(State(surface): State<Surface>) -> Result<impl IntoResponse, StatusCode> {
    let listed = surface.services.borrow().clone();
    let text = move || {
        let services = listed_rows(&listed, &listed_counts(&listed));
        let is_burst = services.len() > MANY;
        let text = serde_json::to_vec(&Services { services });
        if is_burst {
            heap::give_back();
        }
        text
    };
    match tokio::task::spawn_blocking(text).await {
        Ok(Ok(text)) => Ok(([(CONTENT_TYPE, "application/json")], text)),
        Ok(Err(_)) | Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

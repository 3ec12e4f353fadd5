use axum::Json;
use axum::extract::State;
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

pub(super) async fn list(State(surface): State<Surface>) -> Json<Services> {
    let listed = surface.services.borrow().clone();
    let rows = move || {
        let rows = listed_rows(&listed, &listed_counts(&listed));
        if rows.len() > MANY {
            heap::give_back();
        }
        rows
    };
    Json(Services { services: tokio::task::spawn_blocking(rows).await.unwrap_or_default() })
}

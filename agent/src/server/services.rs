use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use netfilter::Family;
use netfilter::apply::Iptables;
use netfilter::iptables::Count;
use serde::{Deserialize, Serialize};

use super::Surface;
use crate::proxy::{ServiceRow, listed_rows};

/// `GET /v1/services`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Services {
    /// By name.
    pub services: Vec<ServiceRow>,
}

pub(super) async fn list(State(surface): State<Surface>) -> Json<Services> {
    let listed = surface.services.borrow().clone();
    let families = listed.models.iter().filter(|model| !model.services().is_empty()).map(|model| model.family());
    let families: Vec<_> = families.collect();
    let counts = tokio::task::spawn_blocking(move || counts(&families)).await.unwrap_or_default();
    Json(Services { services: listed_rows(&listed, &counts) })
}

/// What cannot be counted is left out: the list is worth more than its figures.
fn counts(families: &[Family]) -> BTreeMap<String, Count> {
    let mut sums = BTreeMap::<_, Count>::new();
    let counted = families.iter().filter_map(|family| Iptables::find(*family).ok()?.counts().ok());
    for (name, count) in counted.flatten() {
        let sum = sums.entry(name).or_default();
        sum.packets += count.packets;
        sum.bytes += count.bytes;
    }
    sums
}

//! What this API server has: asked, never assumed from its version.

use serde::Deserialize;

use super::client::{Call, Client};
use super::error::ApiError;

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// Whether `group_version`, such as `discovery.k8s.io/v1` or `v1`, has the resource of this plural name.
///
/// # Errors
/// [`ApiError`], except for a group or version that is not there.
pub async fn has(client: &Client, group_version: &str, plural: &str) -> Result<bool, ApiError> {
    let root = if group_version.contains('/') { "/apis" } else { "/api" };
    match client.ask::<Resources>(Call::get(format!("{root}/{group_version}"))).await {
        Ok(found) => Ok(found.resources.iter().any(|resource| resource.name == plural)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

//! The Node object exists and is ours to update.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use tokio::time::sleep;
use tracing::warn;

use super::node_object::{Health, Identity};
use crate::api::{ApiError, Body, Client, Patience, path_of, path_of_all};
use crate::errors::chain;

/// The node cannot be registered, and trying again does not help.
#[derive(Debug, thiserror::Error)]
#[error("registering the node {name}: {help}")]
pub struct RegisterError {
    name: String,
    help: &'static str,
    source: ApiError,
}

/// Creates the Node, or takes over the one of this name. Tried until it works, except where the API server does not
/// accept who we are.
///
/// # Errors
/// [`RegisterError`] says what helps.
pub async fn ensure(client: &Client, identity: &Identity, why_not_ready: &str) -> Result<Node, RegisterError> {
    let mut patience = Patience::new(Duration::from_millis(100), Duration::from_secs(7));
    loop {
        let error = match try_once(client, identity, why_not_ready).await {
            Ok(node) => return Ok(node),
            Err(error) => error,
        };
        if error.is_unauthorized() {
            let help = "the API server does not accept the credentials of the kubeconfig; has its certificate expired?";
            return Err(RegisterError { name: identity.name.clone(), help, source: error });
        }
        if error.is_forbidden() {
            let help = "the credentials belong to another node; their name must be system:node:<this node's name>, and \
                --hostname-override gives the node another name";
            return Err(RegisterError { name: identity.name.clone(), help, source: error });
        }
        warn!("registering the node {}: {}; trying again", identity.name, chain(&error));
        sleep(patience.delay()).await;
    }
}

async fn try_once(client: &Client, identity: &Identity, why_not_ready: &str) -> Result<Node, ApiError> {
    let node = identity.new_node(&Health::not_ready(why_not_ready), Timestamp::now());
    let refused = match client.create(&path_of_all::<Node>(None), &node).await {
        Ok(created) => return Ok(created),
        Err(error) if error.is_already_there() || error.is_forbidden() => error,
        Err(error) => return Err(error),
    };
    let Some(there) = client.read::<Node>(None, &identity.name).await? else { return Err(refused) };
    match identity.adoption(&there) {
        None => Ok(there),
        Some(patch) => client.patch(&path_of::<Node>(None, &identity.name), Body::StrategicMergePatch, &patch).await,
    }
}

impl RegisterError {
    /// What the API server said.
    pub(super) fn into_cause(self) -> ApiError {
        self.source
    }
}

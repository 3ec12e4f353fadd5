//! The Node's status: computed every ten seconds, sent when it says something new or after five minutes, or as often as the
//! configuration says.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::node_object::{Identity, differs, status_patch, turns};
use super::register::{self, RegisterError};
use crate::api::{ApiError, Body, Client, Sets, path_of};
use crate::config::kubelet::Heartbeat;
use crate::errors::chain;
use crate::events::{About, Recorder};

/// After a failed patch: what the API server shows after an outage must be right within five seconds.
const RETRY: Duration = Duration::from_secs(2);

/// Whether the node can run pods, and why not.
pub type Readiness = watch::Receiver<Result<(), String>>;

/// Keeps the Node's status right until `stop`; a Node that was deleted is registered anew. `nodes` holds this Node alone.
pub async fn run(
    client: Client,
    identity: Identity,
    pace: Heartbeat,
    mut ready: Readiness,
    mut nodes: Sets<Node>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let mut beat = Beat { client, identity, pace, recorder, uid: None, sent: None };
    let mut told = None;
    loop {
        let now = ready.borrow_and_update().clone();
        let there = nodes.borrow_and_update().as_ref().map(|nodes| nodes.values().next().cloned());
        let pause = match beat.report(now, there).await {
            Ok(()) => {
                told = None;
                pace.compute
            }
            Err(error) => {
                let text = chain(&error);
                if told.as_ref() != Some(&text) {
                    warn!("reporting the node's status: {text}; trying again");
                    told = Some(text);
                }
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
            Ok(()) = ready.changed() => {}
            Ok(()) = nodes.changed() => {}
        }
    }
}

struct Beat {
    client: Client,
    identity: Identity,
    recorder: Recorder,
    /// The lease says that the node lives, its status that it is still the same: less often.
    pace: Heartbeat,
    /// Which Node of this name is reported to.
    uid: Option<String>,
    /// What the API server has, and since when.
    sent: Option<(NodeStatus, Instant)>,
}

impl Beat {
    /// `there` is the Node as it is followed: `None` before it was listed.
    async fn report(&mut self, ready: Result<(), String>, there: Option<Option<Arc<Node>>>) -> Result<(), ApiError> {
        let ready = ready.as_ref().copied().map_err(String::as_str);
        let node = match there {
            Some(Some(node)) => Some(node),
            Some(None) => Some(Arc::new(self.register(ready).await?)),
            None => None,
        };
        if let Some(node) = &node
            && self.uid != node.metadata.uid
        {
            (self.uid, self.sent) = (node.metadata.uid.clone(), None);
        }
        let (before, due) = match &self.sent {
            Some((status, since)) => (status.clone(), since.elapsed() >= self.pace.report),
            None => (node.and_then(|node| node.status.clone()).unwrap_or_default(), true),
        };
        let status = self.identity.status(Some(&before), ready, Timestamp::now());
        if !due && !differs(&before, &status) {
            return Ok(());
        }
        let path = format!("{}/status", path_of::<Node>(None, &self.identity.name));
        match self.client.patch::<Node>(&path, Body::StrategicMergePatch, &status_patch(&status)).await {
            Ok(node) => {
                for (kind, reason, message) in turns(&self.identity.name, &before, &status) {
                    self.recorder.record(About::Node, kind, reason, message, Timestamp::now());
                }
                self.sent = Some((node.status.unwrap_or(status), Instant::now()));
                Ok(())
            }
            Err(error) => {
                self.sent = None;
                Err(error)
            }
        }
    }

    async fn register(&self, ready: Result<(), &str>) -> Result<Node, ApiError> {
        info!("the Node {} is gone from the API server and is registered anew", self.identity.name);
        let why = ready.err().unwrap_or("the node is being registered anew");
        register::ensure(&self.client, &self.identity, why).await.map_err(RegisterError::into_cause)
    }
}

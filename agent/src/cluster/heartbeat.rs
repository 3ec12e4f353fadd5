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

use super::node_object::{Health, Identity, differs, status_patch, turns};
use super::register::{self, RegisterError};
use crate::api::{ApiError, Body, Client, Sets, path_of};
use crate::config::kubelet::Heartbeat;
use crate::errors::chain;
use crate::events::{About, Recorder};
use crate::resources::pressure::Conditions;

/// After a failed patch: what the API server shows after an outage must be right within five seconds.
const RETRY: Duration = Duration::from_secs(2);

/// What the conditions are made of.
pub struct Vitals {
    /// Whether the node can run pods, and why not.
    pub ready: watch::Receiver<Result<(), String>>,
    /// What it is short of.
    pub pressure: watch::Receiver<Conditions>,
}

/// Keeps the Node's status right until `stop`; a Node that was deleted is registered anew. `nodes` holds this Node alone.
pub async fn run(
    client: Client,
    identity: Identity,
    pace: Heartbeat,
    vitals: Vitals,
    mut nodes: Sets<Node>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let Vitals { mut ready, mut pressure } = vitals;
    let mut beat = Beat { client, identity, pace, recorder, uid: None, sent: None };
    let mut told = None;
    loop {
        let ready_now = ready.borrow_and_update().clone();
        let health = Health {
            ready: ready_now.as_ref().copied().map_err(String::as_str),
            pressure: pressure.borrow_and_update().clone(),
        };
        let there = nodes.borrow_and_update().as_ref().map(|nodes| nodes.values().next().cloned());
        let pause = match beat.report(&health, there).await {
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
            Ok(()) = pressure.changed() => {}
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
    async fn report(&mut self, health: &Health<'_>, there: Option<Option<Arc<Node>>>) -> Result<(), ApiError> {
        let node = match there {
            Some(Some(node)) => Some(node),
            Some(None) => Some(Arc::new(self.register(health.ready).await?)),
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
        let status = self.identity.status(Some(&before), health, Timestamp::now());
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

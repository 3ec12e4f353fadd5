//! The node's Lease: "alive", every ten seconds. Independent of everything else, so that a slow disk or a stuck pod never
//! makes the node look dead.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::{ApiError, Client, Sets, path_of, path_of_all};
use crate::config::kubelet::Heartbeat;
use crate::errors::chain;

/// Where all nodes' leases are.
const NAMESPACE: &str = "kube-node-lease";
/// After a failure: four tries fit into what is left of a lease of 40 s.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the lease of the Node `name` until `stop`. `nodes` holds this Node alone: the lease is its, and goes with it.
/// A lease is renewed when a quarter of it has gone by.
pub async fn run(client: Client, name: String, pace: Heartbeat, mut nodes: Sets<Node>, stop: CancellationToken) {
    let (quarter, seconds) = (pace.lease / 4, i32::try_from(pace.lease.as_secs()).unwrap_or(i32::MAX));
    let (mut held, mut owner): (Option<Lease>, Option<String>) = (None, None);
    loop {
        let uid = nodes.borrow_and_update().as_ref().and_then(|nodes| nodes.values().next()?.metadata.uid.clone());
        if uid != owner {
            (held, owner) = (None, uid);
        }
        let Some(uid) = &owner else {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = nodes.changed() => continue,
            }
        };
        let pause = match renew(&client, (&name, uid, seconds), held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                quarter
            }
            Err(error) => {
                warn!("renewing the node's lease: {}; trying again", chain(&error));
                RETRY.min(quarter)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn renew(client: &Client, of: (&str, &str, i32), held: Option<Lease>) -> Result<Lease, ApiError> {
    let name = of.0;
    let there = match held {
        Some(lease) => Some(lease),
        None => client.read::<Lease>(Some(NAMESPACE), name).await?,
    };
    match there {
        Some(lease) => client.replace(&path_of::<Lease>(Some(NAMESPACE), name), &renewed(lease, of)).await,
        None => client.create(&path_of_all::<Lease>(Some(NAMESPACE)), &renewed(Lease::default(), of)).await,
    }
}

/// `name`, `uid` of its Node, and for how many seconds it holds.
fn renewed(mut lease: Lease, (name, uid, seconds): (&str, &str, i32)) -> Lease {
    lease.metadata =
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(NAMESPACE.to_owned()), ..lease.metadata };
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    lease.metadata.owner_references = Some(vec![owner]);
    lease.metadata.managed_fields = None;
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..spec
    });
    lease
}

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
use crate::errors::chain;

/// Where all nodes' leases are.
const NAMESPACE: &str = "kube-node-lease";
/// `nodeLeaseDurationSeconds`; the node controller's grace period is as long.
const SECONDS: i32 = 40;
/// A quarter of it.
const RENEW: Duration = Duration::from_secs(10);
/// After a failure: four tries fit into what is left of a lease.
const RETRY: Duration = Duration::from_secs(2);

/// Renews the lease of the Node `name` until `stop`. `nodes` holds this Node alone: the lease is its, and goes with it.
pub async fn run(client: Client, name: String, mut nodes: Sets<Node>, stop: CancellationToken) {
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
        let pause = match renew(&client, &name, uid, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                RENEW
            }
            Err(error) => {
                warn!("renewing the node's lease: {}; trying again", chain(&error));
                RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn renew(client: &Client, name: &str, uid: &str, held: Option<Lease>) -> Result<Lease, ApiError> {
    let there = match held {
        Some(lease) => Some(lease),
        None => client.read::<Lease>(Some(NAMESPACE), name).await?,
    };
    match there {
        Some(lease) => client.replace(&path_of::<Lease>(Some(NAMESPACE), name), &renewed(lease, name, uid)).await,
        None => client.create(&path_of_all::<Lease>(Some(NAMESPACE)), &renewed(Lease::default(), name, uid)).await,
    }
}

fn renewed(mut lease: Lease, name: &str, uid: &str) -> Lease {
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
        lease_duration_seconds: Some(SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..spec
    });
    lease
}

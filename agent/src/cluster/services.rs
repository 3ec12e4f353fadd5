//! Services and endpoints of the whole cluster, as the proxy wants them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Error, Value};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pods::feed;
use crate::api::{ApiError, Client, Feed, Patience, Sets, discovery, follow, path_of_all};
use crate::errors::chain;
use crate::proxy::rows::lean;
use crate::proxy::{NodeFacts, Slice, Snapshot, Snapshots};

/// Objects that another proxy serves, or that have no virtual address: kube-proxy's selection (KEP-2447).
const NOT_OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// In which objects a server tells endpoints, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// EndpointSlices of discovery.k8s.io/v1, from 1.21.
    Slices,
    /// EndpointSlices of discovery.k8s.io/v1beta1, from 1.17 to 1.24.
    Beta,
    /// One Endpoints object for each Service.
    Endpoints,
}

/// Follows Services and endpoints until `stop`. `nodes` holds this Node alone. The work has to be spawned.
///
/// The client's user needs what kube-proxy needs: the ClusterRole `system:node-proxier`.
pub fn snapshots(
    client: Client,
    nodes: Sets<Node>,
    stop: CancellationToken,
) -> (Snapshots, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(None);
    let work = async move {
        let Some(kind) = stop.run_until_cancelled(found(&client)).await else { return };
        tracing::debug!(?kind, "endpoints are followed");
        let labels = Some(NOT_OURS.to_owned());
        let services = follow(client.clone(), feed_of_services(labels.clone()), stop.clone());
        let slices = follow(client, Feed { labels, ..kind.feed() }, stop.clone());
        stop.run_until_cancelled(join(services, slices, nodes, sender)).await;
    };
    (receiver, work)
}

/// Services with what is read of them on a node.
pub(super) fn feed_of_services(labels: Option<String>) -> Feed<Service> {
    Feed { labels, decode: |object| serde_json::from_value(object).map(lean).map(Some), ..feed(None) }
}

/// Asks until the server has said what it has: what is missing decides how to go on.
async fn found(client: &Client) -> Kind {
    let mut patience = Patience::new(Duration::from_millis(200), Duration::from_secs(5));
    let mut told = None;
    loop {
        match Kind::of(client).await {
            Ok(kind) => return kind,
            Err(error) => {
                let text = chain(&error);
                if told.as_ref() != Some(&text) {
                    tracing::warn!("asking the API server how it tells endpoints: {text}; trying again");
                    told = Some(text);
                }
                sleep(patience.delay()).await;
            }
        }
    }
}

type Decode = fn(Value) -> Result<Option<Slice>, Error>;

impl Kind {
    async fn of(client: &Client) -> Result<Self, ApiError> {
        if discovery::has(client, "discovery.k8s.io/v1", "endpointslices").await? {
            return Ok(Self::Slices);
        }
        let beta = discovery::has(client, "discovery.k8s.io/v1beta1", "endpointslices").await?;
        Ok(if beta { Self::Beta } else { Self::Endpoints })
    }

    fn feed(self) -> Feed<Slice> {
        let (path, decode): (String, Decode) = match self {
            Self::Slices => (path_of_all::<EndpointSlice>(None), |object| {
                serde_json::from_value(object).map(|slice| Slice::of_slice(&slice))
            }),
            Self::Beta => {
                ("/apis/discovery.k8s.io/v1beta1/endpointslices".to_owned(), |object| Ok(Slice::of_v1beta1(&object)))
            }
            Self::Endpoints => (path_of_all::<Endpoints>(None), |object| {
                serde_json::from_value(object).map(|endpoints| Slice::of_endpoints(&endpoints))
            }),
        };
        Feed { path, fields: None, labels: None, decode }
    }
}

/// Publishes a whole snapshot for each change, the first when both lists are known.
async fn join(
    mut services: Sets<Service>,
    mut slices: Sets<Slice>,
    mut nodes: Sets<Node>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
) {
    loop {
        let (known, endpoints) = (services.borrow_and_update().clone(), slices.borrow_and_update().clone());
        let node = nodes.borrow_and_update().clone();
        if let (Some(services), Some(slices)) = (known, endpoints) {
            let node = NodeFacts::of(node.as_ref().and_then(|nodes| nodes.values().next()).map(|node| &**node));
            snapshots.send_replace(Some(Arc::new(Snapshot { services, slices, node })));
        }
        let more = tokio::select! {
            more = services.changed() => more,
            more = slices.changed() => more,
            // Most news of a Node are heartbeats, of which Services know nothing.
            more = news(&mut nodes, node.as_deref()) => more,
        };
        if more.is_err() {
            return;
        }
    }
}

/// Waits until the Node differs in what matters to Services.
async fn news(nodes: &mut Sets<Node>, before: Option<&crate::api::Set<Node>>) -> Result<(), watch::error::RecvError> {
    let facts =
        |nodes: Option<&crate::api::Set<Node>>| NodeFacts::of(nodes.and_then(|n| n.values().next()).map(|n| &**n));
    let before = facts(before);
    nodes.wait_for(|now| facts(now.as_deref()) != before).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Set;
    use crate::names::ObjectName;

    #[test]
    fn every_kind_is_read_from_its_own_path() {
        let paths = [Kind::Slices, Kind::Beta, Kind::Endpoints].map(|kind| kind.feed().path);
        assert_eq!(
            paths,
            [
                "/apis/discovery.k8s.io/v1/endpointslices",
                "/apis/discovery.k8s.io/v1beta1/endpointslices",
                "/api/v1/endpoints"
            ]
        );
        let slice = json!({"metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "", "port": 80}]});
        for kind in [Kind::Slices, Kind::Beta] {
            let read = (kind.feed().decode)(slice.clone()).unwrap().unwrap();
            assert_eq!(read.service, ObjectName::new("shop", "web"), "{kind:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_published_before_both_lists_are_known_and_heartbeats_are_no_news() {
        let (services, known) = watch::channel(Some(Arc::new(Set::<Service>::new())));
        let (slices, endpoints) = watch::channel(None);
        let (nodes, own) = watch::channel(None);
        let (sender, mut snapshots) = watch::channel(None);
        let work = tokio::spawn(join(known, endpoints, own, sender));
        tokio::task::yield_now().await;
        assert!(snapshots.borrow_and_update().is_none());
        slices.send_replace(Some(Arc::new(Set::<Slice>::new())));
        snapshots.changed().await.unwrap();
        assert!(!snapshots.borrow_and_update().as_ref().unwrap().node.is_eligible, "a Node that was never seen");

        let node = |beat: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n1", "resourceVersion": beat}})).unwrap()
        };
        let one = |beat| Some(Arc::new(Set::from([(ObjectName::new("", "n1"), Arc::new(node(beat)))])));
        nodes.send_replace(one("1"));
        snapshots.changed().await.unwrap();
        assert!(snapshots.borrow_and_update().as_ref().unwrap().node.is_eligible);
        nodes.send_replace(one("2"));
        tokio::task::yield_now().await;
        assert!(!snapshots.has_changed().unwrap(), "a heartbeat is no news");
        drop(services);
        work.await.unwrap();
    }
}

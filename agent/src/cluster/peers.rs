//! The other nodes of the cluster, as the pod network wants them: where their pods are, and by which address they are
//! reached. What is decided is pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use runtime::Peer;
use serde::Deserialize;
use serde_json::{Error, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Client, Feed, Set, follow, path_of_all};

/// What the pod network needs to know of all other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Whose pods are reached over which node.
    pub peers: BTreeSet<Peer>,
    /// Nodes whose pods cannot be reached, and why: one line each.
    pub problems: Vec<String>,
}

/// What is kept of a Node: a cluster may have thousands, and most of each is of no use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Neighbour {
    pods: Vec<Ipv4Net>,
    address: Option<Ipv4Addr>,
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    spec: ReadSpec,
    #[serde(default)]
    status: ReadStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<IpNet>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<IpNet>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReadStatus {
    addresses: Vec<ReadAddress>,
}

#[derive(Deserialize)]
struct ReadAddress {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

fn read(object: Value) -> Result<Option<Neighbour>, Error> {
    let Read { spec, status } = serde_json::from_value(object)?;
    let ranges: BTreeSet<Ipv4Net> = (spec.pod_cidrs.into_iter().chain(spec.pod_cidr))
        .filter_map(|range| match range {
            IpNet::V4(range) => Some(range.trunc()),
            IpNet::V6(_) => None,
        })
        .collect();
    let internal = status.addresses.iter().filter(|address| address.kind == "InternalIP");
    let address = internal.filter_map(|address| address.address.parse::<Ipv4Addr>().ok()).next();
    Ok(Some(Neighbour { pods: ranges.into_iter().collect(), address }))
}

/// Follows all Nodes until `stop` and publishes what `own`, whose pods are in `range`, needs to know of the others: `None`
/// before they were listed. The work has to be spawned.
pub fn peers(
    client: Client,
    own: String,
    range: Ipv4Net,
    stop: CancellationToken,
) -> (watch::Receiver<Option<Arc<Neighbourhood>>>, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(None);
    let work = async move {
        let feed = Feed { path: path_of_all::<Node>(None), fields: None, labels: None, decode: read };
        let mut nodes = follow(client, feed, stop.clone());
        while let Some(Ok(())) = stop.run_until_cancelled(nodes.changed()).await {
            let Some(nodes) = nodes.borrow_and_update().clone() else { continue };
            let now = Arc::new(neighbourhood(&own, range, &nodes));
            // Most news of a Node are heartbeats.
            sender.send_if_modified(|known| {
                let news = known.as_ref() != Some(&now);
                *known = Some(now);
                news
            });
        }
    };
    (receiver, work)
}

/// Two nodes whose ranges overlap cannot both be reached: the first by name is.
fn neighbourhood(own: &str, range: Ipv4Net, nodes: &Set<Neighbour>) -> Neighbourhood {
    let mut found = Neighbourhood::default();
    let mut taken = vec![(own, range)];
    for (name, node) in nodes.iter().filter(|(name, _)| name.name != own) {
        for pods in &node.pods {
            let overlaps =
                |(_, other): &&(&str, Ipv4Net)| other.contains(&pods.network()) || pods.contains(&other.network());
            match (taken.iter().find(overlaps), node.address) {
                (Some((other, theirs)), _) => found.problems.push(format!(
                    "the pods of node {} cannot be reached: its podCIDR {pods} overlaps {theirs} of node {other}",
                    name.name
                )),
                (None, None) => found
                    .problems
                    .push(format!("the pods of node {} cannot be reached: it has no InternalIP of IPv4", name.name)),
                (None, Some(address)) => {
                    taken.push((&name.name, *pods));
                    found.peers.insert(Peer { pods: *pods, node: address });
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::names::ObjectName;

    fn nodes(all: &[(&str, Value)]) -> Set<Neighbour> {
        let one = |(name, object): &(&str, Value)| {
            (ObjectName::new("", *name), Arc::new(read(object.clone()).unwrap().unwrap()))
        };
        all.iter().map(one).collect()
    }

    fn node(cidr: &str, addresses: &[(&str, &str)]) -> Value {
        let addresses: Vec<_> = addresses.iter().map(|(kind, ip)| json!({"type": kind, "address": ip})).collect();
        json!({"metadata": {"name": "x"}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr, "fd00::/64"]}, "status": {"addresses": addresses}})
    }

    fn shown(nodes: &Set<Neighbour>) -> String {
        let found = neighbourhood("n1", "10.244.0.0/24".parse().unwrap(), nodes);
        let peers = found.peers.iter().map(|peer| format!("{} via {}\n", peer.pods, peer.node));
        peers.chain(found.problems.iter().map(|problem| format!("{problem}\n"))).collect()
    }

    #[test]
    fn every_other_node_with_a_range_is_reached_by_its_internal_address() {
        let all = nodes(&[
            ("n1", node("10.244.0.0/24", &[("InternalIP", "192.0.2.1")])),
            (
                "n2",
                node(
                    "10.244.1.0/24",
                    &[("Hostname", "n2"), ("ExternalIP", "203.0.113.2"), ("InternalIP", "192.0.2.2")],
                ),
            ),
            ("n3", node("10.244.2.0/24", &[("InternalIP", "2001:db8::3"), ("InternalIP", "192.0.2.3")])),
            ("n4", json!({"metadata": {"name": "n4"}, "spec": {}})),
        ]);
        assert_eq!(shown(&all), "10.244.1.0/24 via 192.0.2.2\n10.244.2.0/24 via 192.0.2.3\n");
    }

    #[test]
    fn ranges_that_overlap_and_nodes_without_an_address_are_told() {
        let all = nodes(&[
            ("n2", node("10.244.0.0/16", &[("InternalIP", "192.0.2.2")])),
            ("n3", node("10.245.0.0/24", &[("InternalIP", "192.0.2.3")])),
            ("n4", node("10.245.0.128/25", &[("InternalIP", "192.0.2.4")])),
            ("n5", node("10.246.0.0/24", &[("Hostname", "n5")])),
        ]);
        let expected = "10.245.0.0/24 via 192.0.2.3\n\
            the pods of node n2 cannot be reached: its podCIDR 10.244.0.0/16 overlaps 10.244.0.0/24 of node n1\n\
            the pods of node n4 cannot be reached: its podCIDR 10.245.0.128/25 overlaps 10.245.0.0/24 of node n3\n\
            the pods of node n5 cannot be reached: it has no InternalIP of IPv4\n";
        assert_eq!(shown(&all), expected);
    }
}

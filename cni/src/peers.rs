//! The other nodes of the cluster: routes to their pods over their own addresses, as a host-gateway network has them.
//!
//! The kernel's routing table is the memory: routes of ours are known by their protocol number and by the instance's metric, so
//! that a later run of the agent knows its peers before anybody has told it, and two agents never touch each other's.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use ipnet::Ipv4Net;
use tokio::sync::Mutex;

use crate::{bridge::Bridge, error::NetworkError, ids::Instance, names};

/// Routes of ours carry it (`ip route show proto 76`). Nobody else's: routing daemons have theirs in iproute2's `rt_protos`.
pub(crate) const PROTOCOL: u8 = 76;

/// Another node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Where its pods' addresses come from.
    pub pods: Ipv4Net,
    /// Its own address, on a network that this node is on too.
    pub node: Ipv4Addr,
}

/// One route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) net: Ipv4Net,
    /// 0: none.
    pub(crate) link: u32,
    pub(crate) via: Option<Ipv4Addr>,
    pub(crate) protocol: u8,
    pub(crate) metric: u32,
}

/// What is known of the others, and one writer of routes at a time.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    known: StdMutex<Arc<BTreeSet<Peer>>>,
    turn: Mutex<()>,
}

impl Peers {
    pub(crate) fn known(&self) -> Arc<BTreeSet<Peer>> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, peers: BTreeSet<Peer>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(peers);
    }
}

/// Tells the instances of one machine apart; so large that every other route to the same network is preferred.
pub(crate) fn metric(instance: &Instance) -> u32 {
    let [a, b, c, ..] = names::hash(&[b"peers", instance.as_str().as_bytes()]).to_be_bytes();
    u32::from_be_bytes([0x4c, a, b, c])
}

impl Route {
    pub(crate) fn is_of(&self, instance: &Instance) -> bool {
        self.protocol == PROTOCOL && self.metric == metric(instance)
    }

    fn peer(&self) -> Option<Peer> {
        Some(Peer { pods: self.net, node: self.via? })
    }
}

/// The peers that these routes of ours lead to, but for those to `own` pods: that range was another node's once.
pub(crate) fn peers_of(routes: &[Route], own: Ipv4Net) -> BTreeSet<Peer> {
    let apart = |peer: &Peer| !own.contains(&peer.pods) && !peer.pods.contains(&own);
    routes.iter().filter_map(Route::peer).filter(apart).collect()
}

/// What has to change in the routing table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    gone: Vec<Route>,
    /// New, or with another gateway: these replace.
    set: Vec<Peer>,
}

fn changes(wanted: &BTreeSet<Peer>, present: &[Route]) -> Changes {
    // Two nodes of one range would be an error of the cluster's; the kernel takes one route of a metric.
    let by_net: BTreeMap<Ipv4Net, Peer> = wanted.iter().rev().map(|peer| (peer.pods, *peer)).collect();
    let there: BTreeMap<Ipv4Net, Option<Peer>> = present.iter().map(|route| (route.net, route.peer())).collect();
    Changes {
        gone: present.iter().filter(|route| !by_net.contains_key(&route.net)).copied().collect(),
        set: by_net.into_values().filter(|peer| there.get(&peer.pods) != Some(&Some(*peer))).collect(),
    }
}

impl Bridge {
    /// Makes the routes to the pods of other nodes, and the packet rules for them, these. Repeatable; runs nothing but one
    /// listing when all of them stand. Those that the kernel refuses come back with its answer, and hold up no other.
    ///
    /// # Errors
    /// The tools failed, or the routes cannot be listed.
    pub async fn set_peers(&self, peers: BTreeSet<Peer>) -> Result<Vec<(Peer, NetworkError)>, NetworkError> {
        let _turn = self.peers.turn.lock().await;
        if *self.peers.known() != peers {
            // Rules first: a connection that was masqueraded once stays so.
            let former = self.peers.known();
            self.peers.set(peers.clone());
            if let Err(error) = self.ensure_rules().await {
                self.peers.set((*former).clone());
                return Err(error);
            }
        }
        let own = |route: &Route| route.is_of(&self.config.instance);
        let present: Vec<_> = self.links.routes().await?.into_iter().filter(own).collect();
        let Changes { gone, set } = changes(&peers, &present);
        for route in gone {
            self.links.remove_route(&route).await?;
        }
        let mut refused = Vec::new();
        for peer in set {
            let done = self.links.set_route(peer.pods, peer.node, PROTOCOL, metric(&self.config.instance)).await;
            refused.extend(done.err().map(|error| (peer, error)));
        }
        Ok(refused)
    }

    /// At the very end.
    pub(crate) async fn remove_routes(&self) -> Result<(), NetworkError> {
        let routes = self.links.routes().await?;
        for route in routes.iter().filter(|route| route.is_of(&self.config.instance)) {
            self.links.remove_route(route).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(pods: &str, node: &str) -> Peer {
        Peer { pods: pods.parse().unwrap(), node: node.parse().unwrap() }
    }

    fn route(pods: &str, via: &str) -> Route {
        Route { net: pods.parse().unwrap(), link: 2, via: via.parse().ok(), protocol: PROTOCOL, metric: 7 }
    }

    #[test]
    fn what_stands_is_left_alone_what_moved_is_replaced_and_what_went_is_removed() {
        let wanted = BTreeSet::from([
            peer("10.1.0.0/24", "192.0.2.1"),
            peer("10.2.0.0/24", "192.0.2.2"),
            peer("10.3.0.0/24", "192.0.2.3"),
        ]);
        let present = [
            route("10.1.0.0/24", "192.0.2.1"),
            route("10.2.0.0/24", "192.0.2.9"),
            route("10.4.0.0/24", "192.0.2.4"),
            route("10.3.0.0/24", ""),
        ];
        let changes = changes(&wanted, &present);
        assert_eq!(changes.gone, [present[2]]);
        assert_eq!(changes.set, [peer("10.2.0.0/24", "192.0.2.2"), peer("10.3.0.0/24", "192.0.2.3")]);
        let settled: Vec<_> = wanted.iter().map(|peer| route(&peer.pods.to_string(), &peer.node.to_string())).collect();
        assert_eq!(super::changes(&wanted, &settled), Changes::default());
    }

    #[test]
    fn peers_are_known_again_from_the_routes_but_for_a_range_that_is_our_own_now() {
        let present = [route("10.1.0.0/24", "192.0.2.1"), route("10.2.0.0/24", "192.0.2.2"), route("10.3.0.0/24", "")];
        let known = peers_of(&present, "10.2.0.0/24".parse().unwrap());
        assert_eq!(known, BTreeSet::from([peer("10.1.0.0/24", "192.0.2.1")]));
    }

    #[test]
    fn routes_of_another_agent_or_program_are_not_ours() {
        let (one, two): (Instance, Instance) = ("one".parse().unwrap(), "two".parse().unwrap());
        let own = Route { metric: metric(&one), ..route("10.1.0.0/24", "192.0.2.1") };
        assert!(own.is_of(&one) && !own.is_of(&two));
        assert!(!Route { protocol: 3, ..own }.is_of(&one));
    }
}

//! Services and endpoints of one address family as plain values.
//!
//! Filling a [`Model`] normalises: addresses of the other family go, endpoints are sorted and each
//! `ip:port` stands once. What is in a model can be rendered; nothing is checked later.

use crate::ServicePortName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Bound;
use std::sync::Arc;

mod clash;
pub use clash::{Claim, Clash};

/// An address family. Each has rules of its own, in tables of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4: `iptables`.
    V4,
    /// IPv6: `ip6tables`.
    V6,
}

impl Family {
    /// Whether the address belongs to this family.
    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// Whether the range belongs to this family.
    pub fn has_net(self, net: &IpNet) -> bool {
        self.has(net.addr())
    }
}

/// A transport protocol that services know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The name in lower case, as rules and hashes have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which endpoints traffic may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on this node only.
    Local,
}

/// One endpoint of a service port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// On which port.
    pub port: NonZeroU16,
    /// It runs on this node.
    pub local: bool,
    /// It takes new connections.
    pub ready: bool,
    /// It still answers, ready or not.
    pub serving: bool,
    /// It is being stopped.
    pub terminating: bool,
    /// Zones it should be used from; empty without a hint.
    pub zone_hints: Vec<String>,
    /// Nodes it should be used from; empty without a hint.
    pub node_hints: Vec<String>,
}

impl Endpoint {
    /// A ready endpoint on another node, without hints.
    pub fn ready(address: IpAddr, port: NonZeroU16) -> Self {
        Self {
            address,
            port,
            local: false,
            ready: true,
            serving: true,
            terminating: false,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }

    /// `ip:port`, an IPv6 address in brackets.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port.get())
    }

    /// Nothing that a packet may be sent to on behalf of a service: the API refuses these for endpoints
    /// too, since they would open the node itself (loopback, or a link-local metadata service).
    fn is_nonsense(&self) -> bool {
        let link_local = match self.address {
            IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        link_local || self.address.is_unspecified() || self.address.is_loopback() || self.address.is_multicast()
    }
}

/// One port of one service, with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The protocol.
    pub protocol: Protocol,
    /// The cluster IP.
    pub cluster_ip: IpAddr,
    /// The port on the cluster IP, the external IPs and the load balancer.
    pub port: NonZeroU16,
    /// Addresses outside the cluster's own that reach the service.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of the load balancer whose packets arrive with that destination (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; empty for everybody.
    pub source_ranges: Vec<IpNet>,
    /// The port on the node's own addresses.
    pub node_port: Option<NonZeroU16>,
    /// Where load balancers ask whether this node has endpoints.
    pub health_check_node_port: Option<NonZeroU16>,
    /// Endpoints for traffic to the cluster IP.
    pub internal_policy: Policy,
    /// Endpoints for traffic to every other address.
    pub external_policy: Policy,
    /// For how many seconds a client keeps its endpoint.
    pub affinity_seconds: Option<NonZeroU32>,
    /// All known endpoints in any state.
    pub endpoints: Vec<Endpoint>,
}

impl ServicePort {
    /// A service port with a cluster IP and nothing else.
    pub fn new(protocol: Protocol, cluster_ip: IpAddr, port: NonZeroU16) -> Self {
        Self {
            protocol,
            cluster_ip,
            port,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            node_port: None,
            health_check_node_port: None,
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            affinity_seconds: None,
            endpoints: Vec::new(),
        }
    }

    /// Whether anything but the cluster IP leads here.
    pub(crate) fn is_externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Whether both want the same addresses and ports for themselves.
    fn claims_as(&self, other: &Self) -> bool {
        let place = |service: &Self| (service.protocol, service.cluster_ip, service.port, service.node_port);
        place(self) == place(other)
            && self.external_ips == other.external_ips
            && self.load_balancer_ips == other.load_balancer_ips
    }

    fn normalise(&mut self, family: Family) {
        self.external_ips.retain(|ip| family.has(*ip));
        self.load_balancer_ips.retain(|ip| family.has(*ip));
        dedup_in_order(&mut self.external_ips);
        dedup_in_order(&mut self.load_balancer_ips);
        self.source_ranges.retain(|net| family.has_net(net));
        self.source_ranges.iter_mut().for_each(|net| *net = net.trunc());
        dedup_in_order(&mut self.source_ranges);
        if self.source_ranges.iter().any(|net| net.prefix_len() == 0) {
            self.source_ranges.clear();
        }
        self.endpoints.retain(|endpoint| family.has(endpoint.address) && !endpoint.is_nonsense());
        // Upstream's order: by the text of `ip:port`. Of two with the same text the one that stays wins.
        self.endpoints.sort_by_cached_key(|endpoint| (endpoint.socket().to_string(), endpoint.terminating));
        self.endpoints.dedup_by_key(|endpoint| endpoint.socket());
        self.endpoints.shrink_to_fit();
    }
}

fn dedup_in_order<T: Clone + PartialEq>(items: &mut Vec<T>) {
    let mut seen: Vec<T> = Vec::with_capacity(items.len());
    items.retain(|item| {
        let new = !seen.contains(item);
        if new {
            seen.push(item.clone());
        }
        new
    });
}

/// Every service port of one address family.
///
/// A clone shares the service ports, so that keeping the last model costs little.
#[derive(Debug, Clone)]
pub struct Model {
    family: Family,
    services: BTreeMap<ServicePortName, Arc<ServicePort>>,
    /// Over all services, kept because every transaction asks.
    endpoints: usize,
    /// Known to be free of clashes, so that a change of endpoints does not cost a look at every claim.
    is_settled: bool,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.family == other.family && self.services == other.services
    }
}

impl Eq for Model {}

impl Model {
    /// A model without services.
    pub fn new(family: Family) -> Self {
        Self { family, services: BTreeMap::new(), endpoints: 0, is_settled: true }
    }

    /// The address family of every address in it.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The service ports by name.
    pub fn services(&self) -> &BTreeMap<ServicePortName, Arc<ServicePort>> {
        &self.services
    }

    /// Adds or replaces a service port. One whose cluster IP is of the other family is not for this
    /// model and is left out (an earlier one of that name goes); says whether it was taken.
    pub fn insert(&mut self, name: ServicePortName, mut service: ServicePort) -> bool {
        if !self.family.has(service.cluster_ip) {
            self.remove(&name);
            return false;
        }
        service.normalise(self.family);
        self.put(name, service);
        true
    }

    /// Takes a service port out.
    pub fn remove(&mut self, name: &ServicePortName) -> Option<Arc<ServicePort>> {
        self.services.remove(name).inspect(|service| self.endpoints -= service.endpoints.len())
    }

    fn put(&mut self, name: ServicePortName, service: ServicePort) {
        self.endpoints += service.endpoints.len();
        let service = Arc::new(service);
        let former = self.services.insert(name, service.clone());
        self.is_settled &= former.as_ref().is_some_and(|former| former.claims_as(&service));
        if let Some(former) = former {
            self.endpoints -= former.endpoints.len();
        }
    }

    /// The ports of one service.
    pub fn ports_of(&self, namespace: &str, service: &str) -> impl Iterator<Item = &ServicePortName> {
        // Names of other services stand between that of the unnamed port and those of the others.
        let whole = format!("{namespace}/{service}");
        let named = format!("{whole}:");
        let unnamed = self.services.get_key_value(whole.as_str()).map(|(name, _)| name);
        let others = self.services.range::<str, _>((Bound::Included(named.as_str()), Bound::Unbounded));
        let others = others.map(|(name, _)| name);
        unnamed.into_iter().chain(others.take_while(move |name| name.as_str().starts_with(&named)))
    }

    /// How many endpoints are known, in any state, over all service ports.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints
    }
}

#[cfg(test)]
mod tests;

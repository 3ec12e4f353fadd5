//! The table's own sets and maps, its chains, and what they hold.

use crate::{Family, Protocol, ServicePortName};
use std::sync::Arc;

/// The name of the table, in family `ip` or `ip6`.
pub const TABLE: &str = "kube-proxy";

/// The longest base of a name: with the longest prefix it stays under the kernel's 255 characters.
const LONGEST_BASE: usize = 240;

/// A set or map that is always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// All cluster IPs, with endpoints or without.
    ClusterIps,
    /// The node's addresses on which node ports answer, when those are restricted.
    NodePortIps,
    /// Packets that an endpoint on this node sends to itself.
    HairpinConnections,
    /// Address, protocol and port to the chain that rewrites.
    ServiceIps,
    /// Protocol and node port to the chain that rewrites.
    ServiceNodePorts,
    /// Address, protocol and port to a refusal.
    NoEndpointServices,
    /// Protocol and node port to a refusal.
    NoEndpointNodePorts,
    /// Load balancer address, protocol and port to the chain that looks at the source.
    FirewallIps,
}

impl Object {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ClusterIps,
        Self::NodePortIps,
        Self::HairpinConnections,
        Self::ServiceIps,
        Self::ServiceNodePorts,
        Self::NoEndpointServices,
        Self::NoEndpointNodePorts,
        Self::FirewallIps,
    ];

    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIps => "cluster-ips",
            Self::NodePortIps => "nodeport-ips",
            Self::HairpinConnections => "hairpin-connections",
            Self::ServiceIps => "service-ips",
            Self::ServiceNodePorts => "service-nodeports",
            Self::NoEndpointServices => "no-endpoint-services",
            Self::NoEndpointNodePorts => "no-endpoint-nodeports",
            Self::FirewallIps => "firewall-ips",
        }
    }

    /// `set` or `map`.
    pub fn kind(self) -> &'static str {
        if self.is_map() { "map" } else { "set" }
    }

    pub(super) fn is_map(self) -> bool {
        !self.is_shared()
    }

    /// Whether elements of several services may be the same one.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Self::ClusterIps | Self::NodePortIps | Self::HairpinConnections)
    }

    /// What stands between the braces of its declaration.
    pub(super) fn declaration(self, family: Family) -> String {
        let address = address_type(family);
        match self {
            Self::ClusterIps | Self::NodePortIps => format!("type {address} ;"),
            Self::HairpinConnections => format!("type {address} . {address} . inet_proto . inet_service ;"),
            Self::ServiceIps | Self::NoEndpointServices | Self::FirewallIps => {
                format!("type {address} . inet_proto . inet_service : verdict ;")
            }
            Self::ServiceNodePorts | Self::NoEndpointNodePorts => {
                "type inet_proto . inet_service : verdict ;".to_owned()
            }
        }
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Where it stands.
    pub object: Object,
    /// What is looked up.
    pub key: Arc<str>,
    /// What is found; `None` in a set.
    pub verdict: Option<Arc<str>>,
}

/// A set of clients that keep their endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Arc<str>,
    /// For how many seconds a client stays in it.
    pub seconds: u32,
}

/// A chain with its rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// What it is called.
    pub name: Arc<str>,
    /// Where the kernel calls it, for a base chain.
    pub hook: Option<&'static str>,
    /// Its rules.
    pub rules: Vec<Arc<str>>,
}

impl Chain {
    pub(super) fn new(name: impl Into<Arc<str>>, rules: Vec<String>) -> Self {
        Self { name: name.into(), hook: None, rules: rules.into_iter().map(Arc::from).collect() }
    }
}

/// The type of an address in sets.
pub(super) fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

/// The family of the table, and the protocol whose addresses rules look at.
pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// What all names of a service port end in: `HASH-namespace/name/protocol/port`.
pub(super) fn service_base(name: &ServicePortName, protocol: Protocol) -> String {
    base(&service_path(name, protocol))
}

/// What all names of an endpoint end in: the service port's, then `__ip/port` with dots for colons.
pub(super) fn endpoint_base(name: &ServicePortName, protocol: Protocol, endpoint: &crate::Endpoint) -> String {
    let address = endpoint.address.to_string().replace(':', ".");
    base(&format!("{}__{address}/{}", service_path(name, protocol), endpoint.port))
}

fn service_path(name: &ServicePortName, protocol: Protocol) -> String {
    format!("{}/{}/{protocol}/{}", name.namespace(), name.service(), name.port())
}

fn base(path: &str) -> String {
    let mut base = format!("{}-{path}", crate::hash::base32_sha256(&[path], 8));
    if base.len() > LONGEST_BASE {
        base.truncate(LONGEST_BASE - 3);
        base.push_str("...");
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, name};

    #[test]
    fn names_are_kube_proxys() {
        assert_eq!(service_base(&name("ns1/svc1:p80"), Protocol::Tcp), "ULMVA6XW-ns1/svc1/tcp/p80");
        let of = |address| endpoint_base(&name("ns1/svc1:p80"), Protocol::Tcp, &endpoint(address));
        assert_eq!(of("10.180.0.1:80"), "5OJB2KTY-ns1/svc1/tcp/p80__10.180.0.1/80");
        assert!(of("[fd00::1]:80").ends_with("__fd00..1/80"));
    }

    #[test]
    fn a_name_never_outgrows_the_kernels_limit() {
        let long = "n".repeat(253);
        let base = service_base(&ServicePortName::new(&long, &long, "p").unwrap(), Protocol::Tcp);
        assert!(base.len() == 240 && base.ends_with("..."));
    }
}

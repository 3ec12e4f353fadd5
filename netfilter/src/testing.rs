//! Short ways to write services in tests.

use crate::*;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

pub(crate) fn name(full: &str) -> ServicePortName {
    let (namespace, rest) = full.split_once('/').unwrap();
    let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
    ServicePortName::new(namespace, service, port).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// `10.96.0.1:80`, TCP.
pub(crate) fn service(address: &str) -> ServicePort {
    let socket: SocketAddr = address.parse().unwrap();
    ServicePort::new(Protocol::Tcp, socket.ip(), port(socket.port()))
}

/// `10.244.1.7:8080` and any of `local`, `unready`, `terminating`, `dead`, `zone=a`, `node=n1`.
pub(crate) fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let socket: SocketAddr = words.next().unwrap().parse().unwrap();
    let mut endpoint = Endpoint::ready(socket.ip(), port(socket.port()));
    for word in words {
        match word.split_once('=') {
            Some(("zone", zone)) => endpoint.zone_hints.push(zone.into()),
            Some(("node", node)) => endpoint.node_hints.push(node.into()),
            _ if word == "local" => endpoint.local = true,
            _ if word == "unready" => (endpoint.ready, endpoint.serving) = (false, false),
            _ if word == "terminating" => (endpoint.ready, endpoint.terminating) = (false, true),
            _ if word == "dead" => {
                (endpoint.ready, endpoint.serving, endpoint.terminating) = (false, false, true);
            }
            _ => panic!("{word}"),
        }
    }
    endpoint
}

impl ServicePort {
    pub(crate) fn to(mut self, endpoints: &[&str]) -> Self {
        self.endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
        self
    }

    pub(crate) fn over(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    pub(crate) fn node_port(mut self, number: u16) -> Self {
        self.node_port = Some(port(number));
        self
    }

    pub(crate) fn health_check(mut self, number: u16) -> Self {
        self.health_check_node_port = Some(port(number));
        self
    }

    pub(crate) fn external(mut self, address: &str) -> Self {
        self.external_ips.push(ip(address));
        self
    }

    pub(crate) fn vip(mut self, address: &str) -> Self {
        self.load_balancer_ips.push(ip(address));
        self
    }

    pub(crate) fn from(mut self, ranges: &[&str]) -> Self {
        self.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        self
    }

    pub(crate) fn sticky(mut self, seconds: u32) -> Self {
        self.affinity_seconds = NonZeroU32::new(seconds);
        self
    }

    pub(crate) fn internal_local(mut self) -> Self {
        self.internal_policy = Policy::Local;
        self
    }

    pub(crate) fn external_local(mut self) -> Self {
        self.external_policy = Policy::Local;
        self
    }
}

pub(crate) fn model(services: Vec<(&str, ServicePort)>) -> Model {
    let family = match services.first() {
        Some((_, service)) if service.cluster_ip.is_ipv6() => Family::V6,
        _ => Family::V4,
    };
    let mut model = Model::new(family);
    for (full, service) in services {
        assert!(model.insert(name(full), service));
    }
    model
}

/// A node as in the reference's examples: pods in 10.244.0.0/16, itself 192.0.2.10.
pub(crate) fn node() -> NodeConfig {
    NodeConfig {
        node: "n1".into(),
        zone: Some("a".into()),
        node_ips: vec![ip("192.0.2.10"), ip("2001:db8::10")],
        local_traffic: LocalTraffic::Cidr("10.244.0.0/16".parse().unwrap()),
        ..NodeConfig::default()
    }
}

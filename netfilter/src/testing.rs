//! Short ways to write services in tests.

use crate::*;
use proptest::prelude::*;
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

/// Up to five services with any mix of features, none clashing with another.
pub(crate) fn any_services() -> impl Strategy<Value = Model> {
    proptest::collection::vec(proptest::option::weighted(0.7, service_port()), 5).prop_map(|services| {
        let mut model = Model::new(Family::V4);
        for (index, service) in services.into_iter().enumerate() {
            if let Some(service) = service {
                model.insert(name(&format!("demo/s{index}")), at_place(service, index as u8));
            }
        }
        model
    })
}

/// Addresses and node ports of its own, so that services do not clash.
fn at_place(mut service: ServicePort, index: u8) -> ServicePort {
    let place = |base: &str| ip(&format!("{base}.{}", index + 1));
    service.cluster_ip = place("10.96.0");
    service.external_ips.iter_mut().for_each(|ip| *ip = place("203.0.113"));
    service.load_balancer_ips.iter_mut().for_each(|ip| *ip = place("198.51.100"));
    service.node_port = service.node_port.map(|number| port(number.get() + u16::from(index)));
    service
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let endpoints = proptest::sample::subsequence(vec!["10.244.0.1:80", "10.244.0.2:80", "10.244.0.3:80"], 0..=3);
    let state = proptest::sample::select(vec!["", " local", " terminating", " local terminating", " unready"]);
    let flags = proptest::collection::vec(any::<bool>(), 8);
    (endpoints, state, flags).prop_map(|(endpoints, state, flags)| {
        let mut service = service("10.96.0.1:80");
        service.endpoints = endpoints.iter().map(|text| endpoint(&format!("{text}{state}"))).collect();
        service.protocol = if flags[0] { Protocol::Udp } else { Protocol::Tcp };
        service.node_port = flags[1].then(|| port(30000));
        service.external_ips.extend(flags[2].then(|| ip("203.0.113.0")));
        service.load_balancer_ips.extend(flags[3].then(|| ip("198.51.100.0")));
        service.source_ranges.extend(flags[4].then(|| "192.0.2.0/24".parse::<ipnet::IpNet>().unwrap()));
        service.internal_policy = if flags[5] { Policy::Local } else { Policy::Cluster };
        service.external_policy = if flags[6] { Policy::Local } else { Policy::Cluster };
        service.affinity_seconds = flags[7].then_some(NonZeroU32::MIN);
        service
    })
}

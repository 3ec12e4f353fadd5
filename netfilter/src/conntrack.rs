//! Forgets connections that the kernel would go on sending to where a service no longer leads.
//!
//! Rules are looked at once per connection, and a UDP "connection" lives as long as its client keeps sending: without
//! this a client would talk to a removed endpoint for ever, or past a service that was not there when it began. SCTP
//! associations keep themselves alive by heartbeats in the same way; TCP ends by itself, and only attempts that nobody
//! answered are forgotten.

use crate::{Family, Model, Protocol, ServicePort};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

mod attempts; // TCP that began before there was anybody to lead it to
mod netlink; // ctnetlink, byte by byte

pub use attempts::Attempts;
pub use netlink::forget;

/// One connection that the kernel tracks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Which of those that services know.
    pub protocol: Protocol,
    /// Who began it.
    pub client: SocketAddr,
    /// Where the client sends to.
    pub to: SocketAddr,
    /// Where answers come from: another place than `to` when that was translated.
    pub from: SocketAddr,
    /// Where answers go to: another place than `client` when that was translated.
    pub back: SocketAddr,
}

impl Flow {
    /// Whether the kernel leads it to another place than the client sends to.
    pub fn is_translated(&self) -> bool {
        self.to != self.from
    }
}

/// Where connections of services may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    family: Family,
    places: HashMap<(Protocol, SocketAddr), Ends>,
    node_ports: HashMap<(Protocol, u16), Ends>,
    /// What had a service before and has none any more.
    gone: HashSet<(Protocol, SocketAddr)>,
    gone_node_ports: HashSet<(Protocol, u16)>,
    node: Vec<IpAddr>,
}

/// The endpoints of a service port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Ends {
    serving: HashSet<SocketAddr>,
    /// In any state.
    known: HashSet<SocketAddr>,
}

impl Ends {
    fn of(service: &ServicePort) -> Self {
        let all = |serving: bool| {
            service.endpoints.iter().filter(move |end| end.serving || !serving).map(crate::Endpoint::socket)
        };
        Self { serving: all(true).collect(), known: all(false).collect() }
    }

    /// As long as somebody serves, only those that do are good. With nobody left, whoever is still known may be:
    /// a probe that fails for a moment must not cut anybody off.
    fn is_good(&self, flow: &Flow) -> bool {
        match (self.serving.is_empty(), flow.is_translated()) {
            (false, _) => self.serving.contains(&flow.from),
            (true, true) => self.known.contains(&flow.from),
            (true, false) => true,
        }
    }
}

impl Wanted {
    /// What `new` leads to, where `old` was before; `node` are the node's own addresses. `None` when nothing that can
    /// make a connection stale differs.
    pub fn between(old: &Model, new: &Model, node: &[IpAddr]) -> Option<Self> {
        let lasting = |model: &Model| -> Vec<_> {
            let services = model.services().iter().filter(|(_, service)| service.protocol != Protocol::Tcp);
            services.map(|(name, service)| (name.clone(), service.clone())).collect()
        };
        let (before, now) = (lasting(old), lasting(new));
        if before == now {
            return None;
        }
        let mut wanted = Self {
            family: new.family(),
            places: HashMap::new(),
            node_ports: HashMap::new(),
            gone: HashSet::new(),
            gone_node_ports: HashSet::new(),
            node: node.to_vec(),
        };
        for (_, service) in &now {
            let ends = Ends::of(service);
            wanted.places.extend(places(service).map(|place| (place, ends.clone())));
            wanted.node_ports.extend(node_port(service).map(|port| (port, ends)));
        }
        for (_, service) in &before {
            wanted.gone.extend(places(service).filter(|place| !wanted.places.contains_key(place)));
            wanted.gone_node_ports.extend(node_port(service).filter(|port| !wanted.node_ports.contains_key(port)));
        }
        Some(wanted)
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let place = (flow.protocol, flow.to);
        if let Some(ends) = self.places.get(&place) {
            return !ends.is_good(flow);
        }
        if self.gone.contains(&place) {
            return flow.is_translated();
        }
        let port = (flow.protocol, flow.to.port());
        let is_ours = flow.is_translated() || self.node.contains(&flow.to.ip());
        match self.node_ports.get(&port) {
            // Somebody may use the same number on another machine: only what is translated or meant for us is ours.
            Some(ends) => is_ours && !ends.is_good(flow),
            None => self.gone_node_ports.contains(&port) && flow.is_translated() && self.node.contains(&flow.to.ip()),
        }
    }

    /// Forgets what is stale in the calling thread's network namespace, and says how many that were. Blocks.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or refuses.
    pub fn forget_stale(&self) -> io::Result<usize> {
        netlink::forget(self.family, |flow| self.is_stale(flow))
    }
}

fn places(service: &ServicePort) -> impl Iterator<Item = (Protocol, SocketAddr)> {
    let addresses = [service.cluster_ip].into_iter().chain(service.external_ips.iter().copied());
    let addresses = addresses.chain(service.load_balancer_ips.iter().copied());
    addresses.map(|address| (service.protocol, SocketAddr::new(address, service.port.get())))
}

fn node_port(service: &ServicePort) -> Option<(Protocol, u16)> {
    Some((service.protocol, service.node_port?.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServicePortName};

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn model(endpoints: &[(&str, bool)]) -> Model {
        let cluster_ip = socket("10.96.0.10:53");
        let port = |number: u16| number.try_into().unwrap();
        let mut service = ServicePort::new(Protocol::Udp, cluster_ip.ip(), port(53));
        service.node_port = Some(port(30053));
        service.external_ips.push("203.0.113.7".parse().unwrap());
        service.endpoints = endpoints
            .iter()
            .map(|(at, serving)| Endpoint {
                serving: *serving,
                ready: *serving,
                ..Endpoint::ready(socket(at).ip(), port(socket(at).port()))
            })
            .collect();
        let mut model = Model::new(Family::V4);
        model.insert(ServicePortName::new("demo", "dns", "").unwrap(), service);
        model
    }

    const A: &str = "10.244.0.2:53";
    const B: &str = "10.244.0.3:53";

    fn stale(old: &Model, new: &Model, to: &str, from: &str) -> bool {
        let wanted = Wanted::between(old, new, &["192.0.2.10".parse().unwrap()]).unwrap();
        let client = socket("198.51.100.9:4000");
        wanted.is_stale(&Flow { protocol: Protocol::Udp, client, to: socket(to), from: socket(from), back: client })
    }

    #[test]
    fn what_leads_to_a_removed_endpoint_is_stale_whatever_it_was_reached_by() {
        let (old, new) = (model(&[(A, true), (B, true)]), model(&[(B, true)]));
        for to in ["10.96.0.10:53", "203.0.113.7:53", "192.0.2.10:30053"] {
            assert!(stale(&old, &new, to, A), "{to}");
            assert!(!stale(&old, &new, to, B), "{to}");
        }
        assert!(!stale(&old, &new, A, A), "somebody asks the endpoint itself");
        assert!(!stale(&old, &new, "10.96.0.11:53", A), "a service that we do not know");
        assert!(!stale(&old, &new, "198.51.100.1:30053", "198.51.100.1:30053"), "a port of another machine");
    }

    #[test]
    fn what_began_before_there_was_an_endpoint_is_stale_when_there_is_one() {
        let (none, one) = (model(&[]), model(&[(A, true)]));
        assert!(stale(&none, &one, "10.96.0.10:53", "10.96.0.10:53"));
        assert!(stale(&none, &one, "192.0.2.10:30053", "192.0.2.10:30053"));
        assert!(stale(&one, &none, "10.96.0.10:53", A));
        assert!(!stale(&one, &none, "10.96.0.10:53", "10.96.0.10:53"), "nothing better to lead it to");
    }

    #[test]
    fn a_service_that_nobody_serves_for_a_moment_keeps_its_connections() {
        let (up, down) = (model(&[(A, true)]), model(&[(A, false)]));
        assert!(!stale(&up, &down, "10.96.0.10:53", A));
        let other = model(&[(A, false), (B, true)]);
        assert!(stale(&up, &other, "10.96.0.10:53", A), "there is somebody better now");
    }

    #[test]
    fn a_service_that_is_gone_leaves_nothing() {
        let (old, new) = (model(&[(A, true)]), Model::new(Family::V4));
        assert!(stale(&old, &new, "10.96.0.10:53", A));
        assert!(stale(&old, &new, "192.0.2.10:30053", A));
        assert!(!stale(&old, &new, "10.96.0.10:53", "10.96.0.10:53"));
    }

    #[test]
    fn nothing_is_looked_at_when_nothing_that_lasts_differs() {
        assert_eq!(Wanted::between(&model(&[(A, true)]), &model(&[(A, true)]), &[]), None);
    }
}

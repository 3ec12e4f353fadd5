use super::{Flow, netlink, node_port, places};
use crate::{Family, Model, Protocol, ServicePort};
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Addresses of TCP service ports that lead somewhere now and did not before.
///
/// Who asks too early is tracked as sending to the service's own address, where nobody answers, and each repetition keeps
/// that alive: the attempt never gets through, nor does a later one that happens to be given the same client port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempts {
    family: Family,
    places: HashSet<SocketAddr>,
    node_ports: HashSet<u16>,
    node: Vec<IpAddr>,
}

impl Attempts {
    /// What may have been tried in vain before the rules of `old` became those of `new`; `node` are the node's own
    /// addresses. `None` when nothing leads anywhere that did not before.
    pub fn between(old: &Model, new: &Model, node: &[IpAddr]) -> Option<Self> {
        let changed = new.services().iter().filter(|(name, service)| {
            let before = old.services().get(*name);
            leads(service) && !before.is_some_and(|before| std::sync::Arc::ptr_eq(before, service))
        });
        let mut attempts =
            Self { family: new.family(), places: HashSet::new(), node_ports: HashSet::new(), node: node.to_vec() };
        for (name, service) in changed {
            let before = old.services().get(name).filter(|before| leads(before));
            let led: HashSet<_> = before.into_iter().flat_map(|before| places(before)).collect();
            let opened = places(service).filter(|place| !led.contains(place)).map(|(_, address)| address);
            attempts.places.extend(opened);
            let had = before.and_then(|before| node_port(before));
            attempts.node_ports.extend(node_port(service).filter(|port| had != Some(*port)).map(|(_, port)| port));
        }
        (!attempts.places.is_empty() || !attempts.node_ports.is_empty()).then_some(attempts)
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let is_to_node = || self.node_ports.contains(&flow.to.port()) && self.node.contains(&flow.to.ip());
        !flow.is_translated() && (self.places.contains(&flow.to) || is_to_node())
    }

    /// Forgets them in the calling thread's network namespace, and says how many that were. What was answered is left
    /// alone. Blocks.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or refuses.
    pub fn forget_stale(&self) -> io::Result<usize> {
        netlink::forget_attempts(self.family, |flow| self.is_stale(flow))
    }
}

fn leads(service: &ServicePort) -> bool {
    service.protocol == Protocol::Tcp && !service.endpoints.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServicePortName};

    fn model(endpoints: &[&str], node_port: Option<u16>) -> Model {
        let port = |number: u16| number.try_into().unwrap();
        let mut service = ServicePort::new(Protocol::Tcp, "10.96.0.10".parse().unwrap(), port(80));
        service.node_port = node_port.map(port);
        service.endpoints = endpoints.iter().map(|at| Endpoint::ready(at.parse().unwrap(), port(8080))).collect();
        let mut model = Model::new(Family::V4);
        model.insert(ServicePortName::new("demo", "web", "").unwrap(), service);
        model
    }

    fn stale(attempts: &Attempts, to: &str, from: &str) -> bool {
        let client = "198.51.100.9:4000".parse().unwrap();
        let (to, from) = (to.parse().unwrap(), from.parse().unwrap());
        attempts.is_stale(&Flow { protocol: Protocol::Tcp, client, to, from, back: client })
    }

    fn between(old: &Model, new: &Model) -> Option<Attempts> {
        Attempts::between(old, new, &["192.0.2.10".parse().unwrap()])
    }

    #[test]
    fn what_was_tried_before_a_service_led_anywhere_is_stale() {
        let (none, one) = (model(&[], Some(30080)), model(&["10.244.0.2"], Some(30080)));
        for old in [&Model::new(Family::V4), &none] {
            let attempts = between(old, &one).unwrap();
            for to in ["10.96.0.10:80", "192.0.2.10:30080"] {
                assert!(stale(&attempts, to, to), "{to}");
                assert!(!stale(&attempts, to, "10.244.0.2:8080"), "it is led there already: {to}");
            }
            for to in ["10.96.0.10:81", "198.51.100.1:30080", "10.244.0.2:8080"] {
                assert!(!stale(&attempts, to, to), "{to}");
            }
        }
    }

    #[test]
    fn nothing_is_looked_at_where_nothing_new_leads_anywhere() {
        let (none, one) = (model(&[], None), model(&["10.244.0.2"], None));
        let two = model(&["10.244.0.2", "10.244.0.3"], None);
        for (old, new) in [(&one, &one), (&one, &two), (&two, &none), (&Model::new(Family::V4), &none)] {
            assert_eq!(between(old, new), None);
        }
        let with_port = model(&["10.244.0.2"], Some(30080));
        let attempts = between(&one, &with_port).unwrap();
        assert!(stale(&attempts, "192.0.2.10:30080", "192.0.2.10:30080"));
        assert!(!stale(&attempts, "10.96.0.10:80", "10.96.0.10:80"), "it led somewhere all the time");
    }
}

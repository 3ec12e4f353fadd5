//! Forgets UDP connections that the kernel would go on translating as before host ports changed.
//!
//! Rules are looked at once per connection, and a UDP "connection" lives as long as its client keeps sending: after a pod
//! is replaced its clients would be sent to the dead address for ever, or past a port that was not there when they began.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use netfilter::{
    Family,
    conntrack::{Flow, forget},
};

use crate::{leases::Lease, ports::Protocol, range::PodRange};

/// What host ports lead to now.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    range: PodRange,
    /// Addresses of pods whose ports were just taken back.
    gone: BTreeSet<Ipv4Addr>,
    leased: BTreeSet<Ipv4Addr>,
    /// UDP ports of the node, with the address that they are bound to.
    ports: Vec<(Option<Ipv4Addr>, u16)>,
}

impl Wanted {
    pub(crate) fn new(range: PodRange, leases: &BTreeMap<Ipv4Addr, Lease>, gone: BTreeSet<Ipv4Addr>) -> Self {
        let ports = leases.values().flat_map(|lease| &lease.ports).filter(|port| port.protocol == Protocol::Udp);
        let ports = ports.map(|port| (port.bound_to(), port.host_port)).collect();
        Self { range, gone, leased: leases.keys().copied().collect(), ports }
    }

    /// Whether no connection can be stale: no UDP port is there, and none was.
    pub(crate) fn is_nothing(&self) -> bool {
        self.gone.is_empty() && self.ports.is_empty()
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        let (IpAddr::V4(to), IpAddr::V4(from)) = (flow.to.ip(), flow.from.ip()) else { return false };
        if flow.protocol != netfilter::Protocol::Udp {
            return false;
        }
        if from != to {
            return self.range.holds(from) && (self.gone.contains(&from) || !self.leased.contains(&from));
        }
        // Began before the port was there. Connections that only leave through this node are translated at their source.
        flow.back.ip() == flow.client.ip()
            && self
                .ports
                .iter()
                .any(|(address, port)| *port == flow.to.port() && address.is_none_or(|address| address == to))
    }
}

/// Forgets what is stale in the calling thread's network namespace, and says how many that were. Blocks.
pub(crate) fn forget_stale(wanted: &Wanted) -> io::Result<usize> {
    forget(Family::V4, |flow| wanted.is_stale(flow))
}

#[cfg(test)]
mod tests;

//! Two service ports that claim the same address and port.

use super::{Model, Protocol, ServicePort};
use crate::ServicePortName;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// What only one service port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// An address with a port.
    Address(IpAddr, Protocol, NonZeroU16),
    /// A port of the node.
    NodePort(Protocol, NonZeroU16),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, protocol, port) => write!(f, "{ip} {protocol} port {port}"),
            Self::NodePort(protocol, port) => write!(f, "{protocol} node port {port}"),
        }
    }
}

/// A claim that was already taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// What both want.
    pub claim: Claim,
    /// Who has it.
    pub holder: ServicePortName,
    /// Who does not get it.
    pub loser: ServicePortName,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} already belongs to {}", self.claim, self.loser, self.holder)
    }
}

impl Model {
    /// The same model with every claim given to one service port only, and what was taken away.
    ///
    /// Cluster IPs go first: an external IP, which any user may write, must not draw another service's
    /// traffic to itself (CVE-2020-8554). Among equals the name that sorts first keeps the claim, whatever
    /// the order of arrival: otherwise a restart could hand a port to the other service. A service port
    /// that loses its cluster IP goes altogether; one that loses something else keeps the rest.
    ///
    /// The model itself where it is known to have none: after a change of endpoints nothing is looked at.
    pub fn without_clashes(&self) -> (Cow<'_, Model>, Vec<Clash>) {
        if self.is_settled {
            return (Cow::Borrowed(self), Vec::new());
        }
        let mut claims = Claims { holders: HashMap::with_capacity(self.services.len()), clashes: Vec::new() };
        let granted: Vec<_> =
            self.services.iter().filter(|(name, service)| claims.grant_cluster_ip(name, service)).collect();
        // Most services have nothing outside, and most models no clash: both cost next to nothing.
        let outside = granted.iter().filter(|(_, service)| service.is_externally_accessible());
        let kept: Vec<_> =
            outside.filter_map(|(name, service)| Some((*name, claims.grant_rest(name, service)?))).collect();
        let mut resolved = self.clone();
        if granted.len() < self.services.len() {
            resolved.endpoints = granted.iter().map(|(_, service)| service.endpoints.len()).sum();
            resolved.services = granted.into_iter().map(|(name, service)| (name.clone(), service.clone())).collect();
        }
        for (name, service) in kept {
            resolved.put(name.clone(), service);
        }
        resolved.is_settled = true;
        (Cow::Owned(resolved), claims.clashes)
    }
}

struct Claims<'a> {
    holders: HashMap<Claim, &'a ServicePortName>,
    clashes: Vec<Clash>,
}

impl<'a> Claims<'a> {
    fn grant_cluster_ip(&mut self, name: &'a ServicePortName, service: &ServicePort) -> bool {
        self.take(Claim::Address(service.cluster_ip, service.protocol, service.port), name)
    }

    /// What is left of the service port if something is taken from it.
    fn grant_rest(&mut self, name: &'a ServicePortName, service: &ServicePort) -> Option<ServicePort> {
        let (protocol, port, before) = (service.protocol, service.port, self.clashes.len());
        let mut kept = service.clone();
        kept.external_ips.retain(|ip| self.take(Claim::Address(*ip, protocol, port), name));
        // One address may be both external and the load balancer's: that is the same service, no clash.
        kept.load_balancer_ips.retain(|ip| self.take(Claim::Address(*ip, protocol, port), name));
        kept.node_port = kept.node_port.filter(|port| self.take(Claim::NodePort(protocol, *port), name));
        (self.clashes.len() > before).then_some(kept)
    }

    fn take(&mut self, claim: Claim, name: &'a ServicePortName) -> bool {
        let holder = *self.holders.entry(claim).or_insert(name);
        if holder == name {
            return true;
        }
        self.clashes.push(Clash { claim, holder: holder.clone(), loser: name.clone() });
        false
    }
}

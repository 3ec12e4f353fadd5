//! Which endpoints a service port sends to, and what follows from that.

use crate::{Endpoint, NodeConfig, Policy, ServicePort};

/// The chosen endpoints, each list in the order of the service port's own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection<'a> {
    /// For traffic under the Cluster policy.
    pub(crate) cluster: Vec<&'a Endpoint>,
    /// For traffic under the Local policy.
    pub(crate) local: Vec<&'a Endpoint>,
    /// Either of the two.
    pub(crate) reachable: Vec<&'a Endpoint>,
    /// Some endpoint somewhere is usable, if perhaps not from here.
    pub(crate) any: bool,
}

/// What a service port does with a packet that no chain of endpoints takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is no endpoint anywhere: tell the client.
    Reject,
    /// Endpoints are elsewhere: stay silent, so that a load balancer asks another node.
    Drop,
}

impl<'a> Selection<'a> {
    /// Chooses by policy, readiness and hints.
    pub(crate) fn of(service: &'a ServicePort, node: &NodeConfig) -> Self {
        let cluster = if uses_cluster(service) { cluster_endpoints(service, node) } else { Vec::new() };
        let local = if uses_local(service) { local_endpoints(service) } else { Vec::new() };
        // A usable endpoint on another node counts only for the Local policies: without one of them,
        // what hints left over is all there is.
        let any = !cluster.is_empty() || (uses_local(service) && service.endpoints.iter().any(is_usable));
        let reachable = |endpoint: &&Endpoint| cluster.contains(endpoint) || local.contains(endpoint);
        let reachable = service.endpoints.iter().filter(reachable).collect();
        Self { cluster, local, reachable, any }
    }

    /// What happens to traffic under `policy` that finds no endpoint; `None` if it finds one.
    pub(crate) fn verdict(&self, policy: Policy) -> Option<Verdict> {
        match policy {
            _ if !self.any => Some(Verdict::Reject),
            Policy::Local if self.local.is_empty() => Some(Verdict::Drop),
            _ => None,
        }
    }
}

/// Whether the Cluster policy governs any traffic to the service port.
pub(crate) fn uses_cluster(service: &ServicePort) -> bool {
    service.internal_policy == Policy::Cluster || service.is_externally_accessible()
}

/// Whether the Local policy governs any traffic to the service port.
pub(crate) fn uses_local(service: &ServicePort) -> bool {
    service.internal_policy == Policy::Local
        || (service.external_policy == Policy::Local && service.is_externally_accessible())
}

fn is_usable(endpoint: &Endpoint) -> bool {
    endpoint.ready || is_last_resort(endpoint)
}

/// Being stopped, yet still answering: better than nothing.
fn is_last_resort(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

fn cluster_endpoints<'a>(service: &'a ServicePort, node: &NodeConfig) -> Vec<&'a Endpoint> {
    let hints = Hints::of(service, node);
    let ready = |endpoint: &&Endpoint| endpoint.ready && hints.allow(endpoint, node);
    ready_or_last_resort(service.endpoints.iter().collect(), ready)
}

fn local_endpoints(service: &ServicePort) -> Vec<&Endpoint> {
    let local = service.endpoints.iter().filter(|endpoint| endpoint.local).collect();
    ready_or_last_resort(local, |endpoint| endpoint.ready)
}

fn ready_or_last_resort<'a>(all: Vec<&'a Endpoint>, ready: impl Fn(&&'a Endpoint) -> bool) -> Vec<&'a Endpoint> {
    let chosen: Vec<_> = all.iter().copied().filter(|endpoint| ready(endpoint)).collect();
    if chosen.is_empty() { all.into_iter().filter(|endpoint| is_last_resort(endpoint)).collect() } else { chosen }
}

/// How hints narrow the choice. They are followed only if every ready endpoint has one and at least one
/// names this place: half of them would send all traffic to the half that has hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    SameNode,
    SameZone,
    Ignored,
}

impl Hints {
    fn of(service: &ServicePort, node: &NodeConfig) -> Self {
        let complete = |hints: fn(&Endpoint) -> &[String], here: &str| {
            let mut ready = service.endpoints.iter().filter(|endpoint| endpoint.ready).map(hints);
            let mut named = false;
            let all = ready.all(|hints| {
                named |= hints.iter().any(|hint| hint == here);
                !hints.is_empty()
            });
            all && named
        };
        if complete(|endpoint| &endpoint.node_hints, &node.node) {
            return Self::SameNode;
        }
        match &node.zone {
            Some(zone) if complete(|endpoint| &endpoint.zone_hints, zone) => Self::SameZone,
            _ => Self::Ignored,
        }
    }

    fn allow(self, endpoint: &Endpoint, node: &NodeConfig) -> bool {
        match self {
            Self::SameNode => endpoint.node_hints.contains(&node.node),
            Self::SameZone => node.zone.as_ref().is_some_and(|zone| endpoint.zone_hints.contains(zone)),
            Self::Ignored => true,
        }
    }
}

#[cfg(test)]
mod tests;

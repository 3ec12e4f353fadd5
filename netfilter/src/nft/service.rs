//! Chains and elements of one service port.

use super::base::{MARK, REJECT, local_traffic_match};
use super::counters::COUNTER;
use super::object::{Chain, Element, Object, Set, endpoint_base, ip, service_base};
use crate::select::{self, Selection, Verdict};
use crate::{Endpoint, Family, NodeConfig, Policy, ServicePort, ServicePortName};
use std::net::IpAddr;
use std::sync::Arc;

/// What one service port adds to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceRules {
    /// What it was made from.
    pub(super) service: Arc<ServicePort>,
    /// Who keeps which endpoint.
    pub(super) sets: Vec<Set>,
    /// Its chains; they refer to each other and to chains that are always there.
    pub(super) chains: Vec<Chain>,
    /// Its elements.
    pub(super) elements: Vec<Element>,
}

impl ServiceRules {
    pub(super) fn render(
        name: &ServicePortName,
        service: &Arc<ServicePort>,
        family: Family,
        node: &NodeConfig,
    ) -> Self {
        let base = service_base(name, service.protocol);
        let view = View { name, service, family, node, selection: Selection::of(service, node), base };
        Self { service: Arc::clone(service), sets: view.sets(), chains: view.chains(), elements: view.elements() }
    }
}

struct View<'a> {
    name: &'a ServicePortName,
    service: &'a ServicePort,
    family: Family,
    node: &'a NodeConfig,
    selection: Selection<'a>,
    base: String,
}

impl View<'_> {
    fn chain_for(&self, policy: Policy) -> String {
        match policy {
            Policy::Cluster => format!("service-{}", self.base),
            Policy::Local => format!("local-{}", self.base),
        }
    }

    fn has_firewall(&self) -> bool {
        !self.service.load_balancer_ips.is_empty() && !self.service.source_ranges.is_empty()
    }

    // ---- elements ----

    fn elements(&self) -> Vec<Element> {
        let service = self.service;
        let mut elements = vec![set_element(Object::ClusterIps, service.cluster_ip.to_string())];
        match self.selection.verdict(service.internal_policy) {
            None => elements.push(self.to(
                Object::ServiceIps,
                self.place(service.cluster_ip),
                &self.chain_for(service.internal_policy),
            )),
            Some(verdict) => {
                elements.push(refusal(Object::NoEndpointServices, self.place(service.cluster_ip), verdict));
            }
        }
        for address in service.external_ips.iter().chain(&service.load_balancer_ips) {
            self.external(Object::ServiceIps, Object::NoEndpointServices, &self.place(*address), &mut elements);
        }
        if let Some(port) = service.node_port {
            let place = format!("{} . {port}", service.protocol);
            self.external(Object::ServiceNodePorts, Object::NoEndpointNodePorts, &place, &mut elements);
        }
        if self.has_firewall() {
            let chain = format!("firewall-{}", self.base);
            let guarded =
                service.load_balancer_ips.iter().map(|ip| self.to(Object::FirewallIps, self.place(*ip), &chain));
            elements.extend(guarded);
        }
        elements.extend(self.selection.reachable.iter().filter(|endpoint| endpoint.local).map(|e| self.hairpin(e)));
        elements
    }

    fn external(&self, found: Object, refused: Object, place: &str, elements: &mut Vec<Element>) {
        if self.selection.any {
            elements.push(self.to(found, place.to_owned(), &format!("external-{}", self.base)));
        }
        let verdict = self.selection.verdict(self.service.external_policy);
        elements.extend(verdict.map(|verdict| refusal(refused, place.to_owned(), verdict)));
    }

    fn place(&self, address: IpAddr) -> String {
        format!("{address} . {} . {}", self.service.protocol, self.service.port)
    }

    fn to(&self, object: Object, key: String, chain: &str) -> Element {
        Element { object, key: key.into(), verdict: Some(format!("goto {chain}").into()) }
    }

    fn hairpin(&self, endpoint: &Endpoint) -> Element {
        let Endpoint { address, port, .. } = endpoint;
        set_element(Object::HairpinConnections, format!("{address} . {address} . {} . {port}", self.service.protocol))
    }

    // ---- chains ----

    fn sets(&self) -> Vec<Set> {
        let Some(seconds) = self.service.affinity_seconds else { return Vec::new() };
        let endpoints = self.selection.reachable.iter();
        endpoints.map(|endpoint| Set { name: self.affinity_set(endpoint).into(), seconds: seconds.get() }).collect()
    }

    fn chains(&self) -> Vec<Chain> {
        let mut chains = Vec::new();
        if self.has_firewall() {
            chains.push(Chain::new(format!("firewall-{}", self.base), vec![self.firewall()]));
        }
        if !self.selection.any {
            return chains;
        }
        for (policy, endpoints) in [(Policy::Cluster, &self.selection.cluster), (Policy::Local, &self.selection.local)]
        {
            let used = if policy == Policy::Cluster { select::uses_cluster } else { select::uses_local };
            if !endpoints.is_empty() && used(self.service) {
                let mut rules = self.balance(endpoints);
                // Before any match: every connection that comes here is counted once.
                rules.iter_mut().take(1).for_each(|rule| rule.insert_str(0, COUNTER));
                chains.push(Chain::new(self.chain_for(policy), rules));
            }
        }
        if self.service.is_externally_accessible() {
            chains.push(Chain::new(format!("external-{}", self.base), self.external_entry()));
        }
        if self.service.affinity_seconds.is_some() {
            chains.extend(self.selection.reachable.iter().map(|endpoint| self.endpoint(endpoint)));
        }
        chains
    }

    fn balance(&self, endpoints: &[&Endpoint]) -> Vec<String> {
        let ip = ip(self.family);
        if self.service.affinity_seconds.is_none() {
            return vec![self.rewrite_to_any(endpoints)];
        }
        let stick = |endpoint: &&Endpoint| {
            format!("{ip} saddr @{} goto {}", self.affinity_set(endpoint), self.endpoint_chain(endpoint))
        };
        let choices = endpoints.iter().enumerate();
        let choices: Vec<_> =
            choices.map(|(index, endpoint)| format!("{index} : goto {}", self.endpoint_chain(endpoint))).collect();
        let choose = format!("numgen random mod {} vmap {{ {} }}", endpoints.len(), choices.join(", "));
        endpoints.iter().map(stick).chain([choose]).collect()
    }

    /// One rule for any number of endpoints.
    fn rewrite_to_any(&self, endpoints: &[&Endpoint]) -> String {
        if let [endpoint] = endpoints {
            return self.rewrite_to(endpoint);
        }
        let choices = endpoints.iter().enumerate();
        let choices: Vec<_> =
            choices.map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.address, endpoint.port)).collect();
        let (ip, protocol, count) = (ip(self.family), self.service.protocol, endpoints.len());
        format!("meta l4proto {protocol} dnat {ip} to numgen random mod {count} map {{ {} }}", choices.join(", "))
    }

    fn rewrite_to(&self, endpoint: &Endpoint) -> String {
        format!("meta l4proto {} dnat {} to {}", self.service.protocol, ip(self.family), endpoint.socket())
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Chain {
        let remember = format!("update @{} {{ {} saddr }}", self.affinity_set(endpoint), ip(self.family));
        Chain::new(self.endpoint_chain(endpoint), vec![remember, self.rewrite_to(endpoint)])
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> String {
        format!("endpoint-{}", endpoint_base(self.name, self.service.protocol, endpoint))
    }

    fn affinity_set(&self, endpoint: &Endpoint) -> String {
        format!("affinity-{}", endpoint_base(self.name, self.service.protocol, endpoint))
    }

    fn external_entry(&self) -> Vec<String> {
        let all = self.chain_for(Policy::Cluster);
        if self.service.external_policy == Policy::Cluster {
            return vec![format!("jump {MARK}"), format!("goto {all}")];
        }
        let mut rules = Vec::with_capacity(4);
        // Pods and the node itself may use every endpoint: only what comes from outside must keep its
        // source address, and so its path.
        rules.extend(local_traffic_match(self.family, self.node).map(|[pods, _]| format!("{pods} goto {all}")));
        rules.push(format!("fib saddr type local jump {MARK}"));
        rules.push(format!("fib saddr type local goto {all}"));
        if self.selection.verdict(Policy::Local).is_none() {
            rules.push(format!("goto {}", self.chain_for(Policy::Local)));
        }
        rules
    }

    fn firewall(&self) -> String {
        let ranges = &self.service.source_ranges;
        let mut sources: Vec<_> = ipnet::IpNet::aggregate(ranges).iter().map(ToString::to_string).collect();
        if ranges.iter().any(|range| self.node.has_address_in(range)) {
            // The node's own packets to the address leave with that address as their source.
            let uncovered = |ip: &&IpAddr| !ranges.iter().any(|range| range.contains(*ip));
            sources.extend(self.service.load_balancer_ips.iter().filter(uncovered).map(ToString::to_string));
        }
        format!("{} saddr != {{ {} }} drop", ip(self.family), sources.join(", "))
    }
}

fn set_element(object: Object, key: String) -> Element {
    Element { object, key: key.into(), verdict: None }
}

fn refusal(object: Object, key: String, verdict: Verdict) -> Element {
    let verdict = match verdict {
        Verdict::Reject => format!("goto {REJECT}"),
        Verdict::Drop => "drop".to_owned(),
    };
    Element { object, key: key.into(), verdict: Some(verdict.into()) }
}

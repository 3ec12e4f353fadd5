//! What a control plane gives to a Service: an address of its own and node ports, chosen so that they stay the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use sha2::{Digest, Sha256};

use crate::names::ObjectName;

/// Kubernetes' default node port range.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// The Services with what they lack: addresses from `range`, node ports from Kubernetes' range.
///
/// Chosen by a hash of the name, so that a Service keeps its address over restarts of the agent without a record;
/// the next free one where two names meet. What a manifest asks for is never given to another. What comes out as it was in
/// `last` is the same `Arc`.
pub fn complete(
    services: &BTreeMap<ObjectName, Arc<Service>>,
    range: Ipv4Net,
    last: &BTreeMap<ObjectName, Arc<Service>>,
) -> BTreeMap<ObjectName, Arc<Service>> {
    let mut taken = Taken::of(services);
    services
        .iter()
        .map(|(name, service)| {
            let mut service = service.clone();
            if lacks_address(&service)
                && let Some(address) = taken.address(name, range)
            {
                set_address(Arc::make_mut(&mut service), address);
            }
            if lacks_node_port(&service) {
                give_node_ports(Arc::make_mut(&mut service), name, &mut taken);
            }
            let same = last.get(name).filter(|last| **last == service);
            (name.clone(), same.cloned().unwrap_or(service))
        })
        .collect()
}

fn kind(service: &Service) -> &str {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP")
}

fn lacks_address(service: &Service) -> bool {
    let given = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    given.is_empty() && kind(service) != "ExternalName"
}

fn lacks_node_port(service: &Service) -> bool {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    matches!(kind(service), "NodePort" | "LoadBalancer") && ports.iter().any(|port| port.node_port.unwrap_or(0) == 0)
}

fn set_address(service: &mut Service, address: Ipv4Addr) {
    let spec = service.spec.get_or_insert_default();
    spec.cluster_ip = Some(address.to_string());
    spec.cluster_ips = Some(vec![address.to_string()]);
}

fn give_node_ports(service: &mut Service, name: &ObjectName, taken: &mut Taken) {
    for port in service.spec.get_or_insert_default().ports.get_or_insert_default() {
        if port.node_port.unwrap_or(0) == 0 {
            port.node_port = taken.node_port(name, port.port).map(i32::from);
        }
    }
}

/// What is no longer free.
struct Taken {
    addresses: BTreeSet<Ipv4Addr>,
    node_ports: BTreeSet<u16>,
}

impl Taken {
    fn of(services: &BTreeMap<ObjectName, Arc<Service>>) -> Self {
        let specs = || services.values().filter_map(|service| service.spec.as_ref());
        let ports = specs().flat_map(|spec| spec.ports.iter().flatten()).filter_map(|port| port.node_port);
        Self {
            addresses: specs().filter_map(|spec| spec.cluster_ip.as_ref()?.parse().ok()).collect(),
            node_ports: ports.filter_map(|port| u16::try_from(port).ok()).collect(),
        }
    }

    fn address(&mut self, name: &ObjectName, range: Ipv4Net) -> Option<Ipv4Addr> {
        // The first address is the network's, the last its broadcast; the second is `kubernetes` in every cluster.
        let (first, last) = (u32::from(range.network()) + 2, u32::from(range.broadcast()).saturating_sub(1));
        let count = u64::from(last.checked_sub(first)?) + 1;
        let start = hash(name, 0) % count;
        let places = (0..count).map(|step| (start + step) % count);
        let address = places
            .filter_map(|place| u32::try_from(place).ok())
            .map(|place| Ipv4Addr::from(first + place))
            .find(|address| !self.addresses.contains(address))?;
        self.addresses.insert(address);
        Some(address)
    }

    fn node_port(&mut self, name: &ObjectName, port: i32) -> Option<u16> {
        let count = NODE_PORTS.end() - NODE_PORTS.start() + 1;
        let start = u16::try_from(hash(name, port) % u64::from(count)).ok()?;
        let port = (0..count)
            .map(|step| NODE_PORTS.start() + (start + step) % count)
            .find(|port| !self.node_ports.contains(port))?;
        self.node_ports.insert(port);
        Some(port)
    }
}

fn hash(name: &ObjectName, salt: i32) -> u64 {
    let digest = Sha256::digest(format!("{name}/{salt}"));
    digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn services(specs: &[(&str, Value)]) -> BTreeMap<ObjectName, Arc<Service>> {
        let service = |spec: &Value| Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap());
        specs.iter().map(|(name, spec)| (ObjectName::new("default", *name), service(spec))).collect()
    }

    fn address(services: &BTreeMap<ObjectName, Arc<Service>>, name: &str) -> Option<String> {
        services[&ObjectName::new("default", name)].spec.as_ref()?.cluster_ip.clone()
    }

    #[test]
    fn what_is_asked_for_is_given_and_never_to_another() {
        let range = "10.96.0.0/29".parse().unwrap();
        let all = services(&[
            ("a", json!({"clusterIP": "10.96.0.3"})),
            ("b", json!({})),
            ("c", json!({})),
            ("headless", json!({"clusterIP": "None"})),
            ("alias", json!({"type": "ExternalName", "externalName": "x.org"})),
        ]);
        let complete = complete(&all, range, &BTreeMap::new());
        assert_eq!(address(&complete, "a").as_deref(), Some("10.96.0.3"));
        assert_eq!(address(&complete, "headless").as_deref(), Some("None"));
        assert_eq!(address(&complete, "alias"), None);
        let given: BTreeSet<_> = ["a", "b", "c"].map(|name| address(&complete, name).unwrap()).into();
        assert_eq!(given.len(), 3);
    }

    #[test]
    fn node_ports_are_given_where_they_are_asked_for_without_a_number() {
        let all =
            services(&[("n", json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81, "nodePort": 30_100}]}))]);
        let range = "10.96.0.0/16".parse().unwrap();
        let complete = complete(&all, range, &BTreeMap::new());
        let again = super::complete(&all, range, &complete);
        assert!(complete.iter().zip(&again).all(|((_, old), (_, new))| Arc::ptr_eq(old, new)));
        let ports = complete.values().next().unwrap().spec.clone().unwrap().ports.unwrap();
        assert!(NODE_PORTS.contains(&u16::try_from(ports[0].node_port.unwrap()).unwrap()));
        assert_eq!(ports[1].node_port, Some(30_100));
    }

    proptest! {
        #[test]
        fn another_service_moves_nobody_unless_they_meet(names in proptest::collection::btree_set("[a-z]{1,8}", 1..20)) {
            let range: Ipv4Net = "10.96.0.0/12".parse().unwrap();
            let specs: Vec<_> = names.iter().map(|name| (name.as_str(), json!({}))).collect();
            let alone = complete(&services(&specs[..1]), range, &BTreeMap::new());
            let together = complete(&services(&specs), range, &alone);
            prop_assert_eq!(address(&alone, specs[0].0), address(&together, specs[0].0));
            let given: BTreeSet<_> = names.iter().map(|name| address(&together, name)).collect();
            prop_assert_eq!(given.len(), names.len());
        }
    }
}

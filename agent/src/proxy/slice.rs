//! Endpoints of a Service as the proxy reads them, made of an EndpointSlice (v1 or v1beta1) or an Endpoints object.
//!
//! Only what rules need is kept, in boxes without room to grow: with thousands of Services the objects themselves would cost
//! ten times the memory.

use std::net::IpAddr;
use std::num::NonZeroU16;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use netfilter::Protocol;
use serde_json::Value;

use super::rows::{HEADLESS, address, number, protocol};
use crate::names::ObjectName;

/// Endpoints of one Service, or some of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The Service.
    pub service: ObjectName,
    /// Ports and the addresses that have them.
    pub groups: Box<[Group]>,
    /// When what made this change happened, if somebody wrote it down: for the latency that is measured.
    pub triggered: Option<Timestamp>,
}

/// Addresses that all answer on the same ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The ports.
    pub ports: Box<[SlicePort]>,
    /// The addresses, of either family.
    pub addresses: Box<[SliceAddress]>,
}

/// One port of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service's port of this name, empty for the unnamed one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number on which the endpoint answers.
    pub number: NonZeroU16,
}

/// One address of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceAddress {
    /// The address.
    pub address: IpAddr,
    /// It takes new connections.
    pub ready: bool,
    /// It still answers.
    pub serving: bool,
    /// It is being stopped.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// Zones that it is meant for.
    pub zone_hints: Vec<String>,
    /// Nodes that it is meant for.
    pub node_hints: Vec<String>,
}

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl Slice {
    /// Reads an EndpointSlice of discovery.k8s.io/v1. `None` for one that belongs to no Service, is marked headless, or
    /// holds domain names.
    pub fn of_slice(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty() && !labels.contains_key(HEADLESS))?;
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|port| slice_port(port.name.as_deref()?, port.protocol.as_deref(), port.port?));
        let addresses = slice.endpoints.iter().flatten().filter_map(|endpoint| of_endpoint(endpoint, is_v4));
        Some(Self {
            service: ObjectName::new(namespace(&slice.metadata), service),
            groups: Box::new([Group { ports: ports.collect(), addresses: addresses.collect() }]),
            triggered: triggered(&slice.metadata),
        })
    }

    /// Reads an EndpointSlice of discovery.k8s.io/v1beta1, which says the node of an endpoint in its topology. `None` as for
    /// [`Slice::of_slice`], and for what is not an EndpointSlice.
    pub fn of_v1beta1(slice: &Value) -> Option<Self> {
        let mut slice = slice.clone();
        let object = slice.as_object_mut()?;
        object.remove("apiVersion");
        object.remove("kind");
        for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
            let node = endpoint.pointer("/topology/kubernetes.io~1hostname").cloned();
            if let (Some(endpoint), Some(node)) = (endpoint.as_object_mut(), node) {
                endpoint.entry("nodeName").or_insert(node);
            }
        }
        Self::of_slice(&serde_json::from_value(slice).ok()?)
    }

    /// Reads an Endpoints object, which is named as its Service. `None` for one that is marked headless.
    pub fn of_endpoints(endpoints: &Endpoints) -> Option<Self> {
        let metadata = &endpoints.metadata;
        if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(HEADLESS)) {
            return None;
        }
        Some(Self {
            service: ObjectName::new(namespace(metadata), metadata.name.as_deref()?),
            groups: endpoints.subsets.iter().flatten().map(of_subset).collect(),
            triggered: triggered(metadata),
        })
    }
}

fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

fn triggered(metadata: &ObjectMeta) -> Option<Timestamp> {
    metadata.annotations.as_ref()?.get(TRIGGERED)?.parse().ok()
}

/// A port without a number, or with one that none has, leads nowhere.
fn slice_port(name: &str, named: Option<&str>, given: i32) -> Option<SlicePort> {
    Some(SlicePort { name: name.to_owned(), protocol: protocol(named)?, number: number(given)? })
}

/// Only the first address counts, as everywhere upstream: further ones never had a meaning.
fn of_endpoint(endpoint: &Endpoint, is_v4: bool) -> Option<SliceAddress> {
    let conditions = endpoint.conditions.as_ref();
    let condition =
        |of: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| conditions.and_then(of);
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Some(SliceAddress {
        address: address(endpoint.addresses.first()?).filter(|address| address.is_ipv4() == is_v4)?,
        // What is not said means the good case: old servers write neither `serving` nor `terminating`.
        ready: condition(|conditions| conditions.ready).unwrap_or(true),
        serving: condition(|conditions| conditions.serving).unwrap_or(true),
        terminating: condition(|conditions| conditions.terminating).unwrap_or(false),
        node: endpoint.node_name.clone(),
        zone_hints: zones.iter().map(|zone| zone.name.clone()).collect(),
        node_hints: nodes.iter().map(|node| node.name.clone()).collect(),
    })
}

fn of_subset(subset: &EndpointSubset) -> Group {
    let ports = subset.ports.iter().flatten();
    let ports =
        ports.filter_map(|port| slice_port(port.name.as_deref().unwrap_or(""), port.protocol.as_deref(), port.port));
    let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<SliceAddress> {
        let addresses = addresses.iter().flatten();
        let read = |one: &EndpointAddress| {
            Some(SliceAddress {
                address: address(&one.ip)?,
                ready,
                serving: ready,
                terminating: false,
                node: one.node_name.clone(),
                zone_hints: Vec::new(),
                node_hints: Vec::new(),
            })
        };
        addresses.filter_map(read).collect()
    };
    let addresses = [of(&subset.addresses, true), of(&subset.not_ready_addresses, false)].concat();
    Group { ports: ports.collect(), addresses: addresses.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn first(slice: Option<Slice>) -> SliceAddress {
        slice.unwrap().groups[0].addresses[0].clone()
    }

    fn v1(extra: Value) -> Value {
        let mut slice = json!({
            "metadata": {"name": "web-x", "namespace": "demo", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.001.007", "10.244.9.9"]}],
            "ports": [{"name": "http", "port": 8080}, {"port": 1}, {"name": "zero", "port": 0}, {"name": "", "port": 9,
                "protocol": "UDP"}],
        });
        slice.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        slice
    }

    fn of_v1(extra: Value) -> Option<Slice> {
        Slice::of_slice(&serde_json::from_value(v1(extra)).unwrap())
    }

    #[test]
    fn only_the_first_address_and_real_ports_count() {
        let slice = of_v1(json!({})).unwrap();
        assert_eq!(slice.service, ObjectName::new("demo", "web"));
        let group = &slice.groups[0];
        let ports: Vec<_> = group.ports.iter().map(|port| (&*port.name, port.protocol, port.number.get())).collect();
        assert_eq!(ports, [("http", Protocol::Tcp, 8080), ("", Protocol::Udp, 9)]);
        assert_eq!(group.addresses.len(), 1);
        let address = &group.addresses[0];
        assert_eq!(address.address.to_string(), "10.244.1.7");
        assert!(address.ready && address.serving && !address.terminating);
    }

    #[test]
    fn conditions_and_hints_are_read() {
        let address = first(of_v1(json!({"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1",
            "conditions": {"ready": false, "serving": true, "terminating": true},
            "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}}]})));
        assert_eq!((address.ready, address.serving, address.terminating), (false, true, true));
        assert_eq!((address.node.as_deref(), &address.zone_hints[..]), (Some("n1"), &["z1".to_owned()][..]));
        assert_eq!(address.node_hints, ["n1"]);
    }

    #[test]
    fn slices_that_are_not_for_the_proxy_are_left_out() {
        assert!(of_v1(json!({"addressType": "FQDN"})).is_none());
        assert!(of_v1(json!({"metadata": {"name": "x"}})).is_none());
        let headless = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
        assert!(of_v1(json!({"metadata": {"name": "x", "labels": headless}})).is_none());
        let other = of_v1(json!({"addressType": "IPv6"})).unwrap();
        assert!(other.groups[0].addresses.is_empty(), "an IPv4 address in a slice of IPv6");
        assert!(of_v1(json!({"endpoints": [{"addresses": ["web.example"]}]})).unwrap().groups[0].addresses.is_empty());
    }

    #[test]
    fn v1beta1_names_the_node_in_its_topology() {
        let old = v1(json!({"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice", "endpoints": [
            {"addresses": ["10.0.0.1"], "topology": {"kubernetes.io/hostname": "n7"}}]}));
        assert_eq!(first(Slice::of_v1beta1(&old)).node.as_deref(), Some("n7"));
        assert!(Slice::of_v1beta1(&json!("nonsense")).is_none());
    }

    #[test]
    fn endpoints_hold_both_families_and_those_that_are_not_ready() {
        let endpoints = json!({"metadata": {"name": "web", "namespace": "demo"}, "subsets": [{
            "addresses": [{"ip": "10.0.0.1", "nodeName": "n1"}, {"ip": "fd00::1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]}]});
        let slice = Slice::of_endpoints(&serde_json::from_value(endpoints).unwrap()).unwrap();
        let seen: Vec<_> = slice.groups[0].addresses.iter().map(|a| (a.address.to_string(), a.ready)).collect();
        assert_eq!(seen, [("10.0.0.1".into(), true), ("fd00::1".into(), true), ("10.0.0.2".into(), false)]);
        assert_eq!(slice.groups[0].ports[0].name, "");
    }
}

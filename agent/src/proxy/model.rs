//! One Service as the rows of the rules' model.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use netfilter::{Model, Policy, Protocol, ServicePortName};

use super::endpoints;
use crate::names::{ObjectName, PodUid};
use crate::view::PodView;

/// Adds the ports of one Service; headless Services, aliases and what has no address add none.
pub(super) fn insert(
    model: &mut Model,
    name: &ObjectName,
    service: &Service,
    views: &BTreeMap<PodUid, PodView>,
    node: &str,
) {
    let Some(spec) = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName")) else { return };
    let Some(cluster_ip) = spec.cluster_ip.as_ref().and_then(|ip| ip.parse().ok()) else { return };
    for port in spec.ports.iter().flatten() {
        let label = port.name.as_deref().unwrap_or_default();
        let row =
            ServicePortName::new(&name.namespace, &name.name, label).ok().zip(row(service, spec, port, cluster_ip));
        if let Some((key, mut row)) = row {
            row.endpoints = endpoints::of_port(name, service, port, views);
            model.insert(key, row);
        } else {
            tracing::warn!(service = %name, port = port.port, node, "a port of this Service cannot be programmed");
        }
    }
}

fn row(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    cluster_ip: IpAddr,
) -> Option<netfilter::ServicePort> {
    let protocol = match port.protocol.as_deref().unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let policy =
        |given: &Option<String>| if given.as_deref() == Some("Local") { Policy::Local } else { Policy::Cluster };
    let external = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    Some(netfilter::ServicePort {
        node_port: port.node_port.filter(|_| external).and_then(number),
        external_ips: spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
        load_balancer_ips: load_balancer(service),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|net| net.trim().parse().ok())
            .collect(),
        internal_policy: policy(&spec.internal_traffic_policy),
        external_policy: policy(&spec.external_traffic_policy),
        affinity_seconds: affinity(spec),
        ..netfilter::ServicePort::new(protocol, cluster_ip, number(port.port)?)
    })
}

fn number(port: i32) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(port).ok()?)
}

fn load_balancer(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let by_address = ingress.iter().filter(|point| point.ip_mode.as_deref() != Some("Proxy"));
    by_address.filter_map(|point| point.ip.as_ref()?.parse().ok()).collect()
}

/// The API's default is three hours.
fn affinity(spec: &ServiceSpec) -> Option<NonZeroU32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let given = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    NonZeroU32::new(u32::try_from(given.unwrap_or(10_800)).ok()?)
}

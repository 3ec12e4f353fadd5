//! Which pods a Service's selector names, and on which port each of them answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::slice::{Group, Slice, SliceAddress, SlicePort};
use crate::names::{ObjectName, PodUid};
use crate::view::PodView;

/// The pods of a Service on this node, as a control plane would write them into an EndpointSlice.
pub(super) fn of_service(
    name: &ObjectName,
    service: &Service,
    views: &BTreeMap<PodUid, PodView>,
    node: &str,
) -> Option<Slice> {
    let spec = service.spec.as_ref()?;
    spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut groups = Vec::new();
    for view in selected(name, service, views) {
        let ports: Box<[_]> = spec.ports.iter().flatten().filter_map(|port| slice_port(port, &view.pod)).collect();
        let addresses: Box<[_]> = addresses(view).map(|address| slice_address(view, address, publish, node)).collect();
        // One group for each pod: the same port name may be another number in each.
        if !ports.is_empty() && !addresses.is_empty() {
            groups.push(Group { ports, addresses });
        }
    }
    Some(Slice { service: name.clone(), groups: groups.into(), triggered: None })
}

fn slice_port(port: &ServicePort, pod: &Pod) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: super::rows::protocol(port.protocol.as_deref())?,
        number: target(port, pod)?,
    })
}

fn slice_address(view: &PodView, address: IpAddr, publish: bool, node: &str) -> SliceAddress {
    let ready = is_ready(view);
    SliceAddress {
        address,
        ready: publish || (ready && !view.stopping),
        serving: publish || ready,
        terminating: view.stopping,
        node: Some(node.to_owned()),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

/// How many pods a Service sends to, for people to see.
pub fn ready_count(name: &ObjectName, service: &Service, views: &BTreeMap<PodUid, PodView>) -> usize {
    selected(name, service, views)
        .filter(|view| is_ready(view) && !view.stopping && addresses(view).next().is_some())
        .count()
}

fn selected<'a>(
    name: &'a ObjectName,
    service: &'a Service,
    views: &'a BTreeMap<PodUid, PodView>,
) -> impl Iterator<Item = &'a PodView> {
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|selector| !selector.is_empty());
    views.values().filter(move |view| {
        let metadata = &view.pod.metadata;
        let labels = metadata.labels.as_ref();
        let ended = matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let fits = selector.is_some_and(|selector| {
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        });
        fits && !ended && metadata.namespace.as_deref().unwrap_or("default") == name.namespace
    })
}

fn is_ready(view: &PodView) -> bool {
    let conditions = view.status.conditions.as_deref().unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// One of each family where the pod has both.
fn addresses(view: &PodView) -> impl Iterator<Item = IpAddr> {
    let all = view.status.pod_ips.iter().flatten().map(|one| &one.ip);
    let first = view.status.pod_ip.iter().filter(|_| view.status.pod_ips.is_none());
    first.chain(all).filter_map(|ip| ip.parse().ok())
}

/// `targetPort`: a number, or the name of a port of one of the pod's containers; the Service's own port by default.
fn target(port: &ServicePort, pod: &Pod) -> Option<NonZeroU16> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut ports =
                spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let fits = |port: &&k8s_openapi::api::core::v1::ContainerPort| {
                port.name.as_ref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.find(fits)?.container_port
        }
    };
    NonZeroU16::new(u16::try_from(number).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view(name: &str, ready: bool, stopping: bool, labels: Value) -> (PodUid, PodView) {
        let pod = json!({"metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]}});
        let status = json!({"phase": "Running", "podIP": "10.88.0.7",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        let view = PodView {
            pod: std::sync::Arc::new(serde_json::from_value(pod).unwrap()),
            status: serde_json::from_value(status).unwrap(),
            started_in: None,
            stopping,
        };
        (PodUid::try_from(name.to_owned()).unwrap(), view)
    }

    fn endpoints(spec: Value, views: &BTreeMap<PodUid, PodView>) -> Vec<(u16, bool, bool, bool)> {
        let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
        let slice = of_service(&ObjectName::new("default", "s"), &service, views, "n1");
        let groups = slice.into_iter().flat_map(|slice| slice.groups);
        groups
            .flat_map(|group| {
                let number = group.ports[0].number.get();
                group
                    .addresses
                    .into_iter()
                    .map(move |a| (number, a.ready, a.serving, a.terminating))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn a_selector_finds_ready_pods_on_their_named_port() {
        let views = BTreeMap::from([
            view("ready", true, false, json!({"app": "web", "tier": "x"})),
            view("starting", false, false, json!({"app": "web"})),
            view("leaving", true, true, json!({"app": "web"})),
            view("other", true, false, json!({"app": "db"})),
        ]);
        let web = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]});
        assert_eq!(
            endpoints(web, &views),
            [(8080, false, true, true), (8080, true, true, false), (8080, false, false, false)]
        );
        let no_selector = json!({"ports": [{"port": 80}]});
        assert_eq!(endpoints(no_selector, &views), []);
        let unknown = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "grpc"}]});
        assert_eq!(endpoints(unknown, &views), []);
        let published = json!({"selector": {"app": "web"}, "publishNotReadyAddresses": true, "ports": [{"port": 80}]});
        assert!(endpoints(published, &views).iter().all(|(port, ready, ..)| *port == 80 && *ready));
    }
}

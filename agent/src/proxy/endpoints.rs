//! Which pods a Service's selector names, and on which port each of them answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use netfilter::Endpoint;

use crate::names::{ObjectName, PodUid};
use crate::view::PodView;

/// Endpoints of one port of a Service.
pub(super) fn of_port(
    name: &ObjectName,
    service: &Service,
    port: &ServicePort,
    views: &BTreeMap<PodUid, PodView>,
) -> Vec<Endpoint> {
    let publish = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    selected(name, service, views)
        .filter_map(|view| {
            let ready = is_ready(view);
            Some(Endpoint {
                local: true,
                ready: publish || (ready && !view.stopping),
                serving: publish || ready,
                terminating: view.stopping,
                ..Endpoint::ready(address(view)?, target(port, &view.pod)?)
            })
        })
        .collect()
}

/// How many pods a Service sends to, for people to see.
pub fn ready_count(name: &ObjectName, service: &Service, views: &BTreeMap<PodUid, PodView>) -> usize {
    selected(name, service, views).filter(|view| is_ready(view) && !view.stopping && address(view).is_some()).count()
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

fn address(view: &PodView) -> Option<IpAddr> {
    view.status.pod_ip.as_ref()?.parse().ok()
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
        let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].clone();
        of_port(&ObjectName::new("default", "s"), &service, &port, views)
            .iter()
            .map(|endpoint| (endpoint.port.get(), endpoint.ready, endpoint.serving, endpoint.terminating))
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

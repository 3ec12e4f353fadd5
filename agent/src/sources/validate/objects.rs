use std::collections::HashSet;

use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Report, names};

/// The API's limit for the data of one ConfigMap or Secret.
const LARGEST: usize = 1 << 20;

pub(super) fn config_map(map: &ConfigMap, report: &mut Report) {
    let text = map.data.iter().flatten().map(|(key, value)| ("data", key, value.len()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| ("binaryData", key, value.0.len()));
    let mut seen = HashSet::new();
    let mut size = 0_usize;
    for (field, key, length) in text.chain(binary) {
        self::key(key, field, report);
        report.check(seen.insert(key), format!("{field}[{key}]"), || "stands in data and in binaryData".to_owned());
        size = size.saturating_add(length);
    }
    report.check(size <= LARGEST, "data", || "is larger than 1 MiB".to_owned());
}

pub(super) fn secret(secret: &Secret, report: &mut Report) {
    let mut size = 0_usize;
    for (key, value) in secret.data.iter().flatten() {
        self::key(key, "data", report);
        size = size.saturating_add(value.0.len());
    }
    report.check(size <= LARGEST, "data", || "is larger than 1 MiB".to_owned());
}

fn key(key: &str, field: &str, report: &mut Report) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fine = (1..=253).contains(&key.len()) && key.bytes().all(plain) && key != "." && !key.starts_with("..");
    report.check(fine, format!("{field}[{key}]"), || {
        "the key must be up to 253 letters, digits, '-', '_' or '.', and not begin with ..".to_owned()
    });
}

pub(super) fn service(service: &Service, report: &mut Report) {
    if let Some(name) = service.metadata.name.as_deref() {
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        report.check(names::is_label(name) && starts, "metadata.name", || {
            format!("{name:?} must be up to 63 lower-case letters, digits or '-', and begin with a letter")
        });
    }
    let Some(spec) = &service.spec else { return report.add("spec", "is missing; it needs at least ports") };
    let types = &["ClusterIP", "NodePort", "LoadBalancer"];
    report.one_of(spec.type_.as_ref(), types, "spec.type");
    report.one_of(spec.session_affinity.as_ref(), &["None", "ClientIP"], "spec.sessionAffinity");
    names::labels(spec.selector.as_ref(), "spec.selector", report);
    addresses(spec, report);
    ports(spec, report);
}

fn addresses(spec: &ServiceSpec, report: &mut Report) {
    let address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    if let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") {
        report.check(address(ip), "spec.clusterIP", || format!("{ip:?} must be an IP address, None or left out"));
    }
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        report.check(address(ip), format!("spec.externalIPs[{index}]"), || format!("{ip:?} is not an IP address"));
    }
}

fn ports(spec: &ServiceSpec, report: &mut Report) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    report.check(!ports.is_empty() || headless, "spec.ports", || "is empty; a Service needs at least one".to_owned());
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        self::port(port, &at, report);
        let name = port.name.as_deref().unwrap_or_default();
        report.check(ports.len() == 1 || !name.is_empty(), format!("{at}.name"), || {
            "is missing; with several ports each needs one".to_owned()
        });
        report.check(name.is_empty() || names.insert(name), format!("{at}.name"), || {
            format!("{name:?} is taken by another port")
        });
        let key = (port.port, port.protocol.as_deref());
        report.check(numbers.insert(key), format!("{at}.port"), || format!("{} is given twice", port.port));
    }
}

fn port(port: &ServicePort, at: &str, report: &mut Report) {
    let range = |number: i32| (1..=65_535).contains(&number);
    report.check(range(port.port), format!("{at}.port"), || format!("{} must be between 1 and 65535", port.port));
    report.one_of(port.protocol.as_ref(), &["TCP", "UDP", "SCTP"], format!("{at}.protocol"));
    let node = port.node_port.unwrap_or(0);
    report.check(node == 0 || range(node), format!("{at}.nodePort"), || format!("{node} must be between 1 and 65535"));
    let name = port.name.as_deref().filter(|name| !name.is_empty());
    report.check(name.is_none_or(super::names::is_label), format!("{at}.name"), || {
        "must be up to 63 lower-case letters, digits or '-'".to_owned()
    });
    let fine = match &port.target_port {
        None => true,
        // Without one it is the port, which has been complained about already.
        Some(IntOrString::Int(number)) => range(*number) || *number == port.port,
        Some(IntOrString::String(name)) => super::names::is_port_name(name),
    };
    report.check(fine, format!("{at}.targetPort"), || {
        "must be a number between 1 and 65535 or the name of a container's port".to_owned()
    });
}

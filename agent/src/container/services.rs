//! Service variables.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use crate::names::ObjectName;
use crate::sources::Objects;

/// Variables of the services that a pod of `namespace` sees: with links all of its namespace's, and `kubernetes` of
/// the namespace `default` always.
pub fn variables(objects: &Objects, namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut seen: BTreeMap<&str, &Service> = BTreeMap::new();
    let master = ObjectName::new("default", "kubernetes");
    if let Some(service) = objects.services.get(&master) {
        seen.insert("kubernetes", service);
    }
    if links {
        let own = objects.services.iter().filter(|(name, _)| name.namespace == namespace);
        seen.extend(own.map(|(name, service)| (name.name.as_str(), service.as_ref())));
    }
    seen.into_iter().flat_map(|(name, service)| of_service(name, service)).collect()
}

fn of_service(name: &str, service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.as_ref();
    let ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).filter(|ip| !ip.is_empty() && *ip != "None");
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let (Some(ip), [first, ..]) = (ip, ports) else { return Vec::new() };
    let name = variable_name(name);
    let mut out = vec![
        (format!("{name}_SERVICE_HOST"), ip.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
        (format!("{name}_PORT"), url(ip, first)),
    ];
    for port in ports {
        out.extend(of_port(&name, ip, port));
    }
    out
}

fn of_port(name: &str, ip: &str, port: &ServicePort) -> Vec<(String, String)> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
    let mut out = vec![
        (format!("{prefix}_PROTO"), protocol.to_ascii_lowercase()),
        (format!("{prefix}_PORT"), port.port.to_string()),
        (format!("{prefix}_ADDR"), ip.to_owned()),
        (prefix, url(ip, port)),
    ];
    if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
        out.push((format!("{name}_SERVICE_PORT_{}", variable_name(port_name)), port.port.to_string()));
    }
    out
}

fn url(ip: &str, port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("{protocol}://{host}:{}", port.port)
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let mut objects = Objects::default();
        for (namespace, name, spec) in [
            ("default", "kubernetes", json!({"clusterIP": "10.0.0.1", "ports": [{"port": 443}]})),
            ("shop", "headless", json!({"clusterIP": "None", "ports": [{"port": 1}]})),
            (
                "shop",
                "web-v6",
                json!({"clusterIP": "fd00::1", "ports": [{"name": "http-alt", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
            ),
            ("other", "unseen", json!({"clusterIP": "10.0.0.9", "ports": [{"port": 1}]})),
        ] {
            let service = serde_json::from_value(json!({ "spec": spec })).unwrap();
            objects.services.insert(ObjectName::new(namespace, name), Arc::new(service));
        }
        objects
    }

    #[test]
    fn a_pod_sees_its_own_namespace_and_the_api() {
        let text: String = variables(&objects(), "shop", true).iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        expect![[r#"
            KUBERNETES_PORT=tcp://10.0.0.1:443
            KUBERNETES_PORT_443_TCP=tcp://10.0.0.1:443
            KUBERNETES_PORT_443_TCP_ADDR=10.0.0.1
            KUBERNETES_PORT_443_TCP_PORT=443
            KUBERNETES_PORT_443_TCP_PROTO=tcp
            KUBERNETES_SERVICE_HOST=10.0.0.1
            KUBERNETES_SERVICE_PORT=443
            WEB_V6_PORT=tcp://[fd00::1]:80
            WEB_V6_PORT_53_UDP=udp://[fd00::1]:53
            WEB_V6_PORT_53_UDP_ADDR=fd00::1
            WEB_V6_PORT_53_UDP_PORT=53
            WEB_V6_PORT_53_UDP_PROTO=udp
            WEB_V6_PORT_80_TCP=tcp://[fd00::1]:80
            WEB_V6_PORT_80_TCP_ADDR=fd00::1
            WEB_V6_PORT_80_TCP_PORT=80
            WEB_V6_PORT_80_TCP_PROTO=tcp
            WEB_V6_SERVICE_HOST=fd00::1
            WEB_V6_SERVICE_PORT=80
            WEB_V6_SERVICE_PORT_DNS=53
            WEB_V6_SERVICE_PORT_HTTP_ALT=80
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn without_links_only_the_api_is_seen() {
        assert!(variables(&objects(), "shop", false).keys().all(|name| name.starts_with("KUBERNETES_")));
    }
}

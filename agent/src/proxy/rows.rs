//! One Service as rows of the rules' model: what the API's fields mean for packets, endpoints left out.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use netfilter::{BadName, Family, Policy, Protocol, ServicePortName};

use crate::names::ObjectName;

/// Whoever sets it programs the Service by other means.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Of a Service or an EndpointSlice that no proxy is to look at (KEP-2447).
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Seconds a client keeps its endpoint where the Service does not say: the API's default.
const AFFINITY: i32 = 10_800;

/// One port of a Service.
#[derive(Debug)]
pub struct Row<'a> {
    /// As the Service has it.
    pub port: &'a ServicePort,
    /// What its rules are named after.
    pub name: ServicePortName,
    /// What its rules are made from; without endpoints.
    pub rules: netfilter::ServicePort,
}

/// A port that cannot be programmed. The others of its Service can.
#[derive(Debug, thiserror::Error)]
pub enum BadPort {
    /// Names stand in rules, so they may hold little.
    #[error("port {port} of Service {service} cannot be programmed")]
    Name {
        /// The Service.
        service: ObjectName,
        /// The port's number.
        port: i32,
        /// What is wrong.
        source: BadName,
    },
    /// A port is 1 to 65535, its protocol one of three.
    #[error("port {port} of Service {service} cannot be programmed: {reason}")]
    Value {
        /// The Service.
        service: ObjectName,
        /// The port's number.
        port: i32,
        /// What is wrong.
        reason: String,
    },
}

/// The ports of a Service in one family. None of a headless Service, of a name for something outside
/// (ExternalName), of one without an address of the family, and of one that another proxy serves.
pub fn rows<'a>(
    name: &'a ObjectName,
    service: &'a Service,
    family: Family,
) -> impl Iterator<Item = Result<Row<'a>, BadPort>> {
    let spec = service.spec.as_ref().filter(|_| is_for_us(service));
    let address = spec.and_then(|spec| cluster_ip(spec, family));
    let ports =
        address.and(spec).into_iter().flat_map(|spec| spec.ports.iter().flatten().map(move |port| (spec, port)));
    ports.zip(address.into_iter().cycle()).map(move |((spec, port), address)| row(name, service, spec, port, address))
}

/// A Service of the API with what is read here and for environment variables, without room to grow. Of thousands of them
/// the rest, a kilobyte and a half each, would be most of the memory.
pub fn lean(service: Service) -> Service {
    let ObjectMeta { name, namespace, labels, .. } = service.metadata;
    let mut labels = labels.unwrap_or_default();
    labels.retain(|label, _| [OTHER_PROXY, HEADLESS].contains(&label.as_str()));
    let labels = Some(labels).filter(|labels| !labels.is_empty());
    let metadata = ObjectMeta { name, namespace, labels, ..ObjectMeta::default() };
    Service { metadata, spec: service.spec.map(lean_spec), status: service.status }
}

fn lean_spec(spec: ServiceSpec) -> ServiceSpec {
    let first = spec.cluster_ip.clone();
    ServiceSpec {
        type_: spec.type_,
        cluster_ip: spec.cluster_ip,
        // Most Services have one address, which is said already.
        cluster_ips: shrunk(spec.cluster_ips).filter(|all| !all.iter().eq(&first)),
        ports: shrunk(spec.ports.map(|ports| ports.into_iter().map(lean_port).collect())),
        external_ips: shrunk(spec.external_ips),
        external_traffic_policy: unless(spec.external_traffic_policy, "Cluster"),
        internal_traffic_policy: unless(spec.internal_traffic_policy, "Cluster"),
        load_balancer_source_ranges: shrunk(spec.load_balancer_source_ranges),
        session_affinity: unless(spec.session_affinity, "None"),
        session_affinity_config: spec.session_affinity_config,
        health_check_node_port: spec.health_check_node_port,
        ..ServiceSpec::default()
    }
}

fn lean_port(port: ServicePort) -> ServicePort {
    let protocol = unless(port.protocol, "TCP");
    ServicePort { name: port.name, port: port.port, node_port: port.node_port, protocol, ..ServicePort::default() }
}

/// What is not said means the default anyway.
fn unless(value: Option<String>, default: &str) -> Option<String> {
    value.filter(|value| value != default)
}

fn shrunk<T>(list: Option<Vec<T>>) -> Option<Vec<T>> {
    list.filter(|list| !list.is_empty()).map(|list| list.into_boxed_slice().into_vec())
}

/// No other proxy is named, and it is not marked headless: labels without a value count too.
fn is_for_us(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.is_none_or(|labels| !labels.contains_key(OTHER_PROXY) && !labels.contains_key(HEADLESS))
}

/// The address of the family. Old objects have `clusterIP` alone.
fn cluster_ip(spec: &ServiceSpec, family: Family) -> Option<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") || spec.cluster_ip.as_deref() == Some("None") {
        return None;
    }
    let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    all.filter_map(|ip| address(ip)).find(|ip| family.has(*ip))
}

fn row<'a>(
    name: &ObjectName,
    service: &Service,
    spec: &ServiceSpec,
    port: &'a ServicePort,
    cluster_ip: IpAddr,
) -> Result<Row<'a>, BadPort> {
    let bad = |reason| BadPort::Value { service: name.clone(), port: port.port, reason };
    let label = port.name.as_deref().unwrap_or_default();
    let key = ServicePortName::new(&name.namespace, &name.name, label).map_err(|source| BadPort::Name {
        service: name.clone(),
        port: port.port,
        source,
    })?;
    let number = number(port.port).ok_or_else(|| bad("a port is 1 to 65535".to_owned()))?;
    let protocol = protocol(port.protocol.as_deref())
        .ok_or_else(|| bad(format!("{:?} is not TCP, UDP or SCTP", port.protocol.as_deref().unwrap_or_default())))?;
    Ok(Row {
        port,
        name: key,
        rules: rules(service, spec, port, netfilter::ServicePort::new(protocol, cluster_ip, number)),
    })
}

fn rules(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    bare: netfilter::ServicePort,
) -> netfilter::ServicePort {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let external_ips: Vec<_> = spec.external_ips.iter().flatten().filter_map(|ip| address(ip)).collect();
    // Of a plain Service only external IPs are subject to the policy.
    let has_outside = matches!(kind, "NodePort" | "LoadBalancer") || !external_ips.is_empty();
    let external_policy = if has_outside { policy(spec.external_traffic_policy.as_deref()) } else { Policy::Cluster };
    let is_checked = kind == "LoadBalancer" && external_policy == Policy::Local;
    netfilter::ServicePort {
        node_port: port.node_port.filter(|_| matches!(kind, "NodePort" | "LoadBalancer")).and_then(self::number),
        load_balancer_ips: load_balancer(service),
        source_ranges: spec.load_balancer_source_ranges.iter().flatten().filter_map(|net| range(net)).collect(),
        health_check_node_port: spec.health_check_node_port.filter(|_| is_checked).and_then(self::number),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        affinity_seconds: affinity(spec),
        external_ips,
        external_policy,
        ..bare
    }
}

fn policy(given: Option<&str>) -> Policy {
    if given == Some("Local") { Policy::Local } else { Policy::Cluster }
}

fn load_balancer(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let by_address = ingress.iter().filter(|point| point.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    by_address.filter_map(|point| address(point.ip.as_ref()?)).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<NonZeroU32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let given = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    NonZeroU32::new(u32::try_from(given.unwrap_or(AFFINITY)).ok()?)
}

/// A protocol as the API names it; TCP where it is not named.
pub(super) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// A port that packets can have.
pub(super) fn number(port: i32) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(port).ok()?)
}

/// An address as the API takes it: with leading zeros too (`010.0.0.1` is 10.0.0.1), which Rust's own parser refuses
/// since other programs read them as octal. An IPv4 address in IPv6 notation is an IPv4 address.
pub fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    }
    let bytes: Vec<_> = text.split('.').map(decimal).collect::<Option<_>>()?;
    Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn decimal(part: &str) -> Option<u8> {
    // Twenty digits of zeros are still one.
    let plain = (1..=20).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if plain { part.parse().ok() } else { None }
}

/// A range as the API takes it, with spaces around it.
pub fn range(text: &str) -> Option<IpNet> {
    let (ip, length) = text.trim().split_once('/')?;
    IpNet::new(address(ip)?, length.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn check(object: Value, family: Family, expected: &Expect) {
        let service: Service = serde_json::from_value(object).unwrap();
        expected.assert_eq(&printed(&service, family));
        expected.assert_eq(&printed(&lean(service), family));
    }

    fn printed(service: &Service, family: Family) -> String {
        let mut lines = String::new();
        for row in rows(&ObjectName::new("demo", "web"), service, family) {
            lines += &match row {
                Err(bad) => format!("{bad}\n"),
                Ok(Row { name, rules, .. }) => format!(
                    "{name} {} {}:{} node {:?} health {:?} vip {:?} ext {:?} from {:?} {:?}/{:?} keep {:?}\n",
                    rules.protocol,
                    rules.cluster_ip,
                    rules.port,
                    rules.node_port,
                    rules.health_check_node_port,
                    rules.load_balancer_ips,
                    rules.external_ips,
                    rules.source_ranges,
                    rules.internal_policy,
                    rules.external_policy,
                    rules.affinity_seconds,
                ),
            };
        }
        lines
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let object = json!({"metadata": {"name": "web", "namespace": "demo", "uid": "1", "labels": {"app": "web", HEADLESS: ""},
                "annotations": {"a": "b"}},
            "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None",
                "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]},
            "status": {"loadBalancer": {}}});
        expect![[r#"{"apiVersion":"v1","kind":"Service","metadata":{"labels":{"service.kubernetes.io/headless":""},"name":"web","namespace":"demo"},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":80}],"type":"ClusterIP"},"status":{"loadBalancer":{}}}"#]]
        .assert_eq(&serde_json::to_string(&lean(serde_json::from_value(object).unwrap())).unwrap());
    }

    #[test]
    fn what_packets_are_not_sent_to_has_no_rows() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"clusterIP": "", "ports": [{"port": 80}]}),
            json!({"clusterIP": "10.0.0.1", "type": "ExternalName", "ports": [{"port": 80}]}),
            json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
        ] {
            check(json!({"spec": spec}), Family::V4, &expect![""]);
        }
        let other = json!({"metadata": {"labels": {OTHER_PROXY: ""}},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}});
        check(other, Family::V4, &expect![""]);
        check(json!({}), Family::V4, &expect![""]);
    }

    #[test]
    fn each_family_has_its_own_address() {
        let both = json!({"spec": {"clusterIP": "10.0.0.010", "clusterIPs": ["10.0.0.010", "fd00::10"],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "data", "port": 9, "protocol": "SCTP"}]}});
        check(
            both.clone(),
            Family::V4,
            &expect![[r#"
            demo/web:dns udp 10.0.0.10:53 node None health None vip [] ext [] from [] Cluster/Cluster keep None
            demo/web:data sctp 10.0.0.10:9 node None health None vip [] ext [] from [] Cluster/Cluster keep None
        "#]],
        );
        check(
            both,
            Family::V6,
            &expect![[r#"
            demo/web:dns udp fd00::10:53 node None health None vip [] ext [] from [] Cluster/Cluster keep None
            demo/web:data sctp fd00::10:9 node None health None vip [] ext [] from [] Cluster/Cluster keep None
        "#]],
        );
    }

    #[test]
    fn a_load_balancer_has_all_there_is() {
        let edge = json!({"spec": {"clusterIP": "10.0.0.1", "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                "internalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "sessionAffinity": "ClientIP",
                "externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": [" 1.2.3.4/28", "nonsense"],
                "ports": [{"port": 443, "nodePort": 30443}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.5", "ipMode": "VIP"},
                {"ip": "1.2.3.6", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}}});
        check(
            edge,
            Family::V4,
            &expect![[r#"
            demo/web tcp 10.0.0.1:443 node Some(30443) health Some(31000) vip [1.2.3.4, 1.2.3.5] ext [192.0.2.1] from [1.2.3.4/28] Local/Local keep Some(10800)
        "#]],
        );
    }

    #[test]
    fn the_external_policy_needs_an_outside_and_the_health_check_a_load_balancer() {
        let inside = json!({"spec": {"clusterIP": "10.0.0.1", "externalTrafficPolicy": "Local", "ports": [{"port": 1, "nodePort": 30001}]}});
        check(
            inside,
            Family::V4,
            &expect![[r#"
            demo/web tcp 10.0.0.1:1 node None health None vip [] ext [] from [] Cluster/Cluster keep None
        "#]],
        );
        let ports = json!({"spec": {"clusterIP": "10.0.0.1", "type": "NodePort", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000, "ports": [{"port": 1, "nodePort": 30001}]}});
        check(
            ports,
            Family::V4,
            &expect![[r#"
            demo/web tcp 10.0.0.1:1 node Some(30001) health None vip [] ext [] from [] Cluster/Local keep None
        "#]],
        );
    }

    #[test]
    fn a_bad_port_leaves_the_others() {
        let ports = json!([{"name": "a", "port": 0}, {"name": "b", "port": 1, "protocol": "ICMP"},
            {"name": "c\"", "port": 2}, {"name": "d", "port": 65536}, {"name": "e", "port": 65535}]);
        check(
            json!({"spec": {"clusterIP": "10.0.0.1", "ports": ports}}),
            Family::V4,
            &expect![[r#"
            port 0 of Service demo/web cannot be programmed: a port is 1 to 65535
            port 1 of Service demo/web cannot be programmed: "ICMP" is not TCP, UDP or SCTP
            port 2 of Service demo/web cannot be programmed
            port 65536 of Service demo/web cannot be programmed: a port is 1 to 65535
            demo/web:e tcp 10.0.0.1:65535 node None health None vip [] ext [] from [] Cluster/Cluster keep None
        "#]],
        );
    }

    #[test]
    fn addresses_are_read_as_the_api_reads_them() {
        assert_eq!(address("172.30.0.041"), Some([172, 30, 0, 41].into()));
        assert_eq!(address("::ffff:1.2.3.4"), Some([1, 2, 3, 4].into()));
        assert_eq!(range(" 01.2.3.4/28 ").map(|net| net.trunc().to_string()).as_deref(), Some("1.2.3.0/28"));
        for bad in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "+1.2.3.4", "1..2.3", "fe80::1%eth0", "1.2.3.4 -j ACCEPT"] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert_eq!(range("10.0.0.0/33"), None);
    }
}

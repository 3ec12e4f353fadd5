//! What is programmed, for people to see.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use netfilter::apply::{ApplyError, Iptables, Nft};
use netfilter::{Count, Endpoint, Family, Model, ServicePort, ServicePortName};
use serde::{Deserialize, Serialize};

use super::settings::Mode;
use crate::names::ObjectName;

/// The Services, and what of them the kernel was told to do last. What it does not take is told in events.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Services by name, those without rules too.
    pub services: Arc<BTreeMap<ObjectName, Arc<Service>>>,
    /// One for each family.
    pub models: Vec<Arc<Model>>,
    /// Where the rules are.
    pub mode: Mode,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// Its name.
    pub name: ObjectName,
    /// ClusterIP, NodePort, LoadBalancer or ExternalName.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its ports, in each family; none for a Service without rules.
    pub ports: Vec<PortRow>,
}

/// A port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRow {
    /// Its name, empty for the unnamed one.
    pub name: String,
    /// tcp, udp or sctp.
    pub protocol: String,
    /// Where it answers: cluster IP, external IPs, load balancer, each with its port; node ports as `*:PORT`.
    pub addresses: Vec<String>,
    /// Endpoints that take new connections.
    pub ready: usize,
    /// All endpoints.
    pub endpoints: usize,
    /// New connections since its rules were written; none where the kernel does not count.
    pub packets: Option<u64>,
    /// Bytes of their first packets.
    pub bytes: Option<u64>,
}

/// What came for each service port, by its name; asks the kernel, and waits for it. What cannot be counted is left out: the
/// list is worth more than its figures.
pub fn counts(listed: &Listed) -> BTreeMap<String, Count> {
    let families = listed.models.iter().filter(|model| !model.services().is_empty()).map(|model| model.family());
    let mut sums = BTreeMap::<_, Count>::new();
    for (name, count) in families.filter_map(|family| counts_of(listed.mode, family).ok()).flatten() {
        sums.entry(name).or_default().add(count);
    }
    sums
}

fn counts_of(mode: Mode, family: Family) -> Result<BTreeMap<String, Count>, ApplyError> {
    match mode {
        Mode::Iptables => Iptables::find(family)?.counts(),
        Mode::Nftables => Nft::find()?.counts(family),
    }
}

/// The rows of a list, by name, with what was counted for each service port.
pub fn rows(listed: &Listed, counts: &BTreeMap<String, Count>) -> Vec<ServiceRow> {
    let mut ports = BTreeMap::<_, Vec<PortRow>>::new();
    for (name, service) in listed.models.iter().flat_map(|model| model.services()) {
        let owner = ObjectName::new(name.namespace(), name.service());
        ports.entry(owner).or_default().push(port(name, service, counts.get(name.as_str())));
    }
    let row = |(name, service): (&ObjectName, &Arc<Service>)| ServiceRow {
        kind: service.spec.as_ref().and_then(|spec| spec.type_.clone()).unwrap_or_else(|| "ClusterIP".to_owned()),
        ports: ports.remove(name).unwrap_or_default(),
        name: name.clone(),
    };
    listed.services.iter().map(row).collect()
}

fn port(name: &ServicePortName, service: &ServicePort, count: Option<&Count>) -> PortRow {
    let fixed = std::iter::once(&service.cluster_ip).chain(&service.external_ips).chain(&service.load_balancer_ips);
    let addresses = fixed.map(|ip| std::net::SocketAddr::new(*ip, service.port.get()).to_string());
    PortRow {
        name: name.port().to_owned(),
        protocol: service.protocol.to_string(),
        addresses: addresses.chain(service.node_port.map(|port| format!("*:{port}"))).collect(),
        ready: service.endpoints.iter().filter(|endpoint: &&Endpoint| endpoint.ready).count(),
        endpoints: service.endpoints.len(),
        packets: count.map(|count| count.packets),
        bytes: count.map(|count| count.bytes),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use netfilter::{Family, Protocol};
    use serde_json::json;

    use super::*;

    #[test]
    fn services_are_listed_with_and_without_rules() {
        let service = |spec| Arc::new(serde_json::from_value::<Service>(json!({"spec": spec})).unwrap());
        let mut model = Model::new(Family::V4);
        let mut web = ServicePort::new(Protocol::Tcp, [10, 96, 0, 1].into(), 80.try_into().unwrap());
        web.node_port = 30080.try_into().ok();
        let ready = Endpoint::ready([10, 0, 0, 1].into(), 8080.try_into().unwrap());
        let unready = Endpoint { ready: false, ..Endpoint::ready([10, 0, 0, 2].into(), 8080.try_into().unwrap()) };
        web.endpoints = vec![ready, unready];
        model.insert(ServicePortName::new("demo", "web", "http").unwrap(), web);
        let listed = Listed {
            services: Arc::new(
                [("web", json!({"type": "NodePort"})), ("db", json!({"clusterIP": "None"}))]
                    .map(|(name, spec)| (ObjectName::new("demo", name), service(spec)))
                    .into(),
            ),
            models: vec![Arc::new(model)],
            ..Listed::default()
        };
        let counts = [("demo/web:http".to_owned(), Count { packets: 3, bytes: 180 })].into();
        expect![[r#"
            [
              {
                "name": {
                  "namespace": "demo",
                  "name": "db"
                },
                "type": "ClusterIP",
                "ports": []
              },
              {
                "name": {
                  "namespace": "demo",
                  "name": "web"
                },
                "type": "NodePort",
                "ports": [
                  {
                    "name": "http",
                    "protocol": "tcp",
                    "addresses": [
                      "10.96.0.1:80",
                      "*:30080"
                    ],
                    "ready": 1,
                    "endpoints": 2,
                    "packets": 3,
                    "bytes": 180
                  }
                ]
              }
            ]"#]]
        .assert_eq(&serde_json::to_string_pretty(&rows(&listed, &counts)).unwrap());
    }
}

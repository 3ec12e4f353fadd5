//! What a file says about Services: its documents become objects and problems. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use crate::names::ObjectName;
use crate::proxy::rows::{address, range};
use crate::sources::ManifestProblem;
use crate::yaml::{self, Kind, Node as Yaml};

const SLICES: &str = "discovery.k8s.io/v1";

/// Everything that rules are made from.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) services: BTreeMap<ObjectName, Service>,
    pub(super) slices: BTreeMap<ObjectName, EndpointSlice>,
    pub(super) nodes: BTreeMap<String, Node>,
    /// Kinds that have no part in rules, with how many there were.
    pub(super) passed_over: BTreeMap<String, usize>,
    pub(super) problems: Vec<ManifestProblem>,
}

impl Objects {
    /// Adds what a file holds.
    pub(super) fn read(&mut self, file: &Path, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.problem(file, 0, "is not text: manifests are YAML or JSON in UTF-8");
        };
        for (index, document) in yaml::documents(text).into_iter().enumerate() {
            let place = Place { file, document: index + 1, within: String::new() };
            match document {
                Ok(root) => self.document(&place, &root, None),
                Err(broken) => {
                    let problem = place.problem(broken.line, "", broken.message);
                    self.problems.push(problem);
                }
            }
        }
    }

    /// Notes what is wrong with a whole file.
    pub(super) fn problem(&mut self, file: &Path, document: usize, message: &str) {
        let (file, message) = (file.to_owned(), message.to_owned());
        self.problems.push(ManifestProblem { file, document, line: None, field: None, message });
    }

    /// Items of a typed list (`ServiceList`) do not repeat what they are: `of_list` says it.
    fn document(&mut self, place: &Place<'_>, root: &Yaml, of_list: Option<(&str, &str)>) {
        let word = |field: &str| root.get(field).and_then(Yaml::as_str).filter(|word| !word.is_empty());
        let version = word("apiVersion").or(of_list.map(|(version, _)| version)).unwrap_or_default();
        let Some(kind) = word("kind").or(of_list.map(|(_, kind)| kind)) else {
            let message = "is missing: every object says its apiVersion and kind".to_owned();
            return self.problems.push(place.problem(root.line, "kind", message));
        };
        match kind {
            "Service" => self.take(place, root, "v1", version, |all| &mut all.services, service),
            "EndpointSlice" => self.take(place, root, SLICES, version, |all| &mut all.slices, slice),
            "Node" => self.take_node(place, root, version),
            _ => match (kind.strip_suffix("List"), root.get("items").map(|items| &items.kind)) {
                (Some(item), Some(Kind::List(items))) => {
                    let typed = (!item.is_empty()).then_some((version, item));
                    for (index, item) in items.iter().enumerate() {
                        let within = format!("{}items[{index}].", place.within);
                        self.document(&Place { within, ..*place }, item, typed);
                    }
                }
                (Some(_), _) => {
                    self.problems.push(place.problem(root.line, "items", "must be a list of objects".to_owned()));
                }
                _ => *self.passed_over.entry(kind.to_owned()).or_default() += 1,
            },
        }
    }

    fn take<T>(
        &mut self,
        place: &Place<'_>,
        root: &Yaml,
        wanted: &str,
        version: &str,
        objects: fn(&mut Self) -> &mut BTreeMap<ObjectName, T>,
        check: fn(&T, &mut Check<'_>),
    ) where
        T: DeserializeOwned + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        let Some(object) = self.decoded::<T>(place, root, wanted, version, check) else { return };
        let metadata = object.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = ObjectName::new(namespace, metadata.name.clone().unwrap_or_default());
        if objects(self).contains_key(&name) {
            return self.problems.push(place.twice(root, &name.to_string()));
        }
        objects(self).insert(name, object);
    }

    fn take_node(&mut self, place: &Place<'_>, root: &Yaml, version: &str) {
        let Some(object) = self.decoded::<Node>(place, root, "v1", version, node) else { return };
        let name = object.metadata.name.clone().unwrap_or_default();
        if self.nodes.contains_key(&name) {
            return self.problems.push(place.twice(root, &name));
        }
        self.nodes.insert(name, object);
    }

    fn decoded<T: DeserializeOwned>(
        &mut self,
        place: &Place<'_>,
        root: &Yaml,
        wanted: &str,
        version: &str,
        check: fn(&T, &mut Check<'_>),
    ) -> Option<T> {
        let mut found = Check { place, root, problems: Vec::new() };
        found.that(version == wanted, "apiVersion", || format!("must be {wanted}"));
        let name = root.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Yaml::as_str);
        found.that(name.is_some_and(|name| !name.is_empty()), "metadata.name", || "is missing".to_owned());
        let object = yaml::decode::<T>(root, false).map_err(|mistakes| {
            found.problems.extend(mistakes.into_iter().map(|m| place.problem(m.line, &m.field, m.message)));
        });
        let object = object.ok().inspect(|object| check(object, &mut found));
        let is_fine = found.problems.is_empty();
        self.problems.append(&mut found.problems);
        object.filter(|_| is_fine)
    }
}

/// Where an object stands.
struct Place<'a> {
    file: &'a Path,
    document: usize,
    /// `items[3].` inside a list.
    within: String,
}

impl Place<'_> {
    fn problem(&self, line: usize, field: &str, message: String) -> ManifestProblem {
        let field = format!("{}{field}", self.within).trim_end_matches('.').to_owned();
        ManifestProblem {
            file: self.file.to_owned(),
            document: self.document,
            line: (line != 0).then_some(line),
            field: (!field.is_empty()).then_some(field),
            message,
        }
    }

    fn twice(&self, root: &Yaml, name: &str) -> ManifestProblem {
        self.problem(root.line_of("metadata.name"), "metadata.name", format!("{name} is given twice"))
    }
}

/// Collects what is wrong with one object.
struct Check<'a> {
    place: &'a Place<'a>,
    root: &'a Yaml,
    problems: Vec<ManifestProblem>,
}

impl Check<'_> {
    fn that(&mut self, is_fine: bool, field: &str, message: impl FnOnce() -> String) {
        if !is_fine {
            self.problems.push(self.place.problem(self.root.line_of(field), field, message()));
        }
    }

    fn one_of(&mut self, given: Option<&str>, known: &[&str], field: &str) {
        let word = given.unwrap_or_default();
        self.that(word.is_empty() || known.contains(&word), field, || {
            format!("{word:?} must be one of {}", known.join(", "))
        });
    }

    fn address(&mut self, given: &str, field: &str) {
        self.that(address(given).is_some(), field, || format!("{given:?} is not an IP address"));
    }

    fn port(&mut self, number: i32, field: &str) {
        self.that((1..=65_535).contains(&number), field, || format!("{number} must be between 1 and 65535"));
    }
}

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
const POLICIES: &[&str] = &["Cluster", "Local"];

fn service(service: &Service, check: &mut Check<'_>) {
    let Some(spec) = &service.spec else { return check.that(false, "spec", || "is missing".to_owned()) };
    let is_given = |ip: &str| !ip.is_empty() && ip != "None";
    for ip in spec.cluster_ip.iter().filter(|ip| is_given(ip)) {
        check.address(ip, "spec.clusterIP");
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate().filter(|(_, ip)| is_given(ip)) {
        check.address(ip, &format!("spec.clusterIPs[{index}]"));
    }
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        check.address(ip, &format!("spec.externalIPs[{index}]"));
    }
    for (index, net) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        let field = format!("spec.loadBalancerSourceRanges[{index}]");
        check.that(range(net).is_some(), &field, || format!("{net:?} is not a range such as 192.0.2.0/24"));
    }
    check.one_of(spec.type_.as_deref(), &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"], "spec.type");
    check.one_of(spec.session_affinity.as_deref(), &["None", "ClientIP"], "spec.sessionAffinity");
    check.one_of(spec.internal_traffic_policy.as_deref(), POLICIES, "spec.internalTrafficPolicy");
    check.one_of(spec.external_traffic_policy.as_deref(), POLICIES, "spec.externalTrafficPolicy");
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        check.port(port.port, &field("port"));
        check.one_of(port.protocol.as_deref(), PROTOCOLS, &field("protocol"));
        port.node_port.filter(|number| *number != 0).into_iter().for_each(|port| check.port(port, &field("nodePort")));
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    for (index, point) in status.and_then(|status| status.ingress.as_deref()).into_iter().flatten().enumerate() {
        let ip = point.ip.iter().filter(|ip| !ip.is_empty());
        ip.for_each(|ip| check.address(ip, &format!("status.loadBalancer.ingress[{index}].ip")));
    }
}

fn slice(slice: &EndpointSlice, check: &mut Check<'_>) {
    let kind = slice.address_type.as_str();
    check.that(["IPv4", "IPv6", "FQDN"].contains(&kind), "addressType", || {
        format!("{kind:?} must be one of IPv4, IPv6, FQDN")
    });
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        port.port.into_iter().for_each(|number| check.port(number, &field("port")));
        check.one_of(port.protocol.as_deref(), PROTOCOLS, &field("protocol"));
    }
    let fits = |ip: &IpAddr| (kind == "IPv4" && ip.is_ipv4()) || (kind == "IPv6" && ip.is_ipv6());
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let field = format!("endpoints[{index}].addresses");
        check.that(!endpoint.addresses.is_empty(), &field, || "is empty".to_owned());
        for (at, ip) in endpoint.addresses.iter().enumerate().filter(|_| kind != "FQDN") {
            check.that(address(ip).as_ref().is_some_and(fits), &format!("{field}[{at}]"), || {
                format!("{ip:?} is not an address of {kind}")
            });
        }
    }
}

fn node(node: &Node, check: &mut Check<'_>) {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref());
    for (index, given) in addresses.into_iter().flatten().enumerate() {
        if matches!(given.type_.as_str(), "InternalIP" | "ExternalIP") {
            check.address(&given.address, &format!("status.addresses[{index}].address"));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let mut objects = Objects::default();
        objects.read(Path::new("/m/a.yaml"), text.as_bytes());
        let mut lines: Vec<String> = objects.services.keys().map(|name| format!("Service {name}")).collect();
        lines.extend(objects.slices.keys().map(|name| format!("EndpointSlice {name}")));
        lines.extend(objects.nodes.keys().map(|name| format!("Node {name}")));
        lines.extend(objects.passed_over.iter().map(|(kind, count)| format!("passed over {count} {kind}")));
        lines.extend(objects.problems.iter().map(|problem| format!("! {problem}")));
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn documents_and_lists_of_every_kind_are_read() {
        check(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: 1}]}\n\
             - apiVersion: v1\n  kind: Pod\n---\n\
             {\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSliceList\", \"items\": [\n\
             {\"metadata\": {\"name\": \"a-1\", \"namespace\": \"n\"}, \"addressType\": \"IPv4\", \"endpoints\": []}]}\n---\n\
             apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n",
            &expect![[r#"
                Service default/a
                EndpointSlice n/a-1
                Node n1
                passed over 1 Pod"#]],
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_document_line_and_field() {
        check(
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: Cluster\n  clusterIP: 10.0.0.300\n  ports:\n  - port: 0\n  - port: 1\n    protocol: ICMP\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\naddressType: IPv4\nendpoints:\n- addresses: [fd00::1]\n- addresses: []\nports:\n- port: 70000\n---\n\
             kind: Service\nmetadata: {name: b}\nspec: {}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec: {prots: []}\n---\n\
             a: [\n---\njust words\n---\napiVersion: v1\nkind: Node\nmetadata: {}\n",
            &expect![[r#"
                ! /m/a.yaml: document 1, line 6: spec.clusterIP: "10.0.0.300" is not an IP address
                ! /m/a.yaml: document 1, line 5: spec.type: "Cluster" must be one of ClusterIP, NodePort, LoadBalancer, ExternalName
                ! /m/a.yaml: document 1, line 8: spec.ports[0].port: 0 must be between 1 and 65535
                ! /m/a.yaml: document 1, line 10: spec.ports[1].protocol: "ICMP" must be one of TCP, UDP, SCTP
                ! /m/a.yaml: document 2, line 20: ports[0].port: 70000 must be between 1 and 65535
                ! /m/a.yaml: document 2, line 17: endpoints[0].addresses[0]: "fd00::1" is not an address of IPv4
                ! /m/a.yaml: document 2, line 18: endpoints[1].addresses: is empty
                ! /m/a.yaml: document 3, line 22: apiVersion: must be v1
                ! /m/a.yaml: document 4, line 29: spec.prots: unknown field; did you mean ports?
                ! /m/a.yaml: document 5, line 31: not YAML: unclosed bracket '[' (column 4)
                ! /m/a.yaml: document 6, line 33: kind: is missing: every object says its apiVersion and kind
                ! /m/a.yaml: document 7, line 37: metadata.name: is missing"#]],
        );
    }

    #[test]
    fn a_name_given_twice_is_told() {
        let one = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";
        check(
            &format!("{one}---\n{one}"),
            &expect![[r#"
            Service default/a
            ! /m/a.yaml: document 2, line 8: metadata.name: default/a is given twice"#]],
        );
    }
}

//! Name resolution of a pod: the node's configuration, the pod's policy and its `dnsConfig`, within libc's limits.

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

/// Limits that the C library's resolver is known to have.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_BYTES: usize = 253;
const SEARCH_LINE: usize = 2_048;

/// A resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// What a node offers its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDns {
    /// The node's own resolver; `None` when it is configured to be nothing, which pods then see as 127.0.0.1.
    pub host: Option<Resolver>,
    /// The cluster's servers.
    pub cluster_servers: Vec<String>,
    /// The cluster's domain, or empty.
    pub cluster_domain: String,
}

/// Something that a user should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsWarning {
    /// `ClusterFirst` without cluster servers.
    MissingClusterDns,
    /// Too many of something; the text names what was applied.
    Forming(String),
}

impl Resolver {
    /// Reads `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = words.filter_map(search).collect(),
                Some("options") => words.for_each(|word| resolver.set_option(word)),
                _ => {}
            }
        }
        resolver
    }

    fn set_option(&mut self, option: &str) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        let wanted = name(option);
        match self.options.iter_mut().find(|old| name(old) == wanted) {
            Some(old) => *old = option.to_owned(),
            None => self.options.push(option.to_owned()),
        }
    }

    /// As the runtime is told.
    pub fn to_cri(&self) -> v1::DnsConfig {
        v1::DnsConfig { servers: self.servers.clone(), searches: self.searches.clone(), options: self.options.clone() }
    }
}

fn search(word: &str) -> Option<String> {
    let word = if word == "." { "" } else { word.strip_suffix('.').unwrap_or(word) };
    (!word.is_empty()).then(|| word.to_owned())
}

/// What the pod resolves with, and what to warn about.
pub fn resolver(pod: &Pod, node: &NodeDns) -> (Resolver, Vec<DnsWarning>) {
    let spec = pod.spec.as_ref();
    let mut warnings = Vec::new();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut resolver = match policy {
        "None" => Resolver::default(),
        "Default" => of_host(node),
        "ClusterFirst" if super::on_host_network(pod) => of_host(node),
        _ if node.cluster_servers.is_empty() => {
            warnings.push(DnsWarning::MissingClusterDns);
            of_host(node)
        }
        _ => of_cluster(pod, node),
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(&mut resolver, config);
    }
    limit(&mut resolver, &mut warnings);
    (resolver, warnings)
}

fn of_host(node: &NodeDns) -> Resolver {
    let nothing =
        || Resolver { servers: vec!["127.0.0.1".to_owned()], searches: vec![".".to_owned()], options: vec![] };
    node.host.clone().unwrap_or_else(nothing)
}

fn of_cluster(pod: &Pod, node: &NodeDns) -> Resolver {
    let mut searches = Vec::new();
    let domain = &node.cluster_domain;
    if !domain.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        searches.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()]);
    }
    let host = node.host.as_ref().map(|host| host.searches.as_slice()).unwrap_or_default();
    append_new(&mut searches, host);
    Resolver { servers: node.cluster_servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn add(resolver: &mut Resolver, config: &PodDNSConfig) {
    append_new(&mut resolver.servers, config.nameservers.as_deref().unwrap_or_default());
    append_new(&mut resolver.searches, config.searches.as_deref().unwrap_or_default());
    for option in config.options.as_deref().unwrap_or_default() {
        let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => resolver.set_option(&format!("{name}:{value}")),
            None => resolver.set_option(name),
        }
    }
}

fn append_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn limit(resolver: &mut Resolver, warnings: &mut Vec<DnsWarning>) {
    if resolver.servers.len() > SERVERS {
        resolver.servers.truncate(SERVERS);
        let applied = resolver.servers.join(" ");
        warnings.push(DnsWarning::Forming(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}"
        )));
    }
    let before = resolver.searches.len();
    resolver.searches.retain(|search| search.len() <= SEARCH_BYTES);
    resolver.searches.truncate(SEARCHES);
    while resolver.searches.join(" ").len() > SEARCH_LINE {
        resolver.searches.pop();
    }
    if resolver.searches.len() < before {
        let applied = resolver.searches.join(" ");
        warnings.push(DnsWarning::Forming(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}"
        )));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, cluster: &[&str], want: Expect) {
        let node = NodeDns {
            host: Some(Resolver::parse(
                "# c\nnameserver 192.0.2.53\nsearch old.example\nsearch corp.example. .\noptions timeout:2 rotate\noptions timeout:3\n",
            )),
            cluster_servers: cluster.iter().map(|ip| (*ip).to_owned()).collect(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let (resolver, warnings) = resolver(&super::super::testing::pod(spec), &node);
        let Resolver { servers, searches, options } = resolver;
        want.assert_eq(&format!("{servers:?}\n{searches:?}\n{options:?}\n{warnings:?}\n"));
    }

    #[test]
    fn each_policy_has_its_own_base() {
        check(
            json!({"dnsPolicy": "Default"}),
            &["10.0.0.10"],
            expect![[r#"
            ["192.0.2.53"]
            ["corp.example"]
            ["timeout:3", "rotate"]
            []
        "#]],
        );
        check(
            json!({"dnsPolicy": "ClusterFirst"}),
            &["10.0.0.10"],
            expect![[r#"
            ["10.0.0.10"]
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
            ["ndots:5"]
            []
        "#]],
        );
        check(
            json!({"dnsPolicy": "ClusterFirst"}),
            &[],
            expect![[r#"
            ["192.0.2.53"]
            ["corp.example"]
            ["timeout:3", "rotate"]
            [MissingClusterDns]
        "#]],
        );
        check(
            json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
            &["10.0.0.10"],
            expect![[r#"
            ["192.0.2.53"]
            ["corp.example"]
            ["timeout:3", "rotate"]
            []
        "#]],
        );
    }

    #[test]
    fn the_pods_own_settings_are_added_and_win() {
        let config = json!({"nameservers": ["192.0.2.1"], "searches": ["x.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
        check(
            json!({"dnsPolicy": "None", "dnsConfig": config}),
            &[],
            expect![[r#"
            ["192.0.2.1"]
            ["x.example"]
            ["ndots:2", "edns0"]
            []
        "#]],
        );
        check(
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true, "dnsConfig": config}),
            &["10.0.0.10"],
            expect![[r#"
            ["10.0.0.10", "192.0.2.1"]
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "x.example"]
            ["ndots:2", "edns0"]
            []
        "#]],
        );
    }

    #[test]
    fn what_the_resolver_cannot_take_is_left_out_and_said() {
        let config = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]});
        check(
            json!({"dnsPolicy": "None", "dnsConfig": config}),
            &[],
            expect![[r#"
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
            []
            []
            [Forming("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3")]
        "#]],
        );
        let many: Vec<_> = (0..40).map(|n| format!("{n}.{}", "x".repeat(80))).collect();
        let pod = super::super::testing::pod(json!({"dnsPolicy": "None", "dnsConfig": {"searches": many}}));
        let (resolver, warnings) = resolver(&pod, &NodeDns::default());
        assert!(resolver.searches.join(" ").len() <= SEARCH_LINE && resolver.searches.len() == 24);
        assert!(matches!(&warnings[..], [DnsWarning::Forming(_)]));
    }
}

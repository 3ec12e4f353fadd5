//! The text of `/etc/hosts`.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::hostname::Hostname;

const POD_NETWORK: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// `/etc/hosts` of a pod. `node` is the node's own file, for pods on the host's network.
pub fn hosts_file(pod: &Pod, ips: &[String], hostname: &Hostname, node: &str) -> String {
    let spec = pod.spec.as_ref();
    let mut text = if super::on_host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{node}")
    } else {
        own_network(ips, hostname)
    };
    aliases(&mut text, spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default());
    text
}

fn own_network(ips: &[String], hostname: &Hostname) -> String {
    let mut text = POD_NETWORK.to_owned();
    for ip in ips {
        let name = &hostname.name;
        let _ = match &hostname.domain {
            Some(domain) => writeln!(text, "{ip}\t{name}.{domain}\t{name}"),
            None => writeln!(text, "{ip}\t{name}"),
        };
    }
    text
}

fn aliases(text: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    text.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, ips: &[&str], want: Expect) {
        let pod = super::super::testing::pod(spec);
        let ips: Vec<_> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        let hostname = super::super::hostname::hostname(&pod, "cluster.local").unwrap();
        want.assert_eq(&hosts_file(&pod, &ips, &hostname, "127.0.0.1 localhost node\n"));
    }

    #[test]
    fn every_address_gets_the_name_with_its_domain() {
        check(
            json!({"hostname": "db-0", "subdomain": "db"}),
            &["10.88.0.2", "fd00::2"],
            expect![[r#"
                # Kubernetes-managed hosts file.
                127.0.0.1	localhost
                ::1	localhost ip6-localhost ip6-loopback
                fe00::0	ip6-localnet
                fe00::0	ip6-mcastprefix
                fe00::1	ip6-allnodes
                fe00::2	ip6-allrouters
                10.88.0.2	db-0.db.shop.svc.cluster.local	db-0
                fd00::2	db-0.db.shop.svc.cluster.local	db-0
            "#]],
        );
    }

    #[test]
    fn aliases_follow_an_empty_line_also_on_the_host_network() {
        check(
            json!({"hostNetwork": true, "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["foo.local", "bar.local"]}]}),
            &["192.0.2.1"],
            expect![[r#"
                # Kubernetes-managed hosts file (host network).
                127.0.0.1 localhost node

                # Entries added by HostAliases.
                127.0.0.1	foo.local	bar.local
            "#]],
        );
    }
}

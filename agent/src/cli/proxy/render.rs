//! `longshore proxy render`: from manifests to the text of rules, without the kernel.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use netfilter::{Family, LocalTraffic, Model, NodeConfig, NodePortAddresses, Ruleset, Transaction, nft};

use super::files;
use super::objects::Objects;
use crate::proxy::{NodeFacts, Slice, Snapshot, model_of, rows};

#[derive(Args, Debug)]
pub(super) struct RenderArgs {
    /// Manifests of Services, EndpointSlices and Nodes: files, folders, or - for standard input. Other kinds have no
    /// part in rules.
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The node whose rules to print; the one Node among the manifests, or this machine's name, where it is not given.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Where pods' addresses come from, for each family: what comes from elsewhere to a cluster IP is masqueraded.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// The family whose rules to print.
    #[arg(long, value_enum, default_value_t = FamilyName::Ipv4)]
    family: FamilyName,
    /// For iptables-restore or for nft.
    #[arg(long, value_enum, default_value_t = Mode::Iptables)]
    mode: Mode,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyName {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Iptables,
    Nftables,
}

/// Prints the rules. With anything wrong in the manifests there are none: half of them would be taken for all.
pub(super) fn run(args: &RenderArgs) -> Result<ExitCode> {
    let objects = files::read(&args.files)?;
    if !objects.problems.is_empty() {
        let lines: Vec<_> = objects.problems.iter().map(ToString::to_string).collect();
        bail!("these manifests cannot be used:\n  {}", lines.join("\n  "));
    }
    let Rendered { text, notes } = rendered(&objects, args);
    let mut stderr = std::io::stderr().lock();
    notes.iter().try_for_each(|note| writeln!(stderr, "longshore: {note}"))?;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The text, and what a person should know of it.
struct Rendered {
    text: String,
    notes: Vec<String>,
}

fn rendered(objects: &Objects, args: &RenderArgs) -> Rendered {
    let family = match args.family {
        FamilyName::Ipv4 => Family::V4,
        FamilyName::Ipv6 => Family::V6,
    };
    let mut notes = Vec::new();
    let node = node_config(objects, args, family);
    let model = model(objects, family, &node.node, &mut notes);
    let (model, clashes) = model.without_clashes();
    notes.extend(clashes.iter().map(ToString::to_string));
    if !objects.passed_over.is_empty() {
        let kinds: Vec<_> = objects.passed_over.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        notes.push(format!("passed over what has no part in rules: {}", kinds.join(", ")));
    }
    let text = match args.mode {
        Mode::Iptables => Transaction::from_nothing(&Ruleset::render(&model, &node)).text(),
        Mode::Nftables => {
            nft::Transaction::between(&nft::Ruleset::empty(family), &nft::Ruleset::render(&model, &node)).text()
        }
    };
    Rendered { text, notes }
}

fn model(objects: &Objects, family: Family, node: &str, notes: &mut Vec<String>) -> Arc<Model> {
    for (name, service) in &objects.services {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"));
        if spec.is_some_and(|spec| spec.cluster_ip.as_deref().unwrap_or_default().is_empty()) {
            notes.push(format!("Service {name} has no clusterIP, which the API server gives; no rules for it"));
        }
    }
    let slices = objects.slices.iter();
    let slices = slices.filter_map(|(name, slice)| Some((name.clone(), Arc::new(Slice::of_slice(slice)?))));
    let services = objects.services.iter().map(|(name, service)| (name.clone(), Arc::new(service.clone())));
    let (services, slices) = (Arc::new(services.collect()), Arc::new(slices.collect()));
    let (model, problems) = model_of(Snapshot { services, slices, node: NodeFacts::default() }, family, node);
    notes.extend(problems);
    model
}

/// What kube-proxy would find out of the node and its own defaults.
fn node_config(objects: &Objects, args: &RenderArgs, family: Family) -> NodeConfig {
    let only = || objects.nodes.keys().next().filter(|_| objects.nodes.len() == 1).cloned();
    let name = args.node.clone().or_else(only).unwrap_or_else(crate::cli::host_name);
    let node = objects.nodes.get(&name);
    let node_ips = node.map(node_ips).unwrap_or_default();
    let cidr = args.cluster_cidr.iter().find(|range| family.has_net(range));
    let primary = node_ips.iter().copied().find(|ip| family.has(*ip) && !ip.is_loopback());
    NodeConfig {
        zone: NodeFacts::of(node).zone,
        local_traffic: cidr.map_or(LocalTraffic::Unknown, |range| LocalTraffic::Cidr(*range)),
        node_port_addresses: match (args.mode, primary) {
            (Mode::Nftables, Some(primary)) => NodePortAddresses::Only(vec![primary]),
            _ => NodePortAddresses::All,
        },
        node: name,
        node_ips,
        ..NodeConfig::default()
    }
}

/// Internal addresses first.
fn node_ips(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &'static str| all.iter().filter(move |given| given.type_ == kind);
    of("InternalIP").chain(of("ExternalIP")).filter_map(|given| rows::address(&given.address)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use expect_test::expect;
    use netfilter::Fake;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RenderArgs,
    }

    const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec:
  clusterIPs: [10.96.0.50, 'fd00::50']
  clusterIP: 10.96.0.50
  ports: [{name: http, port: 80, targetPort: web}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.7], nodeName: n1, hints: {forZones: [{name: a}]}}
- {addresses: [10.244.2.9], nodeName: n2, hints: {forZones: [{name: b}]}}
";
    const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.10}]}
";

    fn render(text: &str, words: &[&str]) -> Rendered {
        let mut objects = Objects::default();
        objects.read(Path::new("/m/a.yaml"), text.as_bytes());
        assert_eq!(objects.problems, []);
        let args = Line::parse_from([&["render", "-f", "x"], words].concat()).args;
        rendered(&objects, &args)
    }

    fn lines(text: &str, about: &str) -> String {
        text.lines().filter(|line| line.contains(about)).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_text_is_kube_proxys() {
        let Rendered { text, notes } = render(WEB, &["--node", "n2", "--cluster-cidr", "10.244.0.0/16,fd01::/64"]);
        assert_eq!(notes, [""; 0]);
        expect![[r#"
            -A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
            -A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.1.7:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-UIODFAJFTN25OFRG
            -A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.2.9:8080" -j KUBE-SEP-HEYAT6BZNHOVKI2P
            -A KUBE-SEP-UIODFAJFTN25OFRG -m comment --comment demo/web:http -s 10.244.1.7 -j KUBE-MARK-MASQ
            -A KUBE-SEP-UIODFAJFTN25OFRG -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.1.7:8080
            -A KUBE-SEP-HEYAT6BZNHOVKI2P -m comment --comment demo/web:http -s 10.244.2.9 -j KUBE-MARK-MASQ
            -A KUBE-SEP-HEYAT6BZNHOVKI2P -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.2.9:8080
            -A KUBE-SERVICES -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ
        "#]]
        .assert_eq(&lines(&text, "demo/web"));
        Fake::new(Family::V4).restore(&text).unwrap();
    }

    #[test]
    fn the_only_node_gives_its_zone_and_address() {
        let both = [WEB, "---", NODE].concat();
        let endpoints = |words: &[&str]| lines(&render(&both, words).text, "--to-destination").lines().count();
        assert_eq!(endpoints(&[]), 1, "the hint keeps traffic in zone a");
        assert_eq!(endpoints(&["--node", "n2"]), 2, "nothing is known of that node");
        let nft = render(&both, &["--mode", "nftables"]).text;
        expect![[r#"
            add element ip kube-proxy nodeport-ips { 192.0.2.10 }
        "#]]
        .assert_eq(&lines(&nft, "add element ip kube-proxy nodeport-ips"));
    }

    #[test]
    fn each_family_has_its_own_text() {
        let text = render(WEB, &["--family", "ipv6"]).text;
        expect![[r#"
            -A KUBE-SERVICES -m comment --comment "demo/web:http has no endpoints" -m tcp -p tcp -d fd00::50 --dport 80 -j REJECT
        "#]]
        .assert_eq(&lines(&text, "demo/web"));
        Fake::new(Family::V6).restore(&text).unwrap();
        let mut fake = nft::Fake::default();
        fake.run(&render(WEB, &["--family", "ipv6", "--mode", "nftables"]).text).unwrap();
    }

    #[test]
    fn a_clash_is_told_with_both_names_and_the_rest_rendered() {
        let other = WEB.replace("{name: web, ", "{name: other, ");
        let alone = "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: alone}\nspec: {ports: [{port: 1}]}\n---\nkind: Pod\n";
        let Rendered { text, notes } =
            render(&[WEB, "---", &other.replace("name: web-1", "name: other-1"), alone].concat(), &[]);
        expect![[r#"
            Service default/alone has no clusterIP, which the API server gives; no rules for it
            10.96.0.50 tcp port 80 of demo/web:http already belongs to demo/other:http
            passed over what has no part in rules: 1 Pod"#]]
        .assert_eq(&notes.join("\n"));
        assert!(text.contains("demo/other:http") && !text.contains("demo/web:http"));
    }
}

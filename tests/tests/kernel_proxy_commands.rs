//! `longshore proxy render` and `longshore proxy cleanup`, in network namespaces made for one test.

use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::agent::program;
use tests::pod_network::{Netns, can_run};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: demo}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.70, "fd00:96::70"]
  clusterIP: 10.96.0.70
  externalTrafficPolicy: Local
  healthCheckNodePort: 31443
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [203.0.113.0/24, "2001:db8::/64"]
  externalIPs: [192.0.2.77, "2001:db8::77"]
  ports: [{name: https, port: 443, nodePort: 30443}, {name: media, port: 5004, protocol: UDP, nodePort: 30504},
    {name: signal, port: 2905, protocol: SCTP}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.20}, {ip: "2001:db8::20", ipMode: VIP}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-4, namespace: demo, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{name: https, port: 8443}, {name: signal, port: 2905, protocol: SCTP}]
endpoints: [{addresses: [10.244.1.5], nodeName: n1}, {addresses: [10.244.2.6], nodeName: n2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-6, namespace: demo, labels: {kubernetes.io/service-name: edge}}
addressType: IPv6
ports: [{name: https, port: 8443}, {name: media, port: 5004, protocol: UDP}]
endpoints: [{addresses: ["fd00:244::5"], nodeName: n1}, {addresses: ["fd00:244::6"], nodeName: n2}]
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
"#;

/// A program inside of a namespace, with `input` on its standard input.
fn run(netns: &Netns, program: &str, words: &[&str], input: &str) -> Result<Output> {
    netns.run(|| {
        let piped = || Stdio::piped();
        let mut child = Command::new(program)
            .args(words)
            .stdin(piped())
            .stdout(piped())
            .stderr(piped())
            .spawn()
            .context("spawn")?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        let input = input.to_owned();
        let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        // Who does not read its input to the end says why on standard error.
        _ = feeding.join();
        Ok(output)
    })?
}

fn longshore(netns: &Netns, words: &[&str], input: &str) -> Result<Output> {
    let program = program("longshore")?;
    run(netns, program.to_str().context("a path in UTF-8")?, words, input)
}

fn well(output: &Output) -> Result<String> {
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {words}", output.status);
    Ok(String::from_utf8(output.stdout.clone())?)
}

fn render(netns: &Netns, words: &[&str]) -> Result<String> {
    well(&longshore(netns, &[&["proxy", "render", "-f", "-"], words].concat(), MANIFESTS)?)
}

/// Family and mode with the tools that take their text, and that show what came of it.
const WAYS: [(&str, &str, &[&str], &[&str]); 6] = [
    ("ipv4", "iptables", &["iptables-nft-restore", "--noflush"], &["iptables-nft-save"]),
    ("ipv6", "iptables", &["ip6tables-nft-restore", "--noflush"], &["ip6tables-nft-save"]),
    ("ipv4", "iptables", &["iptables-legacy-restore", "--noflush"], &["iptables-legacy-save"]),
    ("ipv6", "iptables", &["ip6tables-legacy-restore", "--noflush"], &["ip6tables-legacy-save"]),
    ("ipv4", "nftables", &["nft", "-f", "-"], &["nft", "list", "table", "ip", "kube-proxy"]),
    ("ipv6", "nftables", &["nft", "-f", "-"], &["nft", "list", "table", "ip6", "kube-proxy"]),
];

fn tool(netns: &Netns, words: &[&str], input: &str) -> Result<String> {
    well(&run(netns, words[0], &words[1..], input)?).with_context(|| words.join(" "))
}

fn test(inside: impl FnOnce() -> Result<()>) {
    if can_run() {
        inside().unwrap();
    }
}

#[test]
fn the_tools_take_what_is_rendered_and_cleanup_takes_all_of_it_away() {
    test(|| {
        let netns = Netns::new()?;
        for (family, mode, restore, _) in WAYS {
            let text = render(&netns, &["--family", family, "--mode", mode, "--cluster-cidr", "10.244.0.0/16"])?;
            tool(&netns, restore, &text).with_context(|| format!("{family} {mode}"))?;
        }
        for (.., show) in WAYS {
            let shown = tool(&netns, show, "")?;
            assert!(shown.contains("demo/edge"), "{show:?}: {shown}");
        }
        let told = well(&longshore(&netns, &["proxy", "cleanup"], "")?)?;
        for part in ["iptables (nft), IPv4", "iptables (legacy), IPv6", "nftables, IPv6"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        for (.., show) in WAYS {
            let left = run(&netns, show[0], &show[1..], "")?;
            let text = String::from_utf8_lossy(&left.stdout);
            assert!(!text.contains("KUBE") && !text.contains("kube-proxy"), "{show:?}: {text}");
        }
        assert_eq!(well(&longshore(&netns, &["proxy", "cleanup"], "")?)?, "Nothing to remove.\n");
        Ok(())
    });
}

#[test]
fn cleanup_leaves_what_is_not_ours() {
    test(|| {
        let netns = Netns::new()?;
        tool(
            &netns,
            &["iptables-nft-restore"],
            "*nat\n:MINE - [0:0]\n-A PREROUTING -p tcp --dport 1 -j MINE\nCOMMIT\n",
        )?;
        tool(&netns, &["nft", "-f", "-"], "add table ip mine\nadd chain ip mine c\n")?;
        let before = tool(&netns, &["nft", "list", "ruleset"], "")?;
        let text = render(&netns, &[])?;
        tool(&netns, &["iptables-nft-restore", "--noflush"], &text)?;
        well(&longshore(&netns, &["proxy", "cleanup"], "")?)?;
        let after = tool(&netns, &["nft", "list", "ruleset"], "")?;
        for line in before.lines() {
            assert!(after.contains(line), "{line} is gone from {after}");
        }
        Ok(())
    });
}

#[test]
fn cleanup_waits_for_the_agent_to_end() {
    test(|| {
        let netns = Netns::new()?;
        let text = render(&netns, &["--mode", "nftables"])?;
        tool(&netns, &["nft", "-f", "-"], &text)?;
        let agent = netns.run(|| UnixListener::bind_addr(&SocketAddr::from_abstract_name("longshore-proxy")?))??;
        let refused = longshore(&netns, &["proxy", "cleanup"], "")?;
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && words.contains("an agent programs Services here"), "{words}");
        tool(&netns, &["nft", "list", "table", "ip", "kube-proxy"], "")?;
        assert!(well(&longshore(&netns, &["proxy", "cleanup", "--force"], "")?)?.contains("nftables"));
        drop(agent);
        assert_eq!(well(&longshore(&netns, &["proxy", "cleanup"], "")?)?, "Nothing to remove.\n");
        Ok(())
    });
}

#[test]
fn bad_manifests_are_named_and_nothing_is_printed() {
    test(|| {
        let netns = Netns::new()?;
        let bad = MANIFESTS.replace("10.244.2.6", "10.244.2.600");
        let refused = longshore(&netns, &["proxy", "render", "-f", "-"], &bad)?;
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && refused.stdout.is_empty());
        assert!(words.contains("document 2") && words.contains("endpoints[1].addresses[0]"), "{words}");
        Ok(())
    });
}

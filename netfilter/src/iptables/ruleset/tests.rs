use super::*;
use crate::testing::{ip, model, node, service};
use crate::{InterfaceName, LocalTraffic, NodePortAddresses, Protocol};
use expect_test::{Expect, expect};

mod choice;
mod trace;

/// What the services add to a node, as `iptables-save` prints it.
fn added(services: Vec<(&str, ServicePort)>, node: &NodeConfig) -> String {
    let model = model(services);
    let bare = lines(&Ruleset::render(&Model::new(model.family()), node));
    let full = lines(&Ruleset::render(&model, node));
    full.into_iter().filter(|line| !bare.contains(line)).map(|line| line + "\n").collect()
}

fn lines(ruleset: &Ruleset) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, chain) in ruleset.chains() {
        assert!(chain.name.len() <= 28, "{}", chain.name);
        for rule in &chain.rules {
            let saved = rule.saved(ruleset.family()).unwrap();
            lines.push(format!("{table} {} {saved}", chain.name));
        }
    }
    lines
}

#[track_caller]
fn check(services: Vec<(&str, ServicePort)>, rules: Expect) {
    rules.assert_eq(&added(services, &node()));
}

#[test]
fn a_node_without_services() {
    expect![[r#"
        nat KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        nat KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
        nat KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
        nat KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
        filter KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        filter KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
        nat KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#]].assert_eq(&lines(&Ruleset::render(&Model::new(Family::V4), &node())).join("\n"));
}

#[test]
fn a_node_without_services_and_ipv6() {
    expect![[r#"
        nat KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        nat KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
        nat KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
        nat KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
        filter KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        nat KUBE-SERVICES ! -d ::1/128 -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#]].assert_eq(&lines(&Ruleset::render(&Model::new(Family::V6), &node())).join("\n"));
}

#[test]
fn example_a_cluster_ip() {
    let web = service("10.96.0.50:80").to(&["10.244.1.7:8080", "10.244.2.9:8080"]);
    check(
        vec![("demo/web:http", web)],
        expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.50/32 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ
        nat KUBE-SVC-XRY76EGRC3BSCIIJ ! -s 10.244.0.0/16 -d 10.96.0.50/32 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.1.7:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-UIODFAJFTN25OFRG
        nat KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.2.9:8080" -j KUBE-SEP-HEYAT6BZNHOVKI2P
        nat KUBE-SEP-UIODFAJFTN25OFRG -s 10.244.1.7/32 -m comment --comment "demo/web:http" -j KUBE-MARK-MASQ
        nat KUBE-SEP-UIODFAJFTN25OFRG -p tcp -m comment --comment "demo/web:http" -m tcp -j DNAT --to-destination 10.244.1.7:8080
        nat KUBE-SEP-HEYAT6BZNHOVKI2P -s 10.244.2.9/32 -m comment --comment "demo/web:http" -j KUBE-MARK-MASQ
        nat KUBE-SEP-HEYAT6BZNHOVKI2P -p tcp -m comment --comment "demo/web:http" -m tcp -j DNAT --to-destination 10.244.2.9:8080
    "#]],
    );
}

#[test]
fn example_a_as_it_is_handed_to_the_kernel() {
    let web = service("10.96.0.50:80").to(&["10.244.1.7:8080", "10.244.2.9:8080"]);
    let ruleset = Ruleset::render(&model(vec![("demo/web:http", web)]), &node());
    let chains = ruleset.chains().into_iter().filter(|(_, chain)| chain.name.contains("-S"));
    let rules = chains.flat_map(|(_, chain)| chain.rules.clone());
    expect![[r#"
        -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ
        -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
        -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
        -m comment --comment "demo/web:http -> 10.244.1.7:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-UIODFAJFTN25OFRG
        -m comment --comment "demo/web:http -> 10.244.2.9:8080" -j KUBE-SEP-HEYAT6BZNHOVKI2P
        -m comment --comment demo/web:http -s 10.244.1.7 -j KUBE-MARK-MASQ
        -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.1.7:8080
        -m comment --comment demo/web:http -s 10.244.2.9 -j KUBE-MARK-MASQ
        -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.2.9:8080
    "#]].assert_eq(&rules.map(|rule| format!("{rule}\n")).collect::<String>());
}

#[test]
fn example_b_node_port_with_affinity() {
    let sticky = service("10.96.0.60:9000").node_port(30900).sticky(10800).to(&["10.244.1.8:9000", "10.244.2.3:9000"]);
    check(
        vec![("demo/sticky", sticky)],
        expect![[r#"
        nat KUBE-NODEPORTS -p tcp -m comment --comment "demo/sticky" -m tcp --dport 30900 -j KUBE-EXT-35QZC2DVY6N7HROU
        nat KUBE-SERVICES -d 10.96.0.60/32 -p tcp -m comment --comment "demo/sticky cluster IP" -m tcp --dport 9000 -j KUBE-SVC-35QZC2DVY6N7HROU
        nat KUBE-SVC-35QZC2DVY6N7HROU ! -s 10.244.0.0/16 -d 10.96.0.60/32 -p tcp -m comment --comment "demo/sticky cluster IP" -m tcp --dport 9000 -j KUBE-MARK-MASQ
        nat KUBE-SVC-35QZC2DVY6N7HROU -m comment --comment "demo/sticky -> 10.244.1.8:9000" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-K5YYTHRFTQL4HPNA --mask 255.255.255.255 --rsource -j KUBE-SEP-K5YYTHRFTQL4HPNA
        nat KUBE-SVC-35QZC2DVY6N7HROU -m comment --comment "demo/sticky -> 10.244.2.3:9000" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-CDRMYDHYMUDATMU2 --mask 255.255.255.255 --rsource -j KUBE-SEP-CDRMYDHYMUDATMU2
        nat KUBE-SVC-35QZC2DVY6N7HROU -m comment --comment "demo/sticky -> 10.244.1.8:9000" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-K5YYTHRFTQL4HPNA
        nat KUBE-SVC-35QZC2DVY6N7HROU -m comment --comment "demo/sticky -> 10.244.2.3:9000" -j KUBE-SEP-CDRMYDHYMUDATMU2
        nat KUBE-EXT-35QZC2DVY6N7HROU -m comment --comment "masquerade traffic for demo/sticky external destinations" -j KUBE-MARK-MASQ
        nat KUBE-EXT-35QZC2DVY6N7HROU -j KUBE-SVC-35QZC2DVY6N7HROU
        nat KUBE-SEP-K5YYTHRFTQL4HPNA -s 10.244.1.8/32 -m comment --comment "demo/sticky" -j KUBE-MARK-MASQ
        nat KUBE-SEP-K5YYTHRFTQL4HPNA -p tcp -m comment --comment "demo/sticky" -m recent --set --name KUBE-SEP-K5YYTHRFTQL4HPNA --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.8:9000
        nat KUBE-SEP-CDRMYDHYMUDATMU2 -s 10.244.2.3/32 -m comment --comment "demo/sticky" -j KUBE-MARK-MASQ
        nat KUBE-SEP-CDRMYDHYMUDATMU2 -p tcp -m comment --comment "demo/sticky" -m recent --set --name KUBE-SEP-CDRMYDHYMUDATMU2 --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.2.3:9000
    "#]],
    );
}

fn edge(endpoints: &[&str]) -> ServicePort {
    let edge = service("10.96.0.70:443").node_port(30443).vip("198.51.100.20").external_local().health_check(31443);
    edge.from(&["203.0.113.0/24", "192.0.2.0/24"]).to(endpoints)
}

#[test]
fn example_c_load_balancer_with_local_policy_and_source_ranges() {
    check(
        vec![("demo/edge:https", edge(&["10.244.1.5:8443 local", "10.244.2.6:8443"]))],
        expect![[r#"
        filter KUBE-NODEPORTS -p tcp -m comment --comment "demo/edge:https health check node port" -m tcp --dport 31443 -j ACCEPT
        filter KUBE-PROXY-FIREWALL -d 198.51.100.20/32 -p tcp -m comment --comment "demo/edge:https traffic not accepted by KUBE-FW-F5MOWLRDBZEMUTAQ" -m tcp --dport 443 -j DROP
        nat KUBE-NODEPORTS -p tcp -m comment --comment "demo/edge:https" -m tcp --dport 30443 -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-SERVICES -d 10.96.0.70/32 -p tcp -m comment --comment "demo/edge:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-SERVICES -d 198.51.100.20/32 -p tcp -m comment --comment "demo/edge:https loadbalancer IP" -m tcp --dport 443 -j KUBE-FW-F5MOWLRDBZEMUTAQ
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ ! -s 10.244.0.0/16 -d 10.96.0.70/32 -p tcp -m comment --comment "demo/edge:https cluster IP" -m tcp --dport 443 -j KUBE-MARK-MASQ
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ -m comment --comment "demo/edge:https -> 10.244.1.5:8443" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-FFRMLP5EMLNYXPZ3
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ -m comment --comment "demo/edge:https -> 10.244.2.6:8443" -j KUBE-SEP-WXBIET3RATLSAP3I
        nat KUBE-SVL-F5MOWLRDBZEMUTAQ -m comment --comment "demo/edge:https -> 10.244.1.5:8443" -j KUBE-SEP-FFRMLP5EMLNYXPZ3
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -s 10.244.0.0/16 -m comment --comment "pod traffic for demo/edge:https external destinations" -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -m comment --comment "masquerade LOCAL traffic for demo/edge:https external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -m comment --comment "route LOCAL traffic for demo/edge:https external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -j KUBE-SVL-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 203.0.113.0/24 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 192.0.2.0/24 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 198.51.100.20/32 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -m comment --comment "other traffic to demo/edge:https will be dropped by KUBE-PROXY-FIREWALL"
        nat KUBE-SEP-FFRMLP5EMLNYXPZ3 -s 10.244.1.5/32 -m comment --comment "demo/edge:https" -j KUBE-MARK-MASQ
        nat KUBE-SEP-FFRMLP5EMLNYXPZ3 -p tcp -m comment --comment "demo/edge:https" -m tcp -j DNAT --to-destination 10.244.1.5:8443
        nat KUBE-SEP-WXBIET3RATLSAP3I -s 10.244.2.6/32 -m comment --comment "demo/edge:https" -j KUBE-MARK-MASQ
        nat KUBE-SEP-WXBIET3RATLSAP3I -p tcp -m comment --comment "demo/edge:https" -m tcp -j DNAT --to-destination 10.244.2.6:8443
    "#]],
    );
}

#[test]
fn example_c_without_a_local_endpoint() {
    check(
        vec![("demo/edge:https", edge(&["10.244.1.5:8443", "10.244.2.6:8443"]))],
        expect![[r#"
        filter KUBE-EXTERNAL-SERVICES -d 198.51.100.20/32 -p tcp -m comment --comment "demo/edge:https has no local endpoints" -m tcp --dport 443 -j DROP
        filter KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "demo/edge:https has no local endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30443 -j DROP
        filter KUBE-NODEPORTS -p tcp -m comment --comment "demo/edge:https health check node port" -m tcp --dport 31443 -j ACCEPT
        filter KUBE-PROXY-FIREWALL -d 198.51.100.20/32 -p tcp -m comment --comment "demo/edge:https traffic not accepted by KUBE-FW-F5MOWLRDBZEMUTAQ" -m tcp --dport 443 -j DROP
        nat KUBE-NODEPORTS -p tcp -m comment --comment "demo/edge:https" -m tcp --dport 30443 -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-SERVICES -d 10.96.0.70/32 -p tcp -m comment --comment "demo/edge:https cluster IP" -m tcp --dport 443 -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-SERVICES -d 198.51.100.20/32 -p tcp -m comment --comment "demo/edge:https loadbalancer IP" -m tcp --dport 443 -j KUBE-FW-F5MOWLRDBZEMUTAQ
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ ! -s 10.244.0.0/16 -d 10.96.0.70/32 -p tcp -m comment --comment "demo/edge:https cluster IP" -m tcp --dport 443 -j KUBE-MARK-MASQ
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ -m comment --comment "demo/edge:https -> 10.244.1.5:8443" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-FFRMLP5EMLNYXPZ3
        nat KUBE-SVC-F5MOWLRDBZEMUTAQ -m comment --comment "demo/edge:https -> 10.244.2.6:8443" -j KUBE-SEP-WXBIET3RATLSAP3I
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -s 10.244.0.0/16 -m comment --comment "pod traffic for demo/edge:https external destinations" -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -m comment --comment "masquerade LOCAL traffic for demo/edge:https external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
        nat KUBE-EXT-F5MOWLRDBZEMUTAQ -m comment --comment "route LOCAL traffic for demo/edge:https external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 203.0.113.0/24 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 192.0.2.0/24 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -s 198.51.100.20/32 -m comment --comment "demo/edge:https loadbalancer IP" -j KUBE-EXT-F5MOWLRDBZEMUTAQ
        nat KUBE-FW-F5MOWLRDBZEMUTAQ -m comment --comment "other traffic to demo/edge:https will be dropped by KUBE-PROXY-FIREWALL"
        nat KUBE-SEP-FFRMLP5EMLNYXPZ3 -s 10.244.1.5/32 -m comment --comment "demo/edge:https" -j KUBE-MARK-MASQ
        nat KUBE-SEP-FFRMLP5EMLNYXPZ3 -p tcp -m comment --comment "demo/edge:https" -m tcp -j DNAT --to-destination 10.244.1.5:8443
        nat KUBE-SEP-WXBIET3RATLSAP3I -s 10.244.2.6/32 -m comment --comment "demo/edge:https" -j KUBE-MARK-MASQ
        nat KUBE-SEP-WXBIET3RATLSAP3I -p tcp -m comment --comment "demo/edge:https" -m tcp -j DNAT --to-destination 10.244.2.6:8443
    "#]],
    );
}

#[test]
fn example_d_no_endpoints() {
    let empty = service("10.96.0.80:53").over(Protocol::Udp).node_port(30053).external("203.0.113.77");
    check(
        vec![("demo/empty:dns", empty.vip("198.51.100.21").to(&["10.244.1.1:53 unready"]))],
        expect![[r#"
        filter KUBE-SERVICES -d 10.96.0.80/32 -p udp -m comment --comment "demo/empty:dns has no endpoints" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -d 203.0.113.77/32 -p udp -m comment --comment "demo/empty:dns has no endpoints" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -d 198.51.100.21/32 -p udp -m comment --comment "demo/empty:dns has no endpoints" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -p udp -m comment --comment "demo/empty:dns has no endpoints" -m addrtype --dst-type LOCAL -m udp --dport 30053 -j REJECT --reject-with icmp-port-unreachable
    "#]],
    );
}

#[test]
fn a_health_check_port_is_open_without_endpoints_and_with_few_node_port_addresses() {
    let node = NodeConfig { node_port_addresses: NodePortAddresses::Only(vec![ip("192.0.2.10")]), ..node() };
    let added = added(vec![("demo/edge", service("10.96.0.1:80").health_check(31000))], &node);
    assert!(added.contains("filter KUBE-NODEPORTS -p tcp") && added.contains("--dport 31000 -j ACCEPT"), "{added}");
}

#[test]
fn ipv6_writes_addresses_in_brackets_and_long_masks() {
    let web = service("[fd00:10:96::5]:80").node_port(30080).sticky(60).to(&["[fd00:10:244::7]:8080"]);
    let node = NodeConfig { local_traffic: LocalTraffic::Cidr("fd00:10:244::/56".parse().unwrap()), ..node() };
    expect![[r#"
        nat KUBE-NODEPORTS -p tcp -m comment --comment "demo/web:http" -m tcp --dport 30080 -j KUBE-EXT-XRY76EGRC3BSCIIJ
        nat KUBE-SERVICES -d fd00:10:96::5/128 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ
        nat KUBE-SVC-XRY76EGRC3BSCIIJ ! -s fd00:10:244::/56 -d fd00:10:96::5/128 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> [fd00:10:244::7]:8080" -m recent --rcheck --seconds 60 --reap --name KUBE-SEP-XJAYGHF4UL7WMD6N --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource -j KUBE-SEP-XJAYGHF4UL7WMD6N
        nat KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> [fd00:10:244::7]:8080" -j KUBE-SEP-XJAYGHF4UL7WMD6N
        nat KUBE-EXT-XRY76EGRC3BSCIIJ -m comment --comment "masquerade traffic for demo/web:http external destinations" -j KUBE-MARK-MASQ
        nat KUBE-EXT-XRY76EGRC3BSCIIJ -j KUBE-SVC-XRY76EGRC3BSCIIJ
        nat KUBE-SEP-XJAYGHF4UL7WMD6N -s fd00:10:244::7/128 -m comment --comment "demo/web:http" -j KUBE-MARK-MASQ
        nat KUBE-SEP-XJAYGHF4UL7WMD6N -p tcp -m comment --comment "demo/web:http" -m recent --set --name KUBE-SEP-XJAYGHF4UL7WMD6N --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource -m tcp -j DNAT --to-destination [fd00:10:244::7]:8080
    "#]].assert_eq(&added(vec![("demo/web:http", web)], &node));
}

#[test]
fn a_pod_range_of_the_other_family_is_no_pod_range() {
    let web = service("[fd00:10:96::5]:80").to(&["[fd00:10:244::7]:8080"]);
    assert!(!added(vec![("demo/web:http", web)], &node()).contains("10.244"));
}

#[test]
fn one_port_number_of_three_protocols_is_three_services() {
    let over = |protocol| service("10.96.0.53:53").over(protocol).to(&["10.244.1.2:53"]);
    check(
        vec![
            ("demo/dns:sctp", over(Protocol::Sctp)),
            ("demo/dns:tcp", over(Protocol::Tcp)),
            ("demo/dns:udp", over(Protocol::Udp)),
        ],
        expect![[r#"
            nat KUBE-SERVICES -d 10.96.0.53/32 -p sctp -m comment --comment "demo/dns:sctp cluster IP" -m sctp --dport 53 -j KUBE-SVC-NSFU42K4KIGQSRCN
            nat KUBE-SERVICES -d 10.96.0.53/32 -p tcp -m comment --comment "demo/dns:tcp cluster IP" -m tcp --dport 53 -j KUBE-SVC-3BK5KSZH2PY2GVHM
            nat KUBE-SERVICES -d 10.96.0.53/32 -p udp -m comment --comment "demo/dns:udp cluster IP" -m udp --dport 53 -j KUBE-SVC-QWIKOTM3TD4ME7LL
            nat KUBE-SVC-NSFU42K4KIGQSRCN ! -s 10.244.0.0/16 -d 10.96.0.53/32 -p sctp -m comment --comment "demo/dns:sctp cluster IP" -m sctp --dport 53 -j KUBE-MARK-MASQ
            nat KUBE-SVC-NSFU42K4KIGQSRCN -m comment --comment "demo/dns:sctp -> 10.244.1.2:53" -j KUBE-SEP-GJSO634KL2RXGHWU
            nat KUBE-SEP-GJSO634KL2RXGHWU -s 10.244.1.2/32 -m comment --comment "demo/dns:sctp" -j KUBE-MARK-MASQ
            nat KUBE-SEP-GJSO634KL2RXGHWU -p sctp -m comment --comment "demo/dns:sctp" -m sctp -j DNAT --to-destination 10.244.1.2:53
            nat KUBE-SVC-3BK5KSZH2PY2GVHM ! -s 10.244.0.0/16 -d 10.96.0.53/32 -p tcp -m comment --comment "demo/dns:tcp cluster IP" -m tcp --dport 53 -j KUBE-MARK-MASQ
            nat KUBE-SVC-3BK5KSZH2PY2GVHM -m comment --comment "demo/dns:tcp -> 10.244.1.2:53" -j KUBE-SEP-Y6QSLKHTTIJZVFGP
            nat KUBE-SEP-Y6QSLKHTTIJZVFGP -s 10.244.1.2/32 -m comment --comment "demo/dns:tcp" -j KUBE-MARK-MASQ
            nat KUBE-SEP-Y6QSLKHTTIJZVFGP -p tcp -m comment --comment "demo/dns:tcp" -m tcp -j DNAT --to-destination 10.244.1.2:53
            nat KUBE-SVC-QWIKOTM3TD4ME7LL ! -s 10.244.0.0/16 -d 10.96.0.53/32 -p udp -m comment --comment "demo/dns:udp cluster IP" -m udp --dport 53 -j KUBE-MARK-MASQ
            nat KUBE-SVC-QWIKOTM3TD4ME7LL -m comment --comment "demo/dns:udp -> 10.244.1.2:53" -j KUBE-SEP-HEZ5XOL7RONXHX4K
            nat KUBE-SEP-HEZ5XOL7RONXHX4K -s 10.244.1.2/32 -m comment --comment "demo/dns:udp" -j KUBE-MARK-MASQ
            nat KUBE-SEP-HEZ5XOL7RONXHX4K -p udp -m comment --comment "demo/dns:udp" -m udp -j DNAT --to-destination 10.244.1.2:53
        "#]],
    );
}

#[test]
fn an_internal_local_policy_drops_when_endpoints_are_elsewhere() {
    let elsewhere = service("10.96.0.1:80").internal_local().to(&["10.244.2.9:80"]);
    check(
        vec![("demo/here", elsewhere)],
        expect![[r#"
        filter KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/here has no local endpoints" -m tcp --dport 80 -j DROP
    "#]],
    );
}

#[test]
fn an_internal_local_policy_uses_what_is_here() {
    let here = service("10.96.0.1:80").internal_local().to(&["10.244.1.9:80 local", "10.244.2.9:80"]);
    check(
        vec![("demo/here", here)],
        expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/here cluster IP" -m tcp --dport 80 -j KUBE-SVL-EXOZMTTI2KYDKLCS
        nat KUBE-SVL-EXOZMTTI2KYDKLCS ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "demo/here cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVL-EXOZMTTI2KYDKLCS -m comment --comment "demo/here -> 10.244.1.9:80" -j KUBE-SEP-37JAVBP3Y4ZW3I2C
        nat KUBE-SEP-37JAVBP3Y4ZW3I2C -s 10.244.1.9/32 -m comment --comment "demo/here" -j KUBE-MARK-MASQ
        nat KUBE-SEP-37JAVBP3Y4ZW3I2C -p tcp -m comment --comment "demo/here" -m tcp -j DNAT --to-destination 10.244.1.9:80
    "#]],
    );
}

#[test]
fn both_policies_local_with_an_external_ip() {
    let both = service("10.96.0.1:80").internal_local().external_local().external("203.0.113.1");
    check(
        vec![("demo/both", both.to(&["10.244.1.9:80 local", "10.244.2.9:80"]))],
        expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/both cluster IP" -m tcp --dport 80 -j KUBE-SVL-OJWUBDIO5GBKHBM7
        nat KUBE-SERVICES -d 203.0.113.1/32 -p tcp -m comment --comment "demo/both external IP" -m tcp --dport 80 -j KUBE-EXT-OJWUBDIO5GBKHBM7
        nat KUBE-SVC-OJWUBDIO5GBKHBM7 -m comment --comment "demo/both -> 10.244.1.9:80" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-IUFF4JG6ZODPWCMH
        nat KUBE-SVC-OJWUBDIO5GBKHBM7 -m comment --comment "demo/both -> 10.244.2.9:80" -j KUBE-SEP-RZPXJFPYIPEOJYWI
        nat KUBE-SVL-OJWUBDIO5GBKHBM7 ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "demo/both cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVL-OJWUBDIO5GBKHBM7 -m comment --comment "demo/both -> 10.244.1.9:80" -j KUBE-SEP-IUFF4JG6ZODPWCMH
        nat KUBE-EXT-OJWUBDIO5GBKHBM7 -s 10.244.0.0/16 -m comment --comment "pod traffic for demo/both external destinations" -j KUBE-SVC-OJWUBDIO5GBKHBM7
        nat KUBE-EXT-OJWUBDIO5GBKHBM7 -m comment --comment "masquerade LOCAL traffic for demo/both external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
        nat KUBE-EXT-OJWUBDIO5GBKHBM7 -m comment --comment "route LOCAL traffic for demo/both external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-OJWUBDIO5GBKHBM7
        nat KUBE-EXT-OJWUBDIO5GBKHBM7 -j KUBE-SVL-OJWUBDIO5GBKHBM7
        nat KUBE-SEP-IUFF4JG6ZODPWCMH -s 10.244.1.9/32 -m comment --comment "demo/both" -j KUBE-MARK-MASQ
        nat KUBE-SEP-IUFF4JG6ZODPWCMH -p tcp -m comment --comment "demo/both" -m tcp -j DNAT --to-destination 10.244.1.9:80
        nat KUBE-SEP-RZPXJFPYIPEOJYWI -s 10.244.2.9/32 -m comment --comment "demo/both" -j KUBE-MARK-MASQ
        nat KUBE-SEP-RZPXJFPYIPEOJYWI -p tcp -m comment --comment "demo/both" -m tcp -j DNAT --to-destination 10.244.2.9:80
    "#]],
    );
}

#[test]
fn masquerade_all_marks_pods_too_and_no_detector_marks_nothing() {
    let web = || vec![("demo/web", service("10.96.0.1:80").to(&["10.244.1.9:80"]))];
    let all = NodeConfig { masquerade_all: true, ..node() };
    let blind = NodeConfig { local_traffic: LocalTraffic::Unknown, ..node() };
    expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-YTGZ2JEENUBCE3T3
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.1.9:80" -j KUBE-SEP-SYK7WUOODWKEDT7L
        nat KUBE-SEP-SYK7WUOODWKEDT7L -s 10.244.1.9/32 -m comment --comment "demo/web" -j KUBE-MARK-MASQ
        nat KUBE-SEP-SYK7WUOODWKEDT7L -p tcp -m comment --comment "demo/web" -m tcp -j DNAT --to-destination 10.244.1.9:80
    "#]].assert_eq(&added(web(), &all));
    expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-YTGZ2JEENUBCE3T3
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.1.9:80" -j KUBE-SEP-SYK7WUOODWKEDT7L
        nat KUBE-SEP-SYK7WUOODWKEDT7L -s 10.244.1.9/32 -m comment --comment "demo/web" -j KUBE-MARK-MASQ
        nat KUBE-SEP-SYK7WUOODWKEDT7L -p tcp -m comment --comment "demo/web" -m tcp -j DNAT --to-destination 10.244.1.9:80
    "#]].assert_eq(&added(web(), &blind));
}

#[test]
fn pods_can_be_known_by_their_interface() {
    let rules = |local_traffic| {
        let edge = service("10.96.0.1:80").node_port(30080).external_local().to(&["10.244.1.9:80 local"]);
        let added = added(vec![("demo/web", edge)], &NodeConfig { local_traffic, ..node() });
        added.lines().filter(|line| line.contains(" -i ")).map(|line| line.to_owned() + "\n").collect::<String>()
    };
    expect![[r#"
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -d 10.96.0.1/32 ! -i cni0 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-EXT-YTGZ2JEENUBCE3T3 -i cni0 -m comment --comment "pod traffic for demo/web external destinations" -j KUBE-SVC-YTGZ2JEENUBCE3T3
    "#]].assert_eq(&rules(LocalTraffic::Bridge(InterfaceName::new("cni0").unwrap())));
    expect![[r#"
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -d 10.96.0.1/32 ! -i veth+ -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-EXT-YTGZ2JEENUBCE3T3 -i veth+ -m comment --comment "pod traffic for demo/web external destinations" -j KUBE-SVC-YTGZ2JEENUBCE3T3
    "#]].assert_eq(&rules(LocalTraffic::InterfacePrefix(InterfaceName::new("veth").unwrap())));
}

#[test]
fn node_ports_on_chosen_addresses_leave_localhost_out_where_it_is_off() {
    let tail = |family, addresses: &[&str], localhost_node_ports| {
        let addresses = NodePortAddresses::Only(addresses.iter().map(|text| ip(text)).collect());
        let node = NodeConfig { node_port_addresses: addresses, localhost_node_ports, ..node() };
        let rules = Ruleset::render(&Model::new(family), &node).dispatch(Dispatch::NatServices).rules;
        let text = rules.iter().map(|rule| rule.as_str().rsplit_once("chain\" ").unwrap().1.to_owned() + "\n");
        text.collect::<String>()
    };
    let addresses = ["127.0.0.1", "192.0.2.10", "::1", "2001:db8::10"];
    expect![[r#"
        -d 127.0.0.1 -j KUBE-NODEPORTS
        -d 192.0.2.10 -j KUBE-NODEPORTS
    "#]]
    .assert_eq(&tail(Family::V4, &addresses, true));
    expect![[r#"
        -d 192.0.2.10 -j KUBE-NODEPORTS
    "#]]
    .assert_eq(&tail(Family::V4, &addresses, false));
    expect![[r#"
        -d 2001:db8::10 -j KUBE-NODEPORTS
    "#]]
    .assert_eq(&tail(Family::V6, &addresses, true));
}

#[test]
fn settings_change_the_fixed_rules() {
    let node = NodeConfig {
        conntrack_liberal: true,
        random_fully: false,
        masquerade_bit: 5,
        localhost_node_ports: false,
        ..node()
    };
    expect![[r#"
        nat KUBE-POSTROUTING -m mark ! --mark 0x20/0x20 -j RETURN
        nat KUBE-POSTROUTING -j MARK --set-xmark 0x20/0x0
        nat KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE
        nat KUBE-MARK-MASQ -j MARK --set-xmark 0x20/0x20
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x20/0x20 -j ACCEPT
        filter KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        nat KUBE-SERVICES ! -d 127.0.0.0/8 -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#]].assert_eq(&lines(&Ruleset::render(&Model::new(Family::V4), &node)).join("\n"));
}

#[test]
fn counters_are_named_only_where_they_exist() {
    let node = NodeConfig { nfacct: true, ..node() };
    let web = service("10.96.0.1:80").node_port(30080).to(&["10.244.1.9:80"]);
    let ruleset = Ruleset::render(&model(vec![("demo/web", web)]), &node);
    let counted: Vec<_> = lines(&ruleset).into_iter().filter(|line| line.contains("nfacct")).collect();
    expect![[r#"
        filter KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name  ct_state_invalid_dropped_pkts -j DROP
        nat KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "demo/web" -m tcp --dport 30080 -m nfacct --nfacct-name  localhost_nps_accepted_pkts -j KUBE-EXT-YTGZ2JEENUBCE3T3"#]].assert_eq(&counted.join("\n"));
}

#[test]
fn a_large_cluster_has_no_comments_on_the_way_to_endpoints() {
    let node = NodeConfig { large_cluster_threshold: 1, ..node() };
    let web = service("10.96.0.1:80").sticky(60).to(&["10.244.1.9:80", "10.244.1.10:80"]);
    expect![[r#"
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-YTGZ2JEENUBCE3T3
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 ! -s 10.244.0.0/16 -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -m recent --rcheck --seconds 60 --reap --name KUBE-SEP-FEGP4QFBWYZF6S2M --mask 255.255.255.255 --rsource -j KUBE-SEP-FEGP4QFBWYZF6S2M
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -m recent --rcheck --seconds 60 --reap --name KUBE-SEP-SYK7WUOODWKEDT7L --mask 255.255.255.255 --rsource -j KUBE-SEP-SYK7WUOODWKEDT7L
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-FEGP4QFBWYZF6S2M
        nat KUBE-SVC-YTGZ2JEENUBCE3T3 -j KUBE-SEP-SYK7WUOODWKEDT7L
        nat KUBE-SEP-FEGP4QFBWYZF6S2M -s 10.244.1.10/32 -j KUBE-MARK-MASQ
        nat KUBE-SEP-FEGP4QFBWYZF6S2M -p tcp -m recent --set --name KUBE-SEP-FEGP4QFBWYZF6S2M --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.10:80
        nat KUBE-SEP-SYK7WUOODWKEDT7L -s 10.244.1.9/32 -j KUBE-MARK-MASQ
        nat KUBE-SEP-SYK7WUOODWKEDT7L -p tcp -m recent --set --name KUBE-SEP-SYK7WUOODWKEDT7L --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.1.9:80
    "#]].assert_eq(&added(vec![("demo/web", web)], &node));
}

#[test]
fn rules_are_counted_as_upstream_counts_them() {
    let count = |endpoints: &[&str]| {
        let ruleset = Ruleset::render(&model(vec![("demo/web", service("10.96.0.1:80").to(endpoints))]), &node());
        (ruleset.rule_count(Table::Filter), ruleset.rule_count(Table::Nat))
    };
    let empty = Ruleset::render(&Model::new(Family::V4), &node());
    assert_eq!((empty.rule_count(Table::Filter), empty.rule_count(Table::Nat)), (4, 5));
    assert_eq!(count(&[]), (5, 5));
    assert_eq!(count(&["10.244.1.1:80"]), (4, 5 + 5));
    assert_eq!(count(&["10.244.1.1:80", "10.244.1.2:80", "10.244.1.3:80"]), (4, 5 + 11));
}

#[test]
fn probabilities_fall_strictly_to_the_last_of_a_hundred_thousand() {
    let chance = |n: u32| format!("{:.10}", 1.0 / f64::from(n));
    assert_eq!((chance(2), chance(3)), ("0.5000000000".to_owned(), "0.3333333333".to_owned()));
    assert!((2..100_000).all(|n| chance(n) > chance(n + 1)));
}

#[test]
fn a_service_that_did_not_change_is_not_rendered_again() {
    let web = || service("10.96.0.1:80").to(&["10.244.1.9:80"]);
    let old = Ruleset::render(&model(vec![("demo/a", web())]), &node());
    let new = model(vec![("demo/a", web()), ("demo/b", service("10.96.0.2:80"))]);
    let next = old.next(&new, &node());
    assert!(Arc::ptr_eq(old.services.values().next().unwrap(), next.services.values().next().unwrap()));
    assert_eq!(next, Ruleset::render(&new, &node()));
    let other = NodeConfig { masquerade_all: true, ..node() };
    assert_eq!(old.next(&new, &other), Ruleset::render(&new, &other));
}

#[test]
fn rules_whose_text_was_let_go_of_are_the_same() {
    let web = |port: u16| service("10.96.0.50:80").node_port(port).to(&["10.244.1.7:8080", "10.244.2.9:8080"]);
    let old =
        Ruleset::render(&model(vec![("demo/web:http", web(30001)), ("demo/other", service("10.96.0.51:80"))]), &node());
    let mut forgetful = old.clone();
    forgetful.forget_text();
    let mut alone =
        Ruleset::render(&model(vec![("demo/web:http", web(30001)), ("demo/other", service("10.96.0.51:80"))]), &node());
    alone.forget_text();
    let new = |from: &Ruleset| from.next(&model(vec![("demo/web:http", web(30002))]), &node());
    for other in [&forgetful, &alone] {
        assert_eq!(*other, old);
        assert_eq!(other.chains(), old.chains());
        let counts = [Table::Nat, Table::Filter].map(|table| other.rule_count(table));
        assert_eq!(counts, [Table::Nat, Table::Filter].map(|table| old.rule_count(table)));
        let change = |from: &Ruleset| crate::Transaction::between(from, &new(from)).text();
        assert_eq!(change(other), change(&old));
    }
}

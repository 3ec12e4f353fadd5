//! Which endpoints have chains: readiness, policies, hints, several ports, both families.

use super::*;

/// The chains of the services, each with what its rules lead to.
fn check_ways(services: Vec<(&str, ServicePort)>, node: &NodeConfig, ways: Expect) {
    let added = added(services, node);
    let short = |line: &str| {
        let (place, rule) = line.split_once(" -").unwrap_or((line, ""));
        let comment = rule.split_once("--comment \"").and_then(|(_, rest)| rest.split_once('"')).map_or("", |c| c.0);
        let target = line.rsplit_once("-j ").map_or("", |(_, target)| target);
        format!("{place} [{comment}] {target}\n")
    };
    let lines: String =
        added.lines().filter(|line| !line.contains("KUBE-SEP-") || line.contains("KUBE-SV")).map(short).collect();
    ways.assert_eq(&lines);
}

#[test]
fn endpoints_that_are_being_stopped_serve_when_nobody_else_does() {
    let last =
        service("10.96.0.1:80").to(&["10.244.1.9:80 terminating", "10.244.2.9:80 dead", "10.244.3.9:80 unready"]);
    check_ways(
        vec![("demo/last", last)],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/last cluster IP] KUBE-SVC-BHSCHAPPHGXLPJ2V
        nat KUBE-SVC-BHSCHAPPHGXLPJ2V ! [demo/last cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-BHSCHAPPHGXLPJ2V [demo/last -> 10.244.1.9:80] KUBE-SEP-N6A3DJ2MG5EDPW42
    "#]],
    );
    let others = service("10.96.0.1:80").to(&["10.244.1.9:80 terminating", "10.244.2.9:80"]);
    check_ways(
        vec![("demo/others", others)],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/others cluster IP] KUBE-SVC-WZR2I2I2HFCF2PLF
        nat KUBE-SVC-WZR2I2I2HFCF2PLF ! [demo/others cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-WZR2I2I2HFCF2PLF [demo/others -> 10.244.2.9:80] KUBE-SEP-RARLWL3MRNZVZBNO
    "#]],
    );
    let gone = service("10.96.0.1:80").to(&["10.244.2.9:80 dead", "10.244.3.9:80 unready"]);
    check_ways(
        vec![("demo/gone", gone)],
        &node(),
        expect![[r#"
        filter KUBE-SERVICES [demo/gone has no endpoints] REJECT --reject-with icmp-port-unreachable
    "#]],
    );
}

#[test]
fn each_policy_falls_back_by_itself() {
    let endpoints = ["10.244.1.9:80 local terminating", "10.244.2.9:80"];
    let outside = service("10.96.0.1:80").node_port(30080).external_local().to(&endpoints);
    check_ways(
        vec![("demo/outside", outside)],
        &node(),
        expect![[r#"
            nat KUBE-NODEPORTS [demo/outside] KUBE-EXT-IJ5IOT6QMEZUBCUE
            nat KUBE-SERVICES [demo/outside cluster IP] KUBE-SVC-IJ5IOT6QMEZUBCUE
            nat KUBE-SVC-IJ5IOT6QMEZUBCUE ! [demo/outside cluster IP] KUBE-MARK-MASQ
            nat KUBE-SVC-IJ5IOT6QMEZUBCUE [demo/outside -> 10.244.2.9:80] KUBE-SEP-YEFIL4A6GC62A7YB
            nat KUBE-SVL-IJ5IOT6QMEZUBCUE [demo/outside -> 10.244.1.9:80] KUBE-SEP-WVE5CE6RZEOXICN2
            nat KUBE-EXT-IJ5IOT6QMEZUBCUE [pod traffic for demo/outside external destinations] KUBE-SVC-IJ5IOT6QMEZUBCUE
            nat KUBE-EXT-IJ5IOT6QMEZUBCUE [masquerade LOCAL traffic for demo/outside external destinations] KUBE-MARK-MASQ
            nat KUBE-EXT-IJ5IOT6QMEZUBCUE [route LOCAL traffic for demo/outside external destinations] KUBE-SVC-IJ5IOT6QMEZUBCUE
            nat KUBE-EXT-IJ5IOT6QMEZUBCUE [] KUBE-SVL-IJ5IOT6QMEZUBCUE
        "#]],
    );
    let inside = service("10.96.0.1:80").internal_local().to(&endpoints);
    check_ways(
        vec![("demo/inside", inside)],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/inside cluster IP] KUBE-SVL-ZQZZLCEVMUBPBFDP
        nat KUBE-SVL-ZQZZLCEVMUBPBFDP ! [demo/inside cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVL-ZQZZLCEVMUBPBFDP [demo/inside -> 10.244.1.9:80] KUBE-SEP-VKBFKAXAGV6HHS76
    "#]],
    );
}

#[test]
fn hints_keep_traffic_in_the_zone_or_on_the_node() {
    let zones = ["10.244.1.9:80 zone=a", "10.244.2.9:80 zone=b", "10.244.3.9:80 zone=a"];
    check_ways(
        vec![("demo/zone", service("10.96.0.1:80").to(&zones))],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/zone cluster IP] KUBE-SVC-XV6NKUHPE4RKBZUZ
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ ! [demo/zone cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ [demo/zone -> 10.244.1.9:80] KUBE-SEP-6KS2FE75V34D5T3I
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ [demo/zone -> 10.244.3.9:80] KUBE-SEP-6VC2RSNA3K7G5C3S
    "#]],
    );
    let nodes = ["10.244.1.9:80 zone=a node=n1", "10.244.2.9:80 zone=a node=n2"];
    check_ways(
        vec![("demo/node", service("10.96.0.1:80").to(&nodes))],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/node cluster IP] KUBE-SVC-2KTDUPMEN2TIWC4Q
        nat KUBE-SVC-2KTDUPMEN2TIWC4Q ! [demo/node cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-2KTDUPMEN2TIWC4Q [demo/node -> 10.244.1.9:80] KUBE-SEP-BKLH2IBRUOLUQ5VW
    "#]],
    );
    let half = ["10.244.1.9:80 zone=a", "10.244.2.9:80"];
    check_ways(
        vec![("demo/half", service("10.96.0.1:80").to(&half))],
        &node(),
        expect![[r#"
        nat KUBE-SERVICES [demo/half cluster IP] KUBE-SVC-CPP3HSTRTPSORESB
        nat KUBE-SVC-CPP3HSTRTPSORESB ! [demo/half cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-CPP3HSTRTPSORESB [demo/half -> 10.244.1.9:80] KUBE-SEP-FBASI32BBNE72HZD
        nat KUBE-SVC-CPP3HSTRTPSORESB [demo/half -> 10.244.2.9:80] KUBE-SEP-3GYGKOZ72V3OPUJK
    "#]],
    );
    let nowhere = NodeConfig { zone: None, ..node() };
    check_ways(
        vec![("demo/zone", service("10.96.0.1:80").to(&zones[..2]))],
        &nowhere,
        expect![[r#"
        nat KUBE-SERVICES [demo/zone cluster IP] KUBE-SVC-XV6NKUHPE4RKBZUZ
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ ! [demo/zone cluster IP] KUBE-MARK-MASQ
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ [demo/zone -> 10.244.1.9:80] KUBE-SEP-6KS2FE75V34D5T3I
        nat KUBE-SVC-XV6NKUHPE4RKBZUZ [demo/zone -> 10.244.2.9:80] KUBE-SEP-QPKQR3C3AGBJB4WD
    "#]],
    );
}

#[test]
fn hints_do_not_bind_the_local_policy() {
    let endpoints = ["10.244.1.9:80 local zone=b", "10.244.2.9:80 zone=a"];
    let outside = service("10.96.0.1:80").node_port(30080).external_local().to(&endpoints);
    check_ways(
        vec![("demo/web", outside)],
        &node(),
        expect![[r#"
            nat KUBE-NODEPORTS [demo/web] KUBE-EXT-YTGZ2JEENUBCE3T3
            nat KUBE-SERVICES [demo/web cluster IP] KUBE-SVC-YTGZ2JEENUBCE3T3
            nat KUBE-SVC-YTGZ2JEENUBCE3T3 ! [demo/web cluster IP] KUBE-MARK-MASQ
            nat KUBE-SVC-YTGZ2JEENUBCE3T3 [demo/web -> 10.244.2.9:80] KUBE-SEP-SIXCKMWAUS52YFMI
            nat KUBE-SVL-YTGZ2JEENUBCE3T3 [demo/web -> 10.244.1.9:80] KUBE-SEP-SYK7WUOODWKEDT7L
            nat KUBE-EXT-YTGZ2JEENUBCE3T3 [pod traffic for demo/web external destinations] KUBE-SVC-YTGZ2JEENUBCE3T3
            nat KUBE-EXT-YTGZ2JEENUBCE3T3 [masquerade LOCAL traffic for demo/web external destinations] KUBE-MARK-MASQ
            nat KUBE-EXT-YTGZ2JEENUBCE3T3 [route LOCAL traffic for demo/web external destinations] KUBE-SVC-YTGZ2JEENUBCE3T3
            nat KUBE-EXT-YTGZ2JEENUBCE3T3 [] KUBE-SVL-YTGZ2JEENUBCE3T3
        "#]],
    );
}

#[test]
fn every_port_of_a_service_has_chains_and_endpoints_of_its_own() {
    let http = service("10.96.0.1:80").node_port(30080).to(&["10.244.1.9:8080", "10.244.2.9:8081"]);
    let metrics = service("10.96.0.1:9090").to(&["10.244.1.9:9100"]);
    let dns = service("10.96.0.1:53").over(Protocol::Udp).to(&[]);
    check_ways(
        vec![("demo/web:http", http), ("demo/web:metrics", metrics), ("demo/web:dns", dns)],
        &node(),
        expect![[r#"
            filter KUBE-SERVICES [demo/web:dns has no endpoints] REJECT --reject-with icmp-port-unreachable
            nat KUBE-NODEPORTS [demo/web:http] KUBE-EXT-XRY76EGRC3BSCIIJ
            nat KUBE-SERVICES [demo/web:http cluster IP] KUBE-SVC-XRY76EGRC3BSCIIJ
            nat KUBE-SERVICES [demo/web:metrics cluster IP] KUBE-SVC-ORF5GFHX7ZDCBIXV
            nat KUBE-SVC-XRY76EGRC3BSCIIJ ! [demo/web:http cluster IP] KUBE-MARK-MASQ
            nat KUBE-SVC-XRY76EGRC3BSCIIJ [demo/web:http -> 10.244.1.9:8080] KUBE-SEP-6DCN6FJGTNSR32SA
            nat KUBE-SVC-XRY76EGRC3BSCIIJ [demo/web:http -> 10.244.2.9:8081] KUBE-SEP-LR5I74CPREPOL6PZ
            nat KUBE-EXT-XRY76EGRC3BSCIIJ [masquerade traffic for demo/web:http external destinations] KUBE-MARK-MASQ
            nat KUBE-EXT-XRY76EGRC3BSCIIJ [] KUBE-SVC-XRY76EGRC3BSCIIJ
            nat KUBE-SVC-ORF5GFHX7ZDCBIXV ! [demo/web:metrics cluster IP] KUBE-MARK-MASQ
            nat KUBE-SVC-ORF5GFHX7ZDCBIXV [demo/web:metrics -> 10.244.1.9:9100] KUBE-SEP-N4PS2LFCZQWPTD35
        "#]],
    );
}

#[test]
fn a_load_balancer_of_both_families_has_the_same_rules_in_each() {
    let edge = |address: &str, external: &str, vip: &str, range: &str, endpoint: &str| {
        service(address).external(external).vip(vip).from(&[range]).to(&[endpoint])
    };
    let names = |text: String| {
        text.split_whitespace().filter(|word| word.starts_with("KUBE-")).map(str::to_owned).collect::<Vec<_>>()
    };
    let four = edge("10.96.0.1:80", "203.0.113.1", "198.51.100.1", "192.0.2.0/24", "10.244.1.9:80");
    let six = edge("[fd00::1]:80", "2001:db8::1", "2001:db8::2", "2001:db8::/64", "[fd00:244::9]:80");
    let six_node = NodeConfig { local_traffic: LocalTraffic::Cidr("fd00:244::/56".parse().unwrap()), ..node() };
    let (four, six) = (added(vec![("demo/edge", four)], &node()), added(vec![("demo/edge", six)], &six_node));
    let without_endpoints =
        |names: Vec<String>| -> Vec<String> { names.into_iter().filter(|name| !name.contains("-SEP-")).collect() };
    assert_eq!(without_endpoints(names(four)), without_endpoints(names(six.clone())));
    expect![[r#"
        filter KUBE-PROXY-FIREWALL -d 2001:db8::2/128 -p tcp -m comment --comment "demo/edge traffic not accepted by KUBE-FW-AUJEJDKZN4Q225OT" -m tcp --dport 80 -j DROP
        nat KUBE-SERVICES -d fd00::1/128 -p tcp -m comment --comment "demo/edge cluster IP" -m tcp --dport 80 -j KUBE-SVC-AUJEJDKZN4Q225OT
        nat KUBE-SERVICES -d 2001:db8::1/128 -p tcp -m comment --comment "demo/edge external IP" -m tcp --dport 80 -j KUBE-EXT-AUJEJDKZN4Q225OT
        nat KUBE-SERVICES -d 2001:db8::2/128 -p tcp -m comment --comment "demo/edge loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-AUJEJDKZN4Q225OT
        nat KUBE-SVC-AUJEJDKZN4Q225OT ! -s fd00:244::/56 -d fd00::1/128 -p tcp -m comment --comment "demo/edge cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat KUBE-SVC-AUJEJDKZN4Q225OT -m comment --comment "demo/edge -> [fd00:244::9]:80" -j KUBE-SEP-BZEVP5W3M4BZD5VZ
        nat KUBE-EXT-AUJEJDKZN4Q225OT -m comment --comment "masquerade traffic for demo/edge external destinations" -j KUBE-MARK-MASQ
        nat KUBE-EXT-AUJEJDKZN4Q225OT -j KUBE-SVC-AUJEJDKZN4Q225OT
        nat KUBE-FW-AUJEJDKZN4Q225OT -s 2001:db8::/64 -m comment --comment "demo/edge loadbalancer IP" -j KUBE-EXT-AUJEJDKZN4Q225OT
        nat KUBE-FW-AUJEJDKZN4Q225OT -s 2001:db8::2/128 -m comment --comment "demo/edge loadbalancer IP" -j KUBE-EXT-AUJEJDKZN4Q225OT
        nat KUBE-FW-AUJEJDKZN4Q225OT -m comment --comment "other traffic to demo/edge will be dropped by KUBE-PROXY-FIREWALL"
        nat KUBE-SEP-BZEVP5W3M4BZD5VZ -s fd00:244::9/128 -m comment --comment "demo/edge" -j KUBE-MARK-MASQ
        nat KUBE-SEP-BZEVP5W3M4BZD5VZ -p tcp -m comment --comment "demo/edge" -m tcp -j DNAT --to-destination [fd00:244::9]:80
    "#]].assert_eq(&six);
}

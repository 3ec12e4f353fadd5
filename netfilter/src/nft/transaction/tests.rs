use super::*;
use crate::nft::{Fake, Found, Object, Ruleset};
use crate::testing::{ip, model, node, service};
use crate::{Model, NodeConfig, NodePortAddresses, ServicePort};
use expect_test::{Expect, expect};

mod properties;

fn ruleset(services: Vec<(&str, ServicePort)>) -> Ruleset {
    Ruleset::render(&model(services), &node())
}

fn fresh(ruleset: &Ruleset) -> Fake {
    let mut fake = Fake::default();
    fake.apply(&Transaction::between(&Ruleset::empty(ruleset.family()), ruleset)).unwrap();
    fake
}

/// What the services add to the table of a node without any.
#[track_caller]
fn check(services: Vec<(&str, ServicePort)>, added: Expect) {
    let ruleset = ruleset(services);
    let bare = Ruleset::render(&Model::new(ruleset.family()), &node());
    added.assert_eq(&Transaction::between(&bare, &ruleset).text());
}

#[track_caller]
fn check_change(old: Vec<(&str, ServicePort)>, new: Vec<(&str, ServicePort)>, text: Expect) {
    text.assert_eq(&Transaction::between(&ruleset(old), &ruleset(new)).text());
}

fn web(endpoints: &[&str]) -> ServicePort {
    service("10.96.0.1:80").to(endpoints)
}

#[test]
fn a_node_without_services() {
    let node = NodeConfig { service_ranges: vec!["10.96.0.0/12".parse().unwrap()], ..node() };
    let bare = Ruleset::render(&Model::new(Family::V4), &node);
    expect![[r#"
        add table ip kube-proxy { comment "rules for kube-proxy" ; }
        add set ip kube-proxy cluster-ips { type ipv4_addr ; }
        add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
        add set ip kube-proxy hairpin-connections { type ipv4_addr . ipv4_addr . inet_proto . inet_service ; }
        add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
        add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
        add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
        add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
        add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
        add chain ip kube-proxy mark-for-masquerade
        add chain ip kube-proxy reject-chain
        add chain ip kube-proxy masquerading
        add chain ip kube-proxy firewall-check
        add chain ip kube-proxy service-endpoints-check
        add chain ip kube-proxy nodeport-endpoints-check
        add chain ip kube-proxy cluster-ips-check
        add chain ip kube-proxy services
        add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
        add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
        add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
        add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
        add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
        add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
        add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
        add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
        flush chain ip kube-proxy mark-for-masquerade
        flush chain ip kube-proxy reject-chain
        flush chain ip kube-proxy masquerading
        flush chain ip kube-proxy firewall-check
        flush chain ip kube-proxy service-endpoints-check
        flush chain ip kube-proxy nodeport-endpoints-check
        flush chain ip kube-proxy cluster-ips-check
        flush chain ip kube-proxy services
        flush chain ip kube-proxy filter-prerouting-pre-dnat
        flush chain ip kube-proxy filter-output-pre-dnat
        flush chain ip kube-proxy filter-input
        flush chain ip kube-proxy filter-forward
        flush chain ip kube-proxy filter-output
        flush chain ip kube-proxy nat-prerouting
        flush chain ip kube-proxy nat-output
        flush chain ip kube-proxy nat-postrouting
        add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000
        add rule ip kube-proxy reject-chain reject
        add rule ip kube-proxy masquerading meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
        add rule ip kube-proxy masquerading ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
        add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
        add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
        add rule ip kube-proxy nodeport-endpoints-check fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports
        add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
        add rule ip kube-proxy cluster-ips-check ip daddr 10.96.0.0/12 drop
        add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
        add rule ip kube-proxy services fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @service-nodeports
        add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
        add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
        add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
        add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
        add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
        add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
        add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
        add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
        add rule ip kube-proxy nat-prerouting jump services
        add rule ip kube-proxy nat-output jump services
        add rule ip kube-proxy nat-postrouting jump masquerading
    "#]].assert_eq(&Transaction::between(&Ruleset::empty(Family::V4), &bare).text());
}

#[test]
fn a_node_without_services_and_ipv6() {
    let bare = Ruleset::render(&Model::new(Family::V6), &node());
    expect![[r#"
        set cluster-ips
        set firewall-ips
        set hairpin-connections
        set no-endpoint-nodeports
        set no-endpoint-services
        set nodeport-ips
        set service-ips
        set service-nodeports
        chain cluster-ips-check
            ip6 daddr @cluster-ips reject
        chain filter-forward { type filter hook forward priority 0 ; }
            ct state new jump service-endpoints-check
            ct state new jump cluster-ips-check
        chain filter-input { type filter hook input priority 0 ; }
            ct state new jump nodeport-endpoints-check
            ct state new jump service-endpoints-check
        chain filter-output { type filter hook output priority 0 ; }
            ct state new jump service-endpoints-check
            ct state new jump cluster-ips-check
        chain filter-output-pre-dnat { type filter hook output priority -110 ; }
            ct state new jump firewall-check
        chain filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
            ct state new jump firewall-check
        chain firewall-check
            ip6 daddr . meta l4proto . th dport vmap @firewall-ips
        chain mark-for-masquerade
            meta mark set meta mark or 0x4000
        chain masquerading
            meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
            ct status dnat ip6 saddr . ip6 daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
        chain nat-output { type nat hook output priority -100 ; }
            jump services
        chain nat-postrouting { type nat hook postrouting priority 100 ; }
            jump masquerading
        chain nat-prerouting { type nat hook prerouting priority -100 ; }
            jump services
        chain nodeport-endpoints-check
            fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @no-endpoint-nodeports
        chain reject-chain
            reject
        chain service-endpoints-check
            ip6 daddr . meta l4proto . th dport vmap @no-endpoint-services
        chain services
            ip6 daddr . meta l4proto . th dport vmap @service-ips
            fib daddr type local ip6 daddr != ::1 meta l4proto . th dport vmap @service-nodeports
    "#]]
    .assert_eq(&fresh(&bare).to_string());
}

#[test]
fn a_cluster_ip_with_two_endpoints() {
    let web = service("10.96.0.50:80").to(&["10.244.1.7:8080 local", "10.244.2.9:8080"]);
    check(
        vec![("demo/web:http", web)],
        expect![[r#"
            add chain ip kube-proxy service-AXK6CI2C-demo/web/tcp/http
            add rule ip kube-proxy service-AXK6CI2C-demo/web/tcp/http counter meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.7 . 8080, 1 : 10.244.2.9 . 8080 }
            add element ip kube-proxy cluster-ips { 10.96.0.50 }
            add element ip kube-proxy service-ips { 10.96.0.50 . tcp . 80 : goto service-AXK6CI2C-demo/web/tcp/http }
            add element ip kube-proxy hairpin-connections { 10.244.1.7 . 10.244.1.7 . tcp . 8080 }
        "#]],
    );
}

#[test]
fn a_sticky_node_port() {
    let sticky = service("10.96.0.60:9000").node_port(30900).sticky(10800).to(&["10.244.1.8:9000", "10.244.2.3:9000"]);
    check(
        vec![("demo/sticky", sticky)],
        expect![[r#"
            add set ip kube-proxy affinity-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000 { type ipv4_addr ; flags dynamic,timeout ; timeout 10800s ; }
            add set ip kube-proxy affinity-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 { type ipv4_addr ; flags dynamic,timeout ; timeout 10800s ; }
            add chain ip kube-proxy service-FLVA37E4-demo/sticky/tcp/
            add chain ip kube-proxy external-FLVA37E4-demo/sticky/tcp/
            add chain ip kube-proxy endpoint-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000
            add chain ip kube-proxy endpoint-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000
            add rule ip kube-proxy service-FLVA37E4-demo/sticky/tcp/ counter ip saddr @affinity-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000 goto endpoint-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000
            add rule ip kube-proxy service-FLVA37E4-demo/sticky/tcp/ ip saddr @affinity-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 goto endpoint-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000
            add rule ip kube-proxy service-FLVA37E4-demo/sticky/tcp/ numgen random mod 2 vmap { 0 : goto endpoint-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000, 1 : goto endpoint-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 }
            add rule ip kube-proxy external-FLVA37E4-demo/sticky/tcp/ jump mark-for-masquerade
            add rule ip kube-proxy external-FLVA37E4-demo/sticky/tcp/ goto service-FLVA37E4-demo/sticky/tcp/
            add rule ip kube-proxy endpoint-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000 update @affinity-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000 { ip saddr }
            add rule ip kube-proxy endpoint-JCJRXZAH-demo/sticky/tcp/__10.244.1.8/9000 meta l4proto tcp dnat ip to 10.244.1.8:9000
            add rule ip kube-proxy endpoint-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 update @affinity-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 { ip saddr }
            add rule ip kube-proxy endpoint-4E4KFP34-demo/sticky/tcp/__10.244.2.3/9000 meta l4proto tcp dnat ip to 10.244.2.3:9000
            add element ip kube-proxy cluster-ips { 10.96.0.60 }
            add element ip kube-proxy service-ips { 10.96.0.60 . tcp . 9000 : goto service-FLVA37E4-demo/sticky/tcp/ }
            add element ip kube-proxy service-nodeports { tcp . 30900 : goto external-FLVA37E4-demo/sticky/tcp/ }
        "#]],
    );
}

fn edge(endpoints: &[&str]) -> ServicePort {
    let edge = service("10.96.0.70:443").node_port(30443).vip("198.51.100.20").external_local();
    edge.from(&["203.0.113.0/24", "192.0.2.0/24", "192.0.2.128/25"]).to(endpoints)
}

#[test]
fn a_load_balancer_with_local_policy_and_source_ranges() {
    check(
        vec![("demo/edge:https", edge(&["10.244.1.5:8443 local", "10.244.2.6:8443"]))],
        expect![[r#"
            add chain ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https
            add chain ip kube-proxy service-LLLKJ2GE-demo/edge/tcp/https
            add chain ip kube-proxy local-LLLKJ2GE-demo/edge/tcp/https
            add chain ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https
            add rule ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https ip saddr != { 192.0.2.0/24, 203.0.113.0/24, 198.51.100.20 } drop
            add rule ip kube-proxy service-LLLKJ2GE-demo/edge/tcp/https counter meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.1.5 . 8443, 1 : 10.244.2.6 . 8443 }
            add rule ip kube-proxy local-LLLKJ2GE-demo/edge/tcp/https counter meta l4proto tcp dnat ip to 10.244.1.5:8443
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https ip saddr 10.244.0.0/16 goto service-LLLKJ2GE-demo/edge/tcp/https
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https fib saddr type local jump mark-for-masquerade
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https fib saddr type local goto service-LLLKJ2GE-demo/edge/tcp/https
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https goto local-LLLKJ2GE-demo/edge/tcp/https
            add element ip kube-proxy cluster-ips { 10.96.0.70 }
            add element ip kube-proxy service-ips { 10.96.0.70 . tcp . 443 : goto service-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy service-ips { 198.51.100.20 . tcp . 443 : goto external-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy service-nodeports { tcp . 30443 : goto external-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy firewall-ips { 198.51.100.20 . tcp . 443 : goto firewall-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy hairpin-connections { 10.244.1.5 . 10.244.1.5 . tcp . 8443 }
        "#]],
    );
}

#[test]
fn a_load_balancer_without_local_endpoints() {
    check(
        vec![("demo/edge:https", edge(&["10.244.2.6:8443"]))],
        expect![[r#"
            add chain ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https
            add chain ip kube-proxy service-LLLKJ2GE-demo/edge/tcp/https
            add chain ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https
            add rule ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https ip saddr != { 192.0.2.0/24, 203.0.113.0/24, 198.51.100.20 } drop
            add rule ip kube-proxy service-LLLKJ2GE-demo/edge/tcp/https counter meta l4proto tcp dnat ip to 10.244.2.6:8443
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https ip saddr 10.244.0.0/16 goto service-LLLKJ2GE-demo/edge/tcp/https
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https fib saddr type local jump mark-for-masquerade
            add rule ip kube-proxy external-LLLKJ2GE-demo/edge/tcp/https fib saddr type local goto service-LLLKJ2GE-demo/edge/tcp/https
            add element ip kube-proxy cluster-ips { 10.96.0.70 }
            add element ip kube-proxy service-ips { 10.96.0.70 . tcp . 443 : goto service-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy service-ips { 198.51.100.20 . tcp . 443 : goto external-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy no-endpoint-services { 198.51.100.20 . tcp . 443 : drop }
            add element ip kube-proxy service-nodeports { tcp . 30443 : goto external-LLLKJ2GE-demo/edge/tcp/https }
            add element ip kube-proxy no-endpoint-nodeports { tcp . 30443 : drop }
            add element ip kube-proxy firewall-ips { 198.51.100.20 . tcp . 443 : goto firewall-LLLKJ2GE-demo/edge/tcp/https }
        "#]],
    );
}

#[test]
fn a_load_balancer_without_endpoints_still_looks_at_sources() {
    check(
        vec![("demo/edge:https", edge(&[]))],
        expect![[r#"
        add chain ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https
        add rule ip kube-proxy firewall-LLLKJ2GE-demo/edge/tcp/https ip saddr != { 192.0.2.0/24, 203.0.113.0/24, 198.51.100.20 } drop
        add element ip kube-proxy cluster-ips { 10.96.0.70 }
        add element ip kube-proxy no-endpoint-services { 10.96.0.70 . tcp . 443 : goto reject-chain }
        add element ip kube-proxy no-endpoint-services { 198.51.100.20 . tcp . 443 : goto reject-chain }
        add element ip kube-proxy no-endpoint-nodeports { tcp . 30443 : goto reject-chain }
        add element ip kube-proxy firewall-ips { 198.51.100.20 . tcp . 443 : goto firewall-LLLKJ2GE-demo/edge/tcp/https }
    "#]],
    );
}

#[test]
fn ipv6_writes_addresses_as_nft_reads_them() {
    let web = service("[fd00:10:96::5]:80").sticky(60).to(&["[fd00:10:244::7]:8080", "[fd00:10:244::8]:8080"]);
    check(
        vec![("demo/web:http", web)],
        expect![[r#"
            add set ip6 kube-proxy affinity-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080 { type ipv6_addr ; flags dynamic,timeout ; timeout 60s ; }
            add set ip6 kube-proxy affinity-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 { type ipv6_addr ; flags dynamic,timeout ; timeout 60s ; }
            add chain ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http
            add chain ip6 kube-proxy endpoint-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080
            add chain ip6 kube-proxy endpoint-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080
            add rule ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http counter ip6 saddr @affinity-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080 goto endpoint-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080
            add rule ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http ip6 saddr @affinity-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 goto endpoint-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080
            add rule ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http numgen random mod 2 vmap { 0 : goto endpoint-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080, 1 : goto endpoint-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 }
            add rule ip6 kube-proxy endpoint-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080 update @affinity-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080 { ip6 saddr }
            add rule ip6 kube-proxy endpoint-62IRUKNH-demo/web/tcp/http__fd00.10.244..7/8080 meta l4proto tcp dnat ip6 to [fd00:10:244::7]:8080
            add rule ip6 kube-proxy endpoint-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 update @affinity-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 { ip6 saddr }
            add rule ip6 kube-proxy endpoint-JT7OAJUE-demo/web/tcp/http__fd00.10.244..8/8080 meta l4proto tcp dnat ip6 to [fd00:10:244::8]:8080
            add element ip6 kube-proxy cluster-ips { fd00:10:96::5 }
            add element ip6 kube-proxy service-ips { fd00:10:96::5 . tcp . 80 : goto service-AXK6CI2C-demo/web/tcp/http }
        "#]],
    );
    let web = service("[fd00:10:96::5]:80").to(&["[fd00:10:244::7]:8080 local"]);
    check(
        vec![("demo/web:http", web)],
        expect![[r#"
            add chain ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http
            add rule ip6 kube-proxy service-AXK6CI2C-demo/web/tcp/http counter meta l4proto tcp dnat ip6 to [fd00:10:244::7]:8080
            add element ip6 kube-proxy cluster-ips { fd00:10:96::5 }
            add element ip6 kube-proxy service-ips { fd00:10:96::5 . tcp . 80 : goto service-AXK6CI2C-demo/web/tcp/http }
            add element ip6 kube-proxy hairpin-connections { fd00:10:244::7 . fd00:10:244::7 . tcp . 8080 }
        "#]],
    );
}

#[test]
fn node_ports_on_chosen_addresses_are_a_set() {
    let addresses = NodePortAddresses::Only(vec![ip("192.0.2.10"), ip("127.0.0.1"), ip("2001:db8::1")]);
    let bare = Ruleset::render(&Model::new(Family::V4), &node());
    let chosen = bare.next(&Model::new(Family::V4), &NodeConfig { node_port_addresses: addresses, ..node() });
    expect![[r#"
        add chain ip kube-proxy nodeport-endpoints-check
        add chain ip kube-proxy services
        flush chain ip kube-proxy nodeport-endpoints-check
        flush chain ip kube-proxy services
        add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
        add rule ip kube-proxy services ip daddr @cluster-ips ip saddr != 10.244.0.0/16 jump mark-for-masquerade
        add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
        add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
        add element ip kube-proxy nodeport-ips { 192.0.2.10 }
    "#]].assert_eq(&Transaction::between(&bare, &chosen).text());
    let mut fake = fresh(&chosen);
    fake.apply(&Transaction::between(&chosen, &bare)).unwrap();
    assert_eq!(fake, fresh(&bare));
}

#[test]
fn a_new_endpoint_changes_one_rule() {
    let other = || ("demo/other", service("10.96.0.9:80").to(&["10.244.0.9:80"]));
    check_change(
        vec![other(), ("demo/web", web(&["10.244.0.1:80"]))],
        vec![other(), ("demo/web", web(&["10.244.0.1:80", "10.244.0.2:80"]))],
        expect![[r#"
            flush chain ip kube-proxy service-WUFCSIHR-demo/web/tcp/
            add chain ip kube-proxy service-WUFCSIHR-demo/web/tcp/
            add rule ip kube-proxy service-WUFCSIHR-demo/web/tcp/ counter meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.1 . 80, 1 : 10.244.0.2 . 80 }
        "#]],
    );
}

#[test]
fn the_last_endpoint_goes_and_the_refusal_comes_in_one_instant() {
    check_change(
        vec![("demo/web", web(&["10.244.0.1:80"]))],
        vec![("demo/web", web(&[]))],
        expect![[r#"
        delete element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 }
        flush chain ip kube-proxy service-WUFCSIHR-demo/web/tcp/
        add element ip kube-proxy no-endpoint-services { 10.96.0.1 . tcp . 80 : goto reject-chain }
        delete chain ip kube-proxy service-WUFCSIHR-demo/web/tcp/
    "#]],
    );
}

#[test]
fn an_address_moves_from_one_service_to_another() {
    check_change(
        vec![("demo/b", web(&["10.244.0.1:80"]))],
        vec![("demo/a", web(&["10.244.0.1:80"]))],
        expect![[r#"
            delete element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 }
            add chain ip kube-proxy service-PTG6YQRO-demo/a/tcp/
            flush chain ip kube-proxy service-PLOERIZ3-demo/b/tcp/
            add rule ip kube-proxy service-PTG6YQRO-demo/a/tcp/ counter meta l4proto tcp dnat ip to 10.244.0.1:80
            add element ip kube-proxy service-ips { 10.96.0.1 . tcp . 80 : goto service-PTG6YQRO-demo/a/tcp/ }
            delete chain ip kube-proxy service-PLOERIZ3-demo/b/tcp/
        "#]],
    );
}

#[test]
fn another_time_for_affinity_makes_the_set_anew() {
    let sticky = |seconds| vec![("demo/web", web(&["10.244.0.1:80"]).sticky(seconds))];
    check_change(
        sticky(60),
        sticky(90),
        expect![[r#"
        delete set ip kube-proxy affinity-PQG3XZHD-demo/web/tcp/__10.244.0.1/80
        add set ip kube-proxy affinity-PQG3XZHD-demo/web/tcp/__10.244.0.1/80 { type ipv4_addr ; flags dynamic,timeout ; timeout 90s ; }
    "#]],
    );
}

#[test]
fn a_shared_element_stays_as_long_as_one_service_has_it() {
    let both = || {
        let http = service("10.96.0.1:80").to(&["10.244.0.1:80 local"]);
        let https = service("10.96.0.1:443").to(&["10.244.0.1:80 local"]);
        vec![("demo/web:http", http), ("demo/web:https", https)]
    };
    let old = ruleset(both());
    // The first one is the very same in both, so it is not part of the change.
    let new = old.next(&model(both()[..1].to_vec()), &node());
    let mut fake = fresh(&old);
    fake.apply(&Transaction::between(&old, &new)).unwrap();
    assert_eq!(fake, fresh(&new));
    assert_eq!(fake.elements("cluster-ips").unwrap().len(), 1);
    fake.apply(&Transaction::between(&new, &ruleset(vec![]))).unwrap();
    assert_eq!(fake, fresh(&ruleset(vec![])));
}

#[test]
fn of_services_that_clash_one_gets_the_address() {
    let clash = vec![("demo/a", web(&["10.244.0.1:80"])), ("demo/b", web(&["10.244.0.2:80"]))];
    let fake = fresh(&ruleset(clash));
    let verdict = &fake.elements("service-ips").unwrap()["10.96.0.1 . tcp . 80"];
    assert!(verdict.ends_with("demo/a/tcp/"), "{verdict}");
}

#[test]
fn a_line_leads_back_to_its_service() {
    let transaction = Transaction::between(&ruleset(vec![]), &ruleset(vec![("demo/web", web(&["10.244.0.1:80"]))]));
    let batch = &transaction.batches()[0];
    let text = batch.text(Family::V4);
    let number = text.lines().position(|line| line.contains("dnat")).unwrap() + 1;
    let line = batch.line(Family::V4, number).unwrap();
    assert!(line.text.contains("dnat"));
    assert_eq!(line.owner.map(|owner| owner.to_string()).as_deref(), Some("demo/web"));
    assert_eq!((batch.line(Family::V4, 0), batch.line(Family::V4, 1000)), (None, None));
}

#[test]
fn what_was_found_is_taken_over_and_the_rest_removed() {
    let old = ruleset(vec![("demo/old", web(&["10.244.0.1:80"]).sticky(60)), ("demo/web", service("10.96.0.2:80"))]);
    let new = ruleset(vec![("demo/web", service("10.96.0.2:80").to(&["10.244.0.2:80"]))]);
    let mut fake = fresh(&old);
    let listing: String = old.chains().map(|chain| format!("\tchain {} {{\n\t}}\n", chain.name)).collect();
    let sets = Object::ALL.map(|object| format!("\t{} {} {{\n\t}}\n", object.kind(), object.name())).concat();
    let affinity: String = fake
        .to_string()
        .lines()
        .filter(|line| line.starts_with("set affinity"))
        .map(|line| format!("\t{line} {{\n"))
        .collect();
    let found = Found::parse(&format!("table ip kube-proxy {{\n{sets}{affinity}{listing}}}\n"));
    fake.apply(&Transaction::takeover(&found, &new)).unwrap();
    assert_eq!(fake, fresh(&new));
    fake.apply(&Transaction::replacing(&old)).unwrap();
    assert_eq!(fake, fresh(&old));
    fake.apply(&Transaction::cleanup(Family::V4)).unwrap();
    assert_eq!(fake, Fake::default());
}

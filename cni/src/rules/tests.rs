use expect_test::{Expect, expect};

use super::*;
use crate::ports::Protocol;

fn config() -> NetworkConfig {
    NetworkConfig {
        bridge: "longshore0".to_owned(),
        pod_cidr: "10.88.0.0/16".parse().unwrap(),
        no_masquerade: vec!["10.89.0.0/16".parse().unwrap()],
        leases: "/nowhere".into(),
        mtu: None,
        instance: "one".parse().unwrap(),
    }
}

fn leases(ports: &[(&str, u16, Protocol, u16)]) -> BTreeMap<Ipv4Addr, Lease> {
    let ports = ports.iter().map(|(host_ip, host_port, protocol, container_port)| HostPort {
        host_ip: host_ip.parse().ok(),
        host_port: *host_port,
        protocol: *protocol,
        container_port: *container_port,
    });
    let lease = Lease { sandbox: "web".parse().unwrap(), ports: ports.collect() };
    BTreeMap::from([(Ipv4Addr::new(10, 88, 0, 2), lease)])
}

fn check(leases: &BTreeMap<Ipv4Addr, Lease>, jumps: Jumps<'_>, text: Expect) {
    text.assert_eq(&transaction(&ruleset(&config(), leases, &BTreeSet::new()), jumps));
}

#[test]
fn without_host_ports_only_masquerade_and_forwarding_are_set() {
    check(
        &leases(&[]),
        Jumps::Check,
        expect![[r#"
        *nat
        :LONGSHORE-one-PORT - [0:0]
        :LONGSHORE-one-MASQ - [0:0]
        -A LONGSHORE-one-MASQ ! -s 10.88.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 10.88.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 10.89.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 224.0.0.0/4 -j RETURN
        -A LONGSHORE-one-MASQ -m comment --comment "longshore one: leaves the pod network" -j MASQUERADE --random-fully
        -C PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "longshore one: pod network" -j LONGSHORE-one-PORT
        -C OUTPUT -m addrtype --dst-type LOCAL -m comment --comment "longshore one: pod network" -j LONGSHORE-one-PORT
        -C POSTROUTING -m comment --comment "longshore one: pod network" -j LONGSHORE-one-MASQ
        COMMIT
        *filter
        :LONGSHORE-one-FWD - [0:0]
        -A LONGSHORE-one-FWD -i longshore0 -s 10.88.0.0/16 -j ACCEPT
        -A LONGSHORE-one-FWD -o longshore0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
        -A LONGSHORE-one-FWD -o longshore0 -s 10.89.0.0/16 -j ACCEPT
        -C FORWARD -m comment --comment "longshore one: pod network" -j LONGSHORE-one-FWD
        COMMIT
    "#]],
    );
}

#[test]
fn host_ports_lead_to_the_pod_and_the_loopback_is_guarded() {
    let ports = [("", 8080, Protocol::Tcp, 80), ("192.0.2.7", 5353, Protocol::Udp, 53)];
    let missing = [("raw".to_owned(), "PREROUTING".to_owned(), "LONGSHORE-one-LOOP".to_owned())];
    check(
        &leases(&ports),
        Jumps::Add(&missing),
        expect![[r#"
        *raw
        :LONGSHORE-one-LOOP - [0:0]
        -A LONGSHORE-one-LOOP -i longshore0 -s 127.0.0.0/8 -m comment --comment "longshore one: loopback guard" -j DROP
        -A LONGSHORE-one-LOOP -i longshore0 -d 127.0.0.0/8 -m comment --comment "longshore one: loopback guard" -j DROP
        -I PREROUTING -m comment --comment "longshore one: pod network" -j LONGSHORE-one-LOOP
        COMMIT
        *nat
        :LONGSHORE-one-PORT - [0:0]
        :LONGSHORE-one-MASQ - [0:0]
        -A LONGSHORE-one-PORT -p tcp -m tcp --dport 8080 -m comment --comment "longshore one: web" -j DNAT --to-destination 10.88.0.2:80
        -A LONGSHORE-one-PORT -d 192.0.2.7/32 -p udp -m udp --dport 5353 -m comment --comment "longshore one: web" -j DNAT --to-destination 10.88.0.2:53
        -A LONGSHORE-one-MASQ -s 127.0.0.0/8 -d 10.88.0.0/16 -m comment --comment "longshore one: host ports on localhost" -j MASQUERADE
        -A LONGSHORE-one-MASQ -s 10.88.0.2/32 -d 10.88.0.2/32 -m conntrack --ctstate DNAT -m comment --comment "longshore one: web" -j MASQUERADE
        -A LONGSHORE-one-MASQ ! -s 10.88.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 10.88.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 10.89.0.0/16 -j RETURN
        -A LONGSHORE-one-MASQ -d 224.0.0.0/4 -j RETURN
        -A LONGSHORE-one-MASQ -m comment --comment "longshore one: leaves the pod network" -j MASQUERADE --random-fully
        COMMIT
        *filter
        :LONGSHORE-one-FWD - [0:0]
        -A LONGSHORE-one-FWD -i longshore0 -s 10.88.0.0/16 -j ACCEPT
        -A LONGSHORE-one-FWD -o longshore0 -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
        -A LONGSHORE-one-FWD -o longshore0 -s 10.89.0.0/16 -j ACCEPT
        COMMIT
    "#]],
    );
}

#[test]
fn the_pods_of_other_nodes_keep_their_addresses_and_neighbouring_ranges_are_one_rule() {
    let peer = |pods: &str, node: &str| Peer { pods: pods.parse().unwrap(), node: node.parse().unwrap() };
    let peers = BTreeSet::from([peer("10.244.2.0/24", "192.0.2.12"), peer("10.244.3.0/24", "192.0.2.13")]);
    let text = transaction(&ruleset(&config(), &leases(&[]), &peers), Jumps::Check);
    let lines: Vec<_> = text.lines().filter(|line| line.contains("10.244.") || line.contains("192.0.2.1")).collect();
    expect![[r#"
        -A LONGSHORE-one-MASQ -d 10.244.2.0/23 -j RETURN
        -A LONGSHORE-one-FWD -o longshore0 -s 10.244.2.0/23 -j ACCEPT
        -A LONGSHORE-one-FWD -o longshore0 -s 192.0.2.12/31 -j ACCEPT"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn a_port_that_is_bound_elsewhere_needs_no_way_to_the_loopback() {
    assert!(!needs_loopback(&leases(&[("192.0.2.7", 80, Protocol::Tcp, 80)])));
}

#[test]
fn chain_names_fit_the_kernel() {
    let longest = chain_name(&"twelve-chars".parse().unwrap(), "LOOP");
    assert!(longest.len() <= 28, "{longest}");
}

#[test]
fn what_is_missing_is_read_from_a_saved_table() {
    let tables = ruleset(&config(), &leases(&[]), &BTreeSet::new());
    let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:LONGSHORE-one-PORT - [0:0]\n:LONGSHORE-two-PORT - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j LONGSHORE-one-PORT\n\
        -A OUTPUT -m addrtype --dst-type LOCAL -j LONGSHORE-two-PORT\nCOMMIT\n";
    let present = Present::read(saved);
    let missing: Vec<_> = present.missing(&tables).into_iter().map(|(_, from, to)| format!("{from} {to}")).collect();
    let expected = ["OUTPUT LONGSHORE-one-PORT", "POSTROUTING LONGSHORE-one-MASQ", "FORWARD LONGSHORE-one-FWD"];
    assert_eq!(missing, expected);
    let there = present.of(every_table(&config()));
    assert_eq!(removal(&there), "*nat\n:LONGSHORE-one-PORT - [0:0]\n-X LONGSHORE-one-PORT\nCOMMIT\n");
    assert_eq!(there[0].jumps.len(), 1);
}

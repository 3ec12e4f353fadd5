//! Where packets go: every rule of a rendered ruleset is followed, for the tables of who is masqueraded and
//! who is refused.

use crate::iptables::{Fake, Ruleset, Table, Tables, Transaction};
use crate::testing::{ip, model, node, service};
use crate::{LocalTraffic, NodeConfig, ServicePort};
use expect_test::{Expect, expect};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// This node's own addresses.
const NODE: [&str; 3] = ["192.0.2.10", "127.0.0.1", "10.244.1.1"];
const POD: &str = "10.244.1.99";
const OUTSIDE: &str = "198.51.100.1";

#[derive(Clone, Copy)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

/// Everything that may happen to the packet: endpoints are chosen at random, so there are several.
fn trace(tables: &Tables, source: &str, destination: &str, port: u16) -> String {
    let packet = Packet { source: ip(source), destination: ip(destination), port };
    let hook = if NODE.contains(&source) { "OUTPUT" } else { "PREROUTING" };
    let mut ends = BTreeSet::new();
    if !walk(tables, Table::Nat, hook, packet, &mut false, &mut ends) {
        let hook = match (NODE.contains(&source), NODE.contains(&destination)) {
            (true, _) => "OUTPUT",
            (false, true) => "INPUT",
            (false, false) => "FORWARD",
        };
        walk(tables, Table::Filter, hook, packet, &mut false, &mut ends);
    }
    if ends.is_empty() { "passes untouched".to_owned() } else { ends.into_iter().collect::<Vec<_>>().join(", ") }
}

/// Follows a chain; true if the packet cannot come out of its end.
fn walk(
    tables: &Tables,
    table: Table,
    chain: &str,
    packet: Packet,
    marked: &mut bool,
    ends: &mut BTreeSet<String>,
) -> bool {
    for rule in tables.rules(table, chain).unwrap_or_default() {
        let Some(certain) = matches(rule, packet) else { continue };
        let Some((_, target)) = rule.rsplit_once("-j ") else { continue };
        let (name, value) = target.split_once(' ').unwrap_or((target, ""));
        let done = match name {
            "MARK" => {
                *marked = true;
                false
            }
            "DNAT" => {
                let masquerade = if *marked { " masqueraded" } else { "" };
                ends.insert(format!("{}{masquerade}", value.trim_start_matches("--to-destination ")))
                    || !ends.is_empty()
            }
            "REJECT" | "DROP" => ends.insert(name.to_owned()) || !ends.is_empty(),
            // After a choice that was not taken the mark must be as it was.
            _ if certain => walk(tables, table, name, packet, marked, ends),
            _ => walk(tables, table, name, packet, &mut marked.clone(), ends),
        };
        if done && certain {
            return true;
        }
    }
    false
}

/// `None` if the rule does not match, `Some(false)` if chance decides.
fn matches(rule: &str, packet: Packet) -> Option<bool> {
    let (mut certain, mut negated) = (true, false);
    let mut words = rule.split(' ');
    while let Some(word) = words.next() {
        let mut within = |ip: IpAddr| words.next().unwrap().parse::<ipnet::IpNet>().unwrap().contains(&ip);
        let fits = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" => break,
            "-s" => within(packet.source),
            "-d" => within(packet.destination),
            "-p" => words.next() == Some("tcp"),
            "--dport" => words.next() == Some(&packet.port.to_string()),
            "--src-type" => words.next().is_some() && NODE.map(ip).contains(&packet.source),
            "--dst-type" => words.next().is_some() && NODE.map(ip).contains(&packet.destination),
            "--ctstate" => words.next().is_some_and(|states| states.contains("NEW")),
            "--mark" => false,
            "--probability" | "--rcheck" => {
                certain = false;
                true
            }
            _ => true,
        };
        if fits == negated {
            return None;
        }
        negated = false;
    }
    Some(certain)
}

fn tables(service: ServicePort, node: &NodeConfig) -> Tables {
    let ruleset = Ruleset::render(&model(vec![("demo/web", service)]), node);
    let mut fake = Fake::new(ruleset.family());
    fake.apply(&Transaction::from_nothing(&ruleset)).unwrap();
    fake.tables().clone()
}

/// A service with every kind of address; 10.244.1.5 runs here.
fn web() -> ServicePort {
    let web = service("10.96.0.1:80").node_port(30080).external("203.0.113.7").vip("203.0.113.8");
    web.to(&["10.244.1.5:8080 local", "10.244.2.6:8080"])
}

#[track_caller]
fn check(service: ServicePort, node: &NodeConfig, outcome: Expect) {
    let tables = tables(service, node);
    let mut text = String::new();
    for (who, source) in [("pod", POD), ("node", NODE[0]), ("outside", OUTSIDE)] {
        for (what, destination, port) in [
            ("cluster IP", "10.96.0.1", 80),
            ("external IP", "203.0.113.7", 80),
            ("VIP", "203.0.113.8", 80),
            ("node port", NODE[0], 30080),
        ] {
            text += &format!("{who} -> {what}: {}\n", trace(&tables, source, destination, port));
        }
    }
    outcome.assert_eq(&text);
}

#[test]
fn who_is_masqueraded_under_cluster_policies() {
    check(
        web(),
        &node(),
        expect![[r#"
        pod -> cluster IP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        pod -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        pod -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> cluster IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> cluster IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
    "#]],
    );
}

#[test]
fn who_is_masqueraded_under_local_policies() {
    check(
        web().internal_local().external_local(),
        &node(),
        expect![[r#"
        pod -> cluster IP: 10.244.1.5:8080
        pod -> external IP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> VIP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> node port: 10.244.1.5:8080, 10.244.2.6:8080
        node -> cluster IP: 10.244.1.5:8080 masqueraded
        node -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> cluster IP: 10.244.1.5:8080 masqueraded
        outside -> external IP: 10.244.1.5:8080
        outside -> VIP: 10.244.1.5:8080
        outside -> node port: 10.244.1.5:8080
    "#]],
    );
}

#[test]
fn who_is_masqueraded_when_pods_are_not_recognised() {
    let blind = NodeConfig { local_traffic: LocalTraffic::Unknown, ..node() };
    check(
        web().external_local(),
        &blind,
        expect![[r#"
        pod -> cluster IP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> external IP: 10.244.1.5:8080
        pod -> VIP: 10.244.1.5:8080
        pod -> node port: 10.244.1.5:8080
        node -> cluster IP: 10.244.1.5:8080, 10.244.2.6:8080
        node -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> cluster IP: 10.244.1.5:8080, 10.244.2.6:8080
        outside -> external IP: 10.244.1.5:8080
        outside -> VIP: 10.244.1.5:8080
        outside -> node port: 10.244.1.5:8080
    "#]],
    );
}

#[test]
fn who_is_masqueraded_when_all_are() {
    let all = NodeConfig { masquerade_all: true, ..node() };
    check(
        web().external_local(),
        &all,
        expect![[r#"
        pod -> cluster IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        pod -> external IP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> VIP: 10.244.1.5:8080, 10.244.2.6:8080
        pod -> node port: 10.244.1.5:8080, 10.244.2.6:8080
        node -> cluster IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> external IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> VIP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        node -> node port: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> cluster IP: 10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded
        outside -> external IP: 10.244.1.5:8080
        outside -> VIP: 10.244.1.5:8080
        outside -> node port: 10.244.1.5:8080
    "#]],
    );
}

#[test]
fn who_is_refused_and_who_is_dropped() {
    check(
        web().external_local().to(&["10.244.2.6:8080"]),
        &node(),
        expect![[r#"
        pod -> cluster IP: 10.244.2.6:8080
        pod -> external IP: 10.244.2.6:8080
        pod -> VIP: 10.244.2.6:8080
        pod -> node port: 10.244.2.6:8080
        node -> cluster IP: 10.244.2.6:8080 masqueraded
        node -> external IP: 10.244.2.6:8080 masqueraded
        node -> VIP: 10.244.2.6:8080 masqueraded
        node -> node port: 10.244.2.6:8080 masqueraded
        outside -> cluster IP: 10.244.2.6:8080 masqueraded
        outside -> external IP: DROP
        outside -> VIP: DROP
        outside -> node port: DROP
    "#]],
    );
    check(
        web().to(&[]),
        &node(),
        expect![[r#"
        pod -> cluster IP: REJECT
        pod -> external IP: REJECT
        pod -> VIP: REJECT
        pod -> node port: REJECT
        node -> cluster IP: REJECT
        node -> external IP: passes untouched
        node -> VIP: passes untouched
        node -> node port: passes untouched
        outside -> cluster IP: REJECT
        outside -> external IP: REJECT
        outside -> VIP: REJECT
        outside -> node port: REJECT
    "#]],
    );
}

#[test]
fn an_endpoint_that_calls_its_service_is_masqueraded() {
    let tables = tables(web().external_local(), &node());
    let own = |destination, port| trace(&tables, "10.244.1.5", destination, port);
    expect!["10.244.1.5:8080 masqueraded, 10.244.2.6:8080"].assert_eq(&own("10.96.0.1", 80));
    expect!["10.244.1.5:8080 masqueraded, 10.244.2.6:8080"].assert_eq(&own("203.0.113.8", 80));
}

#[test]
fn source_ranges_hold_for_the_load_balancer_only() {
    let guarded = web().vip("203.0.113.9").from(&["192.0.2.0/24", "198.51.100.1/32"]);
    let tables = tables(guarded, &node());
    let ask = |source, destination, port| trace(&tables, source, destination, port);
    for vip in ["203.0.113.8", "203.0.113.9"] {
        let through = "10.244.1.5:8080 masqueraded, 10.244.2.6:8080 masqueraded";
        assert_eq!(ask(OUTSIDE, vip, 80), through, "inside a range");
        assert_eq!(ask(NODE[0], vip, 80), through, "the node, inside a range");
        assert_eq!(ask(vip, vip, 80), through, "the node under the address itself");
        assert_eq!(ask("198.51.100.2", vip, 80), "DROP", "outside");
        assert_eq!(ask(POD, vip, 80), "DROP", "a pod outside");
        assert_eq!(ask("198.51.100.2", vip, 81), "passes untouched", "another port");
    }
    assert!(ask("198.51.100.2", NODE[0], 30080).contains("10.244.1.5"), "node ports have no ranges");
    assert!(ask("198.51.100.2", "203.0.113.7", 80).contains("10.244.1.5"), "external IPs have none");
}

#[test]
fn node_ports_answer_where_they_should() {
    let on =
        |addresses, localhost_node_ports| NodeConfig { node_port_addresses: addresses, localhost_node_ports, ..node() };
    let ask = |node: &NodeConfig, destination| trace(&tables(web(), node), NODE[0], destination, 30080);
    let all = || crate::NodePortAddresses::All;
    assert!(ask(&on(all(), true), "127.0.0.1").contains("10.244.1.5"));
    assert_eq!(ask(&on(all(), false), "127.0.0.1"), "passes untouched");
    assert!(ask(&on(all(), false), "10.244.1.1").contains("10.244.1.5"));
    let one = crate::NodePortAddresses::Only(vec![ip("192.0.2.10")]);
    assert!(ask(&on(one.clone(), true), "192.0.2.10").contains("10.244.1.5"));
    assert_eq!(ask(&on(one.clone(), true), "10.244.1.1"), "passes untouched");
    assert_eq!(ask(&on(one, true), "127.0.0.1"), "passes untouched");
}

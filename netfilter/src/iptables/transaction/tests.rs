use super::*;
use crate::iptables::{Dispatch, Fake, Ruleset, Tables};
use crate::testing::{model, node, service};
use crate::{Model, NodeConfig, ServicePort};
use expect_test::{Expect, expect};

mod properties;

fn ruleset(services: Vec<(&str, ServicePort)>) -> Ruleset {
    Ruleset::render(&model(services), &node())
}

fn web(endpoints: &[&str]) -> ServicePort {
    service("10.96.0.1:80").to(endpoints)
}

#[track_caller]
fn check(old: Vec<(&str, ServicePort)>, new: Vec<(&str, ServicePort)>, text: Expect) {
    text.assert_eq(&Transaction::between(&ruleset(old), &ruleset(new)).text());
}

fn other() -> (&'static str, ServicePort) {
    ("demo/other", service("10.96.0.9:80").to(&["10.244.0.9:80"]))
}

#[test]
fn nothing_changes_nothing() {
    check(vec![other()], vec![other()], expect![[""]]);
}

#[test]
fn one_more_endpoint_touches_the_chains_of_its_service_only() {
    check(
        vec![other(), ("demo/web", web(&["10.244.0.1:80"]))],
        vec![other(), ("demo/web", web(&["10.244.0.1:80", "10.244.0.2:80"]))],
        expect![[r#"
            *nat
            :KUBE-SVC-YTGZ2JEENUBCE3T3 - [0:0]
            :KUBE-SEP-OXCAQYWTTTQOUYI6 - [0:0]
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.0.1:80" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-DNI453S5AB5JSU3F
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.0.2:80" -j KUBE-SEP-OXCAQYWTTTQOUYI6
            -A KUBE-SEP-OXCAQYWTTTQOUYI6 -m comment --comment demo/web -s 10.244.0.2 -j KUBE-MARK-MASQ
            -A KUBE-SEP-OXCAQYWTTTQOUYI6 -m comment --comment demo/web -m tcp -p tcp -j DNAT --to-destination 10.244.0.2:80
            COMMIT
        "#]],
    );
}

#[test]
fn one_endpoint_less_removes_its_chain_last() {
    check(
        vec![("demo/web", web(&["10.244.0.1:80", "10.244.0.2:80"]))],
        vec![("demo/web", web(&["10.244.0.2:80"]))],
        expect![[r#"
            *nat
            :KUBE-SVC-YTGZ2JEENUBCE3T3 - [0:0]
            :KUBE-SEP-DNI453S5AB5JSU3F - [0:0]
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.0.2:80" -j KUBE-SEP-OXCAQYWTTTQOUYI6
            -X KUBE-SEP-DNI453S5AB5JSU3F
            COMMIT
        "#]],
    );
}

#[test]
fn the_first_endpoint_is_reachable_before_the_refusal_goes() {
    check(
        vec![("demo/web", web(&[]))],
        vec![("demo/web", web(&["10.244.0.1:80"]))],
        expect![[r#"
            *nat
            :KUBE-SVC-YTGZ2JEENUBCE3T3 - [0:0]
            :KUBE-SEP-DNI453S5AB5JSU3F - [0:0]
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
            -A KUBE-SVC-YTGZ2JEENUBCE3T3 -m comment --comment "demo/web -> 10.244.0.1:80" -j KUBE-SEP-DNI453S5AB5JSU3F
            -A KUBE-SEP-DNI453S5AB5JSU3F -m comment --comment demo/web -s 10.244.0.1 -j KUBE-MARK-MASQ
            -A KUBE-SEP-DNI453S5AB5JSU3F -m comment --comment demo/web -m tcp -p tcp -j DNAT --to-destination 10.244.0.1:80
            -I KUBE-SERVICES -m comment --comment "demo/web cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-YTGZ2JEENUBCE3T3
            COMMIT
            *filter
            -D KUBE-SERVICES -m comment --comment "demo/web has no endpoints" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j REJECT
            COMMIT
        "#]],
    );
}

#[test]
fn the_refusal_comes_before_the_last_endpoint_goes() {
    check(
        vec![("demo/web", web(&["10.244.0.1:80"]))],
        vec![("demo/web", web(&[]))],
        expect![[r#"
            *filter
            -I KUBE-SERVICES -m comment --comment "demo/web has no endpoints" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j REJECT
            COMMIT
            *nat
            :KUBE-SVC-YTGZ2JEENUBCE3T3 - [0:0]
            :KUBE-SEP-DNI453S5AB5JSU3F - [0:0]
            -D KUBE-SERVICES -m comment --comment "demo/web cluster IP" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j KUBE-SVC-YTGZ2JEENUBCE3T3
            -X KUBE-SVC-YTGZ2JEENUBCE3T3
            -X KUBE-SEP-DNI453S5AB5JSU3F
            COMMIT
        "#]],
    );
}

#[test]
fn a_service_that_comes_and_one_that_goes_leave_the_others_alone() {
    check(
        vec![other(), ("demo/old", service("10.96.0.2:80").node_port(30000).to(&["10.244.0.2:80"]))],
        vec![other(), ("demo/new", service("10.96.0.3:80").node_port(30000).to(&["10.244.0.3:80"]))],
        expect![[r#"
            *nat
            :KUBE-SVC-F5MZRDGHLA35ETRK - [0:0]
            :KUBE-EXT-F5MZRDGHLA35ETRK - [0:0]
            :KUBE-SEP-SSNOI4YXM7MYRDNR - [0:0]
            :KUBE-SVC-56B674J34XGEP4FC - [0:0]
            :KUBE-EXT-56B674J34XGEP4FC - [0:0]
            :KUBE-SEP-AANUOJZUPWUOIDLX - [0:0]
            -A KUBE-SVC-F5MZRDGHLA35ETRK -m comment --comment "demo/new cluster IP" -m tcp -p tcp -d 10.96.0.3 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
            -A KUBE-SVC-F5MZRDGHLA35ETRK -m comment --comment "demo/new -> 10.244.0.3:80" -j KUBE-SEP-SSNOI4YXM7MYRDNR
            -A KUBE-EXT-F5MZRDGHLA35ETRK -m comment --comment "masquerade traffic for demo/new external destinations" -j KUBE-MARK-MASQ
            -A KUBE-EXT-F5MZRDGHLA35ETRK -j KUBE-SVC-F5MZRDGHLA35ETRK
            -A KUBE-SEP-SSNOI4YXM7MYRDNR -m comment --comment demo/new -s 10.244.0.3 -j KUBE-MARK-MASQ
            -A KUBE-SEP-SSNOI4YXM7MYRDNR -m comment --comment demo/new -m tcp -p tcp -j DNAT --to-destination 10.244.0.3:80
            -D KUBE-NODEPORTS -m comment --comment demo/old -m tcp -p tcp --dport 30000 -j KUBE-EXT-56B674J34XGEP4FC
            -I KUBE-NODEPORTS -m comment --comment demo/new -m tcp -p tcp --dport 30000 -j KUBE-EXT-F5MZRDGHLA35ETRK
            -D KUBE-SERVICES -m comment --comment "demo/old cluster IP" -m tcp -p tcp -d 10.96.0.2 --dport 80 -j KUBE-SVC-56B674J34XGEP4FC
            -I KUBE-SERVICES -m comment --comment "demo/new cluster IP" -m tcp -p tcp -d 10.96.0.3 --dport 80 -j KUBE-SVC-F5MZRDGHLA35ETRK
            -X KUBE-SVC-56B674J34XGEP4FC
            -X KUBE-EXT-56B674J34XGEP4FC
            -X KUBE-SEP-AANUOJZUPWUOIDLX
            COMMIT
        "#]],
    );
}

#[test]
fn from_nothing_stands_the_skeleton_that_kube_proxy_makes() {
    let transaction = Transaction::from_nothing(&ruleset(vec![]));
    let mut fake = Fake::new(Family::V4);
    fake.apply(&transaction).unwrap();
    expect![[r#"
        *filter
        :INPUT ACCEPT [0:0]
        :FORWARD ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :KUBE-EXTERNAL-SERVICES - [0:0]
        :KUBE-FIREWALL - [0:0]
        :KUBE-FORWARD - [0:0]
        :KUBE-NODEPORTS - [0:0]
        :KUBE-PROXY-FIREWALL - [0:0]
        :KUBE-SERVICES - [0:0]
        -A INPUT -j KUBE-FIREWALL
        -A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
        -A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
        -A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
        -A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
        -A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
        -A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
        -A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
        -A OUTPUT -j KUBE-FIREWALL
        -A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
        -A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
        -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        COMMIT
        *nat
        :PREROUTING ACCEPT [0:0]
        :INPUT ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :POSTROUTING ACCEPT [0:0]
        :KUBE-MARK-MASQ - [0:0]
        :KUBE-NODEPORTS - [0:0]
        :KUBE-POSTROUTING - [0:0]
        :KUBE-SERVICES - [0:0]
        -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
        -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
        -A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
        -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
        -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
        -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
        -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
        -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
        COMMIT
        *mangle
        :PREROUTING ACCEPT [0:0]
        :INPUT ACCEPT [0:0]
        :FORWARD ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :POSTROUTING ACCEPT [0:0]
        COMMIT
    "#]].assert_eq(&fake.to_string());
}

#[test]
fn from_nothing_works_without_the_firewall_rule_too() {
    let v6 = Ruleset::render(&Model::new(Family::V6), &node());
    let mut fake = Fake::new(Family::V6);
    fake.apply(&Transaction::from_nothing(&v6)).unwrap();
    assert_eq!(fake.tables().rules(Table::Filter, "KUBE-FIREWALL"), Some(&[][..]));
}

#[test]
fn a_line_leads_back_to_its_service() {
    let transaction = Transaction::between(&ruleset(vec![]), &ruleset(vec![other(), ("demo/web", web(&[]))]));
    let text = transaction.text();
    let owner = |part: &str| {
        let number = text.lines().position(|line| line.contains(part)).unwrap() + 1;
        transaction.line(number).unwrap().owner.map(|owner| owner.to_string())
    };
    assert_eq!(owner("demo/web has no endpoints").as_deref(), Some("demo/web"));
    assert_eq!(owner("DNAT").as_deref(), Some("demo/other"));
    assert_eq!((owner("COMMIT"), transaction.line(0), transaction.line(10_000)), (None, None, None));
}

/// `count` services of one endpoint each.
fn many(count: u16) -> Model {
    let mut model = Model::new(Family::V4);
    for index in 0..count {
        let address = format!("10.97.{}.{}:80", index / 256, index % 256);
        let service = service(&address).to(&["10.244.0.1:80"]);
        model.insert(crate::testing::name(&format!("demo/s{index}")), service);
    }
    model
}

#[test]
fn a_section_holds_at_most_750_chains() {
    let (empty, many) = (Ruleset::empty(Family::V4), Ruleset::render(&many(600), &node()));
    let chains = |transaction: &Transaction| -> Vec<_> {
        transaction.sections().iter().map(|section| section.chains.len()).collect()
    };
    let up = Transaction::between(&empty, &many);
    // Filter; what services need and 250 of them; 250; 100 and what leads to all of them.
    assert_eq!(chains(&up), [6, 502, 500 + 200 + 2]);
    let last = up.sections().last().unwrap();
    assert_eq!((last.table, &*last.chains[701].0), (Table::Nat, "KUBE-SERVICES"));
    let down = Transaction::between(&many, &Ruleset::render(&Model::new(Family::V4), &node()));
    assert_eq!(chains(&down), [1 + 500, 500 + 200], "KUBE-SERVICES is written anew, then chains go");
    let mut fake = Fake::new(Family::V4);
    fake.apply(&up).unwrap();
    fake.apply(&down).unwrap();
}

#[test]
fn a_chain_is_never_filled_before_it_is_emptied_in_one_section() {
    // So many refusals go that their chain is written anew, one comes, and nat has nothing to do in between.
    let refusals = |range: std::ops::Range<u16>| {
        let mut model = Model::new(Family::V4);
        for index in range {
            let service = service(&format!("10.97.0.{index}:80"));
            model.insert(crate::testing::name(&format!("demo/s{index}")), service);
        }
        Ruleset::render(&model, &node())
    };
    let (old, new) = (refusals(0..70), refusals(70..71));
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(&old)).unwrap();
    fake.apply(&Transaction::between(&old, &new)).unwrap();
    assert_eq!(fake.tables().rules(Table::Filter, "KUBE-SERVICES").map(<[String]>::len), Some(1));
}

#[test]
fn rules_that_are_inserted_keep_their_order() {
    let node = NodeConfig { nfacct: true, ..node() };
    let old = Ruleset::render(&model(vec![other()]), &node);
    let new = old.next(&model(vec![other(), ("demo/web", web(&["10.244.0.1:80"]).node_port(30000))]), &node);
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(&old)).unwrap();
    fake.apply(&Transaction::between(&old, &new)).unwrap();
    let rules = fake.tables().rules(Table::Nat, "KUBE-NODEPORTS").unwrap();
    assert!(rules[0].contains("localhost_nps_accepted_pkts") && !rules[1].contains("nfacct"), "{rules:?}");
}

#[test]
fn other_settings_reach_every_rule() {
    let model = model(vec![other()]);
    let old = Ruleset::render(&model, &node());
    let new = old
        .next(&model, &NodeConfig { masquerade_bit: 3, masquerade_all: true, localhost_node_ports: false, ..node() });
    expect![[r#"
        *filter
        :KUBE-FORWARD - [0:0]
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x00000008/0x00000008 -j ACCEPT
        -A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
        COMMIT
        *nat
        :KUBE-POSTROUTING - [0:0]
        :KUBE-MARK-MASQ - [0:0]
        :KUBE-SVC-HD3CPOYVJSGXRSEZ - [0:0]
        :KUBE-SERVICES - [0:0]
        -A KUBE-POSTROUTING -m mark ! --mark 0x00000008/0x00000008 -j RETURN
        -A KUBE-POSTROUTING -j MARK --xor-mark 0x00000008
        -A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
        -A KUBE-MARK-MASQ -j MARK --or-mark 0x00000008
        -A KUBE-SVC-HD3CPOYVJSGXRSEZ -m comment --comment "demo/other cluster IP" -m tcp -p tcp -d 10.96.0.9 --dport 80 -j KUBE-MARK-MASQ
        -A KUBE-SVC-HD3CPOYVJSGXRSEZ -m comment --comment "demo/other -> 10.244.0.9:80" -j KUBE-SEP-SF5ZBYI35RBYZ3HN
        -A KUBE-SERVICES -m comment --comment "demo/other cluster IP" -m tcp -p tcp -d 10.96.0.9 --dport 80 -j KUBE-SVC-HD3CPOYVJSGXRSEZ
        -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -j KUBE-NODEPORTS
        COMMIT
    "#]].assert_eq(&Transaction::between(&old, &new).text());
}

#[test]
fn taking_over_the_same_rules_is_nothing_to_do() {
    let ruleset = ruleset(vec![other(), ("demo/web", web(&[]).node_port(30000))]);
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(&ruleset)).unwrap();
    let found = Tables::parse(Family::V4, &fake.to_string()).unwrap();
    assert_eq!(Transaction::takeover(&found, &ruleset).text(), "");
}

#[test]
fn taking_over_many_services_cuts_none_in_two() {
    let mut services = many(600);
    // Three chains where the others have two: sections of 750 chains would end inside a service.
    services.insert(crate::testing::name("a/first"), web(&["10.244.0.1:80", "10.244.0.2:80"]));
    let mut fake = Fake::new(Family::V4);
    let found = Tables::parse(Family::V4, &fake.to_string()).unwrap();
    fake.apply(&Transaction::takeover(&found, &Ruleset::render(&services, &node()))).unwrap();
}

#[test]
fn a_chain_edited_by_hand_is_repaired_and_the_rest_left_alone() {
    let ruleset = ruleset(vec![other(), ("demo/web", web(&["10.244.0.1:80"]))]);
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(&ruleset)).unwrap();
    let edited = fake.to_string().replace("--to-destination 10.244.0.1:80", "--to-destination 10.0.0.66:80");
    let found = Tables::parse(Family::V4, &edited).unwrap();
    expect![[r#"
        *nat
        :KUBE-SEP-DNI453S5AB5JSU3F - [0:0]
        -A KUBE-SEP-DNI453S5AB5JSU3F -m comment --comment demo/web -s 10.244.0.1 -j KUBE-MARK-MASQ
        -A KUBE-SEP-DNI453S5AB5JSU3F -m comment --comment demo/web -m tcp -p tcp -j DNAT --to-destination 10.244.0.1:80
        COMMIT
    "#]]
    .assert_eq(&Transaction::takeover(&found, &ruleset).text());
}

#[test]
fn cleaning_up_leaves_what_others_own() {
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(&ruleset(vec![other(), ("demo/web", web(&[]).node_port(30000))]))).unwrap();
    let foreign = "*filter\n:FOREIGN - [0:0]\n-A FOREIGN -j DROP\n-I INPUT -j FOREIGN\nCOMMIT\n\
                   *mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
    fake.restore(foreign).unwrap();
    fake.apply(&Transaction::cleanup(fake.tables())).unwrap();
    expect![[r#"
        *filter
        :INPUT ACCEPT [0:0]
        :FORWARD ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :FOREIGN - [0:0]
        :KUBE-FIREWALL - [0:0]
        -A INPUT -j FOREIGN
        -A INPUT -j KUBE-FIREWALL
        -A OUTPUT -j KUBE-FIREWALL
        -A FOREIGN -j DROP
        -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
        COMMIT
        *nat
        :PREROUTING ACCEPT [0:0]
        :INPUT ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :POSTROUTING ACCEPT [0:0]
        COMMIT
        *mangle
        :PREROUTING ACCEPT [0:0]
        :INPUT ACCEPT [0:0]
        :FORWARD ACCEPT [0:0]
        :OUTPUT ACCEPT [0:0]
        :POSTROUTING ACCEPT [0:0]
        :KUBE-IPTABLES-HINT - [0:0]
        :KUBE-KUBELET-CANARY - [0:0]
        COMMIT
    "#]].assert_eq(&fake.to_string());
    assert!(Transaction::cleanup(fake.tables()).is_empty(), "a second time there is nothing left");
}

#[test]
fn the_guard_of_the_loopback_goes_unless_a_kubelet_needs_it() {
    let ruleset = ruleset(vec![other()]);
    let left = |canary: &str| {
        let mut fake = Fake::new(Family::V4);
        fake.apply(&Transaction::from_nothing(&ruleset)).unwrap();
        fake.restore(canary).unwrap();
        fake.apply(&Transaction::cleanup_with_firewall(fake.tables())).unwrap();
        fake.to_string().lines().filter(|line| line.contains("KUBE-FIREWALL")).count()
    };
    assert_eq!(left(""), 0);
    assert_eq!(left("*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n"), 4, "the chain, its rule, two jumps");
}

#[test]
fn saved_rules_are_read_with_and_without_counters() {
    let plain = "# a comment\n*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j DROP\nCOMMIT\n*raw\n:X - [0:0]\n-A X -j Y\nCOMMIT\n";
    let counted = plain.replace("-A KUBE", "[3:180] -A KUBE");
    let tables = Tables::parse(Family::V4, plain).unwrap();
    assert_eq!(tables.rules(Table::Nat, "KUBE-SERVICES"), Some(&["-j DROP".to_owned()][..]));
    assert_eq!(Tables::parse(Family::V4, &counted), Ok(tables));
    assert!(Tables::parse(Family::V4, "*nat\nnonsense\n").is_err());
}

#[test]
fn a_ruleset_can_be_taken_down() {
    let ruleset = ruleset(vec![other(), ("demo/web", web(&[]).node_port(30000))]);
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::between(&Ruleset::empty(Family::V4), &ruleset)).unwrap();
    fake.apply(&Transaction::between(&ruleset, &Ruleset::empty(Family::V4))).unwrap();
    let left: Vec<_> = fake.tables().chains(Table::Nat).filter(|name| name.starts_with("KUBE")).collect();
    assert_eq!(left, Vec::<&str>::new());
    assert!(Dispatch::ALL.iter().all(|chain| fake.tables().rules(chain.table(), chain.chain()).is_none()));
}

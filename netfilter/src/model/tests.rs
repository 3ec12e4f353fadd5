use crate::testing::{ip, model, name, service};
use expect_test::expect;
use std::borrow::Cow;

#[test]
fn addresses_of_the_other_family_are_left_out() {
    let web = service("10.96.0.1:80").external("2001:db8::1").external("203.0.113.1").vip("2001:db8::2");
    let web = web.from(&["2001:db8::/32"]).to(&["10.244.0.1:80", "[fd00::1]:80"]);
    let model = model(vec![("demo/web", web)]);
    let web = &model.services()[&name("demo/web")];
    assert_eq!((web.external_ips.clone(), web.load_balancer_ips.len()), (vec![ip("203.0.113.1")], 0));
    assert_eq!((web.source_ranges.len(), web.endpoints.len()), (0, 1));
}

#[test]
fn a_service_of_the_other_family_is_not_taken_and_replaces_nothing() {
    let mut model = model(vec![("demo/web", service("10.96.0.1:80"))]);
    assert!(!model.insert(name("demo/web"), service("[fd00::1]:80")));
    assert!(model.services().is_empty());
}

#[test]
fn endpoints_stand_in_the_order_of_their_text_and_once() {
    let endpoints = ["10.2.2.2:22 terminating", "10.2.2.22:22", "10.2.2.2:22", "10.2.2.3:22"];
    let model = model(vec![("demo/web", service("10.96.0.1:80").to(&endpoints))]);
    let endpoints = &model.services()[&name("demo/web")].endpoints;
    let text: Vec<_> = endpoints.iter().map(|e| format!("{} {}", e.socket(), e.terminating)).collect();
    expect!["10.2.2.22:22 false, 10.2.2.2:22 false, 10.2.2.3:22 false"].assert_eq(&text.join(", "));
}

#[test]
fn endpoints_on_the_node_itself_or_nowhere_are_left_out() {
    let nonsense = ["127.0.0.1:80", "0.0.0.0:80", "224.0.0.1:80", "169.254.169.254:80", "255.255.255.255:80"];
    let model = model(vec![("demo/web", service("10.96.0.1:80").to(&nonsense))]);
    assert_eq!(model.endpoint_count(), 0);
}

#[test]
fn source_ranges_are_masked_and_all_of_them_is_none() {
    let ranges = |ranges: &[&str]| {
        let model = model(vec![("demo/web", service("10.96.0.1:80").vip("203.0.113.1").from(ranges))]);
        model.services()[&name("demo/web")].source_ranges.clone()
    };
    assert_eq!(ranges(&["1.2.3.4/28", "1.2.3.5/28"]), ["1.2.3.0/28".parse().unwrap()]);
    assert_eq!(ranges(&["1.2.3.4/28", "0.0.0.0/0"]), []);
}

#[test]
fn the_name_that_sorts_first_keeps_what_two_services_claim() {
    let model = model(vec![
        ("demo/b", service("10.96.0.1:80").node_port(30000)),
        ("demo/a", service("10.96.0.2:80").node_port(30000).external("10.96.0.1")),
        ("demo/c", service("10.96.0.3:80").node_port(30000)),
    ]);
    let (resolved, clashes) = model.without_clashes();
    let clashes: Vec<_> = clashes.iter().map(|clash| clash.to_string()).collect();
    expect![[r#"
        10.96.0.1 tcp port 80 of demo/a already belongs to demo/b
        tcp node port 30000 of demo/b already belongs to demo/a
        tcp node port 30000 of demo/c already belongs to demo/a"#]]
    .assert_eq(&clashes.join("\n"));
    let left: Vec<_> = resolved.services().iter().map(|(name, s)| format!("{name} {:?}", s.node_port)).collect();
    expect![[r#"
        demo/a Some(30000)
        demo/b None
        demo/c None"#]]
    .assert_eq(&left.join("\n"));
    assert_eq!(resolved.without_clashes(), (Cow::Borrowed(&*resolved), vec![]));
}

#[test]
fn claims_are_looked_at_again_when_one_changes_and_not_for_endpoints() {
    let all = model(vec![("demo/a", service("10.96.0.1:80")), ("demo/b", service("10.96.0.2:80").node_port(30000))]);
    let (settled, clashes) = all.without_clashes();
    assert!(matches!(settled, Cow::Owned(_)) && clashes.is_empty());
    let mut model = settled.into_owned();
    model.insert(name("demo/a"), service("10.96.0.1:80").to(&["10.1.0.1:8080"]));
    assert!(matches!(model.without_clashes().0, Cow::Borrowed(_)), "only an endpoint came");
    model.remove(&name("demo/b"));
    assert!(matches!(model.without_clashes().0, Cow::Borrowed(_)), "what goes takes nothing from others");
    model.insert(name("demo/c"), service("10.96.0.1:80"));
    assert_eq!(model.without_clashes().1.len(), 1);
}

#[test]
fn the_ports_of_a_service_are_not_those_of_its_neighbours() {
    let names =
        ["demo/web", "demo/web:http", "demo/web:https", "demo/web-2", "demo/web-2:http", "demo/web0", "demo/we"];
    let addresses: Vec<_> = (1..=names.len()).map(|n| format!("10.96.0.{n}:80")).collect();
    let all = model(names.iter().zip(&addresses).map(|(name, address)| (*name, service(address))).collect());
    let of = |service| all.ports_of("demo", service).map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    assert_eq!(of("web"), "demo/web demo/web:http demo/web:https");
    assert_eq!(
        (of("web-2"), of("w"), of("we")),
        ("demo/web-2 demo/web-2:http".into(), String::new(), "demo/we".into())
    );
}

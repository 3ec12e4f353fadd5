use super::*;
use crate::testing::{node, service};
use expect_test::{Expect, expect};

#[track_caller]
fn check(service: ServicePort, chosen: Expect) {
    let mut model = crate::Model::new(crate::Family::V4);
    model.insert(crate::testing::name("demo/web"), service);
    let service = model.services().values().next().unwrap();
    let selection = Selection::of(service, &node());
    let names = |list: &[&Endpoint]| list.iter().map(|e| e.address.to_string()).collect::<Vec<_>>().join(" ");
    let Selection { cluster, local, any, .. } = &selection;
    let line = format!("cluster [{}] local [{}] any {any}", names(cluster), names(local));
    let policies = (selection.verdict(service.internal_policy), selection.verdict(service.external_policy));
    chosen.assert_eq(&format!("{line} internal {:?} external {:?}", policies.0, policies.1));
}

fn web(endpoints: &[&str]) -> ServicePort {
    service("10.96.0.1:80").to(endpoints)
}

#[test]
fn ready_endpoints_come_first_then_those_that_end_but_still_serve() {
    check(
        web(&["10.0.0.1:1", "10.0.0.2:1 terminating"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 unready", "10.0.0.2:1 terminating", "10.0.0.3:1 dead"]),
        expect!["cluster [10.0.0.2] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 unready", "10.0.0.3:1 dead"]),
        expect!["cluster [] local [] any false internal Some(Reject) external Some(Reject)"],
    );
}

#[test]
fn local_policies_fall_back_on_their_own() {
    let edge = |endpoints| web(endpoints).node_port(30000).external_local();
    check(
        edge(&["10.0.0.1:1", "10.0.0.2:1 local terminating"]),
        expect!["cluster [10.0.0.1] local [10.0.0.2] any true internal None external None"],
    );
    check(
        edge(&["10.0.0.1:1", "10.0.0.2:1 local unready"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external Some(Drop)"],
    );
    check(
        edge(&["10.0.0.1:1 terminating"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external Some(Drop)"],
    );
    check(
        edge(&["10.0.0.1:1 unready"]),
        expect!["cluster [] local [] any false internal Some(Reject) external Some(Reject)"],
    );
}

#[test]
fn an_external_policy_without_an_external_address_governs_nothing() {
    check(
        web(&["10.0.0.1:1"]).external_local(),
        expect!["cluster [10.0.0.1] local [] any true internal None external Some(Drop)"],
    );
}

#[test]
fn an_internal_local_policy_alone_needs_no_cluster_endpoints() {
    check(
        web(&["10.0.0.1:1", "10.0.0.2:1 local"]).internal_local(),
        expect!["cluster [] local [10.0.0.2] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1", "10.0.0.2:1 local"]).internal_local().node_port(30000),
        expect!["cluster [10.0.0.1 10.0.0.2] local [10.0.0.2] any true internal None external None"],
    );
}

#[test]
fn hints_are_followed_when_every_ready_endpoint_has_one_and_one_is_for_here() {
    check(
        web(&["10.0.0.1:1 zone=a", "10.0.0.2:1 zone=b"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 zone=a", "10.0.0.2:1"]),
        expect!["cluster [10.0.0.1 10.0.0.2] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 zone=c", "10.0.0.2:1 zone=b"]),
        expect!["cluster [10.0.0.1 10.0.0.2] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 zone=a", "10.0.0.2:1 unready"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 zone=a node=n1", "10.0.0.2:1 zone=a node=n2"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external None"],
    );
    check(
        web(&["10.0.0.1:1 zone=a node=n3", "10.0.0.2:1 zone=b node=n2"]),
        expect!["cluster [10.0.0.1] local [] any true internal None external None"],
    );
}

#[test]
fn hints_do_not_touch_the_local_policy() {
    let edge = web(&["10.0.0.1:1 zone=a", "10.0.0.2:1 zone=b local"]).node_port(30000).external_local();
    check(edge, expect!["cluster [10.0.0.1] local [10.0.0.2] any true internal None external None"]);
}

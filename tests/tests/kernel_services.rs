//! What real packets to services meet, in network namespaces made for one test: the same in both back ends of iptables
//! and with nftables.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use anyhow::Result;
use netfilter::apply::Iptables;
use netfilter::iptables::Tables;
use netfilter::nft;
use netfilter::{Family, Model, NodeConfig, Policy, Protocol, Ruleset, ServicePort, Transaction};
use tests::pod_network::{NEIGHBOUR, Netns, can_run};
use tests::sctp;
use tests::service_world::{World, on_all, on_both, port, service};

const CLUSTER_IP: &str = "10.96.0.10:80";

fn names(from: &Netns, address: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    for _ in 0..times {
        let answer = from.ask_tcp(address)?;
        *names.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(names)
}

#[test]
fn connections_spread_evenly_over_the_endpoints() {
    const ASKED: usize = 250;
    on_all(|mut world| {
        for (number, name) in [(2, "a"), (3, "b"), (4, "c"), (5, "d"), (6, "e")] {
            world.server(number, name)?;
        }
        world.serve(service(CLUSTER_IP, &[2, 3, 4, 5, 6])?)?;
        let names = names(&world.pod(9)?, CLUSTER_IP, ASKED)?;
        let expected = ASKED as f64 / 5.0;
        let deviation: f64 = names.values().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
        // Chi-square with four degrees of freedom: above 48 is a chance of one in 10^9.
        assert!(names.len() == 5 && deviation < 48.0, "{names:?} deviates by {deviation}");
        Ok(())
    });
}

#[test]
fn a_pod_is_seen_as_itself_and_the_outside_as_the_node() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.serve(service(CLUSTER_IP, &[2])?)?;
        assert_eq!(world.pod(9)?.ask_tcp(CLUSTER_IP)?, "a 10.244.1.9");
        assert_eq!(world.neighbour.ask_tcp(CLUSTER_IP)?, "a 10.244.1.1");
        assert_eq!(world.node.ask_tcp(CLUSTER_IP)?, "a 10.244.1.1");
        Ok(())
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    on_all(|mut world| {
        let pod = world.server(2, "a")?;
        world.serve(service(CLUSTER_IP, &[2])?)?;
        assert_eq!(pod.ask_tcp(CLUSTER_IP)?, "a 10.244.1.1", "masqueraded, or the answer would not come back");
        Ok(())
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    on_all(|mut world| {
        let mut empty = service(CLUSTER_IP, &[])?;
        empty.node_port = Some(port(30080)?);
        world.serve(empty)?;
        for (who, from, address) in [
            ("a pod", world.pod(9)?, CLUSTER_IP),
            ("the neighbour", world.neighbour.clone(), CLUSTER_IP),
            ("the node", world.node.clone(), CLUSTER_IP),
            ("the neighbour", world.neighbour.clone(), "192.0.2.1:30080"),
        ] {
            let error = from.ask_tcp(address).unwrap_err();
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused), "{who} asks {address}: {error:#}");
        }
        Ok(())
    });
}

#[test]
fn a_node_port_answers_on_every_address_and_on_localhost() {
    on_both(|mut world| {
        world.server(2, "a")?;
        let mut web = service(CLUSTER_IP, &[2])?;
        web.node_port = Some(port(30080)?);
        world.serve(web)?;
        assert_eq!(world.neighbour.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.1");
        assert_eq!(world.pod(9)?.ask_tcp("10.244.1.1:30080")?, "a 10.244.1.1");
        assert_eq!(world.node.ask_tcp("127.0.0.1:30080")?, "a 10.244.1.1");
        assert_eq!(world.node.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.1");
        Ok(())
    });
}

#[test]
fn a_node_port_of_nftables_answers_on_every_address_but_localhost() {
    if !can_run() {
        return;
    }
    let test = || -> Result<()> {
        let mut world = World::with_nftables()?;
        world.server(2, "a")?;
        let mut web = service(CLUSTER_IP, &[2])?;
        web.node_port = Some(port(30080)?);
        world.serve(web)?;
        assert_eq!(world.neighbour.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.1");
        assert_eq!(world.pod(9)?.ask_tcp("10.244.1.1:30080")?, "a 10.244.1.1");
        assert_eq!(world.node.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.1");
        assert!(world.node.ask_tcp("127.0.0.1:30080").is_err());
        Ok(())
    };
    test().unwrap();
}

#[test]
fn a_client_keeps_its_endpoint_as_long_as_affinity_lasts() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        let mut sticky = service(CLUSTER_IP, &[2, 3])?;
        sticky.affinity_seconds = NonZeroU32::new(600);
        world.serve(sticky)?;
        for client in 10..14 {
            let client = world.pod(client)?;
            assert_eq!(names(&client, CLUSTER_IP, 15)?.len(), 1);
        }
        Ok(())
    });
}

/// Asks until somebody else than `before` answers, longer apart than affinity lasts.
fn until_another_answers(client: &Netns, before: &str) -> Result<()> {
    // A choice of two falls on the same one 40 times in a row once in 10^12.
    for _ in 0..40 {
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        if client.ask_tcp(CLUSTER_IP)? != before {
            return Ok(());
        }
    }
    anyhow::bail!("{before} answers although affinity has ended")
}

#[test]
fn affinity_ends_with_its_time_and_when_it_is_switched_off() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        let client = world.pod(9)?;
        let mut sticky = service(CLUSTER_IP, &[2, 3])?;
        sticky.affinity_seconds = NonZeroU32::new(1);
        world.serve(sticky.clone())?;
        until_another_answers(&client, &client.ask_tcp(CLUSTER_IP)?)?;
        world.serve(service(CLUSTER_IP, &[2, 3])?)?;
        assert_eq!(names(&client, CLUSTER_IP, 40)?.len(), 2, "switched off");
        sticky.affinity_seconds = NonZeroU32::new(600);
        world.serve(sticky)?;
        assert_eq!(names(&client, CLUSTER_IP, 15)?.len(), 1, "and on again");
        Ok(())
    });
}

#[test]
fn an_internal_local_policy_leads_to_endpoints_of_this_node_or_nowhere() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        let client = world.pod(9)?;
        let mut web = service(CLUSTER_IP, &[2, 3])?;
        web.internal_policy = Policy::Local;
        web.endpoints[1].local = false;
        world.serve(web.clone())?;
        assert_eq!(names(&client, CLUSTER_IP, 20)?.into_keys().collect::<String>(), "a");
        assert_eq!(client.ask_tcp(CLUSTER_IP)?, "a 10.244.1.9");
        web.endpoints[0].local = false;
        world.serve(web)?;
        let error = client.ask_tcp(CLUSTER_IP).unwrap_err();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::TimedOut), "endpoints elsewhere: {error:#}");
        Ok(())
    });
}

#[test]
fn sctp_packets_find_their_service_and_the_answers_their_way_back() {
    on_all(|mut world| {
        let (server, client) = (world.pod(2)?, world.pod(9)?);
        let mut signal = service("10.96.0.10:9000", &[2])?;
        (signal.protocol, signal.node_port) = (Protocol::Sctp, Some(port(30090)?));
        world.serve(signal)?;
        for (from, source, to) in [
            (&client, "10.244.1.9:4001", "10.96.0.10:9000"),
            (&client, "10.244.1.9:4002", "10.244.1.1:30090"),
            (&world.neighbour, "192.0.2.2:4003", "192.0.2.1:30090"),
        ] {
            let (arrived, seen) = sctp::associate((from, source.parse()?), to.parse()?, &server)?;
            assert_eq!(arrived.to_string(), "10.244.1.2:8080");
            assert_eq!(seen.to_string(), to, "the answer comes from where the client sent to");
        }
        Ok(())
    });
}

#[test]
fn the_local_policy_keeps_the_source_address() {
    on_all(|mut world| {
        world.server(2, "a")?;
        let mut web = service(CLUSTER_IP, &[2])?;
        (web.node_port, web.external_policy) = (Some(port(30080)?), Policy::Local);
        world.serve(web)?;
        assert_eq!(world.neighbour.ask_tcp("192.0.2.1:30080")?, format!("a {NEIGHBOUR}"));
        assert_eq!(world.neighbour.ask_tcp(CLUSTER_IP)?, "a 10.244.1.1", "the cluster IP is not external");
        assert_eq!(world.pod(9)?.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.9");
        Ok(())
    });
}

#[test]
fn the_local_policy_is_silent_when_endpoints_are_elsewhere() {
    on_all(|mut world| {
        world.server(2, "a")?;
        let mut web = service(CLUSTER_IP, &[2])?;
        (web.node_port, web.external_policy) = (Some(port(30080)?), Policy::Local);
        web.endpoints.iter_mut().for_each(|endpoint| endpoint.local = false);
        world.serve(web)?;
        let error = world.neighbour.ask_tcp("192.0.2.1:30080").unwrap_err();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::TimedOut), "{error:#}");
        assert_eq!(world.pod(9)?.ask_tcp("192.0.2.1:30080")?, "a 10.244.1.9", "pods take the short way");
        Ok(())
    });
}

#[test]
fn source_ranges_let_some_in_and_leave_others_out() {
    on_all(|mut world| {
        world.server(2, "a")?;
        let mut web = service(CLUSTER_IP, &[2])?;
        web.load_balancer_ips.push("203.0.113.5".parse()?);
        web.source_ranges.push("192.0.2.2/32".parse()?);
        world.serve(web)?;
        assert_eq!(world.neighbour_asks_from(NEIGHBOUR, "203.0.113.5:80")?, "a 10.244.1.1");
        assert!(world.neighbour_asks_from("192.0.2.77", "203.0.113.5:80").is_err());
        Ok(())
    });
}

#[test]
fn udp_and_external_ips_work_too() {
    on_all(|mut world| {
        world.server(2, "a")?;
        let mut dns = service("10.96.0.10:53", &[2])?;
        dns.protocol = Protocol::Udp;
        dns.external_ips.push("203.0.113.7".parse()?);
        world.serve(dns)?;
        assert_eq!(world.pod(9)?.ask_udp("10.96.0.10:53")?, "a 10.244.1.9");
        assert_eq!(world.neighbour.ask_udp("203.0.113.7:53")?, "a 10.244.1.1");
        Ok(())
    });
}

#[test]
fn traffic_follows_the_endpoints() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        let client = world.pod(9)?;
        for (pods, heard) in [(vec![2], "a"), (vec![3], "b"), (vec![2, 3], "ab"), (vec![3], "b")] {
            world.serve(service(CLUSTER_IP, &pods)?)?;
            let names: String = names(&client, CLUSTER_IP, 30)?.into_keys().collect();
            assert_eq!(names, heard);
        }
        world.serve(service(CLUSTER_IP, &[])?)?;
        assert!(client.ask_tcp(CLUSTER_IP).is_err());
        Ok(())
    });
}

/// Gives node, neighbour and pod 2 addresses of IPv6 and a way to 2001:db8:96::/64 through the node.
fn with_ipv6(world: &mut World) -> Result<Netns> {
    let pod = world.pod(2)?;
    world.node.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
    for (netns, address) in [
        (&world.node, "2001:db8::1/64 dev wan"),
        (&world.node, "fd00:244::1/64 dev cni0"),
        (&world.neighbour, "2001:db8::2/64 dev lan"),
        (&pod, "fd00:244::2/64 dev eth0"),
    ] {
        // Without the wait for duplicates, which would need a sleep here.
        netns.ip(&format!("address add {address} nodad"))?;
    }
    world.neighbour.ip("route add 2001:db8:96::/64 via 2001:db8::1")?;
    world.node.ip("route add default via 2001:db8::2")?;
    pod.ip("route add default via fd00:244::1")?;
    pod.serve_tcp("[::]:8080", "six")?;
    Ok(pod)
}

fn model_of_ipv6() -> Result<Model> {
    let mut web = ServicePort::new(Protocol::Tcp, "2001:db8:96::a".parse()?, port(80)?);
    (web.node_port, web.affinity_seconds) = (Some(port(30080)?), NonZeroU32::new(60));
    let mut endpoint = netfilter::Endpoint::ready("fd00:244::2".parse()?, port(8080)?);
    endpoint.local = true;
    web.endpoints.push(endpoint);
    let empty = ServicePort::new(Protocol::Tcp, "2001:db8:96::b".parse()?, port(80)?);
    let mut model = Model::new(Family::V6);
    model.insert(netfilter::ServicePortName::new("demo", "web", "http")?, web);
    model.insert(netfilter::ServicePortName::new("demo", "empty", "http")?, empty);
    Ok(model)
}

#[test]
fn ipv6_works_in_all_three_ways() {
    if !can_run() {
        return;
    }
    let config = NodeConfig {
        local_traffic: netfilter::LocalTraffic::Cidr("fd00:244::/64".parse().unwrap()),
        ..NodeConfig::default()
    };
    let ask = |world: &World, pod: &Netns| -> Result<()> {
        for (who, from, address, seen) in [
            ("the neighbour", &world.neighbour, "[2001:db8:96::a]:80", "six fd00:244::1"),
            ("the neighbour", &world.neighbour, "[2001:db8::1]:30080", "six fd00:244::1"),
            ("the node", &world.node, "[2001:db8:96::a]:80", "six fd00:244::1"),
            ("the pod itself", pod, "[2001:db8:96::a]:80", "six fd00:244::1"),
        ] {
            assert_eq!(from.ask_tcp(address)?, seen, "{who} asks {address}");
        }
        let error = world.node.ask_tcp("[2001:db8:96::b]:80").unwrap_err();
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused), "{error:#}");
        Ok(())
    };
    on_both(|mut world| {
        let pod = with_ipv6(&mut world)?;
        let ruleset = Ruleset::render(&model_of_ipv6()?, &config);
        let transaction = Transaction::from_nothing(&ruleset);
        let tables = world.node.run(|| -> Result<Tables> {
            let iptables = Iptables::find(Family::V6)?;
            assert!(iptables.is_supported());
            assert_eq!(iptables.backend(), world.iptables().backend());
            iptables.restore(&transaction)?;
            Ok(iptables.save(None)?)
        })??;
        assert_eq!(Transaction::takeover(&tables, &ruleset).text(), "");
        ask(&world, &pod)
    });
    let test = || -> Result<()> {
        let mut world = World::with_nftables()?;
        let pod = with_ipv6(&mut world)?;
        let ruleset = nft::Ruleset::render(&model_of_ipv6()?, &config);
        let transaction = nft::Transaction::between(&nft::Ruleset::empty(Family::V6), &ruleset);
        world.node.run(|| world.nftables().0.restore(&transaction))??;
        ask(&world, &pod)
    };
    test().unwrap();
}

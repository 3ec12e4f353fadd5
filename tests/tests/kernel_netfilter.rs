//! Real rules and real packets, in network namespaces made for one test.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use anyhow::Result;
use netfilter::apply::{ApplyError, Backend, Iptables, KUBELET_CANARY, PROXY_CANARY, Watch};
use netfilter::iptables::{JUMPS, Jump, Table, Tables};
use netfilter::nft;
use netfilter::{Fake, Family, Model, NodeConfig, Policy, Protocol, Ruleset, ServicePort, Transaction};
use tests::pod_network::{NEIGHBOUR, Netns, can_run};
use tests::service_world::{World, model, port, service};

const CLUSTER_IP: &str = "10.96.0.10:80";

/// Packets must not notice which of the three ways the rules are written.
fn on_all(test: impl Fn(World) -> Result<()>) {
    if can_run() {
        on_both(&test);
        test(World::with_nftables().unwrap()).unwrap();
    }
}

/// Both back ends of iptables.
fn on_both(test: impl Fn(World) -> Result<()>) {
    if can_run() {
        test(World::new().unwrap()).unwrap();
        test(World::with_legacy_tables().unwrap()).unwrap();
    }
}

fn names(from: &Netns, address: &str, times: usize) -> Result<BTreeMap<String, usize>> {
    let mut names = BTreeMap::new();
    for _ in 0..times {
        let answer = from.ask_tcp(address)?;
        *names.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(names)
}

#[test]
fn the_back_end_with_the_kubelets_mark_is_found() {
    if can_run() {
        assert_eq!(World::new().unwrap().iptables().backend(), Backend::Nft);
        assert_eq!(World::with_legacy_tables().unwrap().iptables().backend(), Backend::Legacy);
    }
}

#[test]
fn connections_spread_over_both_endpoints() {
    on_all(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        world.serve(service(CLUSTER_IP, &[2, 3])?)?;
        let client = world.pod(9)?;
        let names = names(&client, CLUSTER_IP, 200)?;
        // Each side is expected 100 times with a deviation of 7: six of them are a chance of one in 10^9.
        assert!(names.len() == 2 && names.values().all(|count| (58..=142).contains(count)), "{names:?}");
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

/// One of each kind of rule.
fn every_kind() -> Result<Vec<(&'static str, ServicePort)>> {
    let mut edge = service("10.96.0.1:80", &[2, 3])?;
    (edge.external_policy, edge.node_port, edge.health_check_node_port) =
        (Policy::Local, Some(port(30001)?), Some(port(31001)?));
    edge.load_balancer_ips.push("203.0.113.5".parse()?);
    edge.source_ranges = vec!["192.0.2.0/24".parse()?, "198.51.100.0/25".parse()?];
    let mut sticky = service("10.96.0.2:80", &[2, 3, 4])?;
    (sticky.affinity_seconds, sticky.node_port) = (NonZeroU32::new(10800), Some(port(30002)?));
    let mut sctp = service("10.96.0.3:80", &[5])?;
    (sctp.protocol, sctp.internal_policy) = (Protocol::Sctp, Policy::Local);
    let mut gone = service("10.96.0.4:53", &[])?;
    (gone.protocol, gone.node_port) = (Protocol::Udp, Some(port(30004)?));
    gone.external_ips.push("203.0.113.7".parse()?);
    Ok(vec![("demo/edge", edge), ("demo/sticky", sticky), ("demo/sctp", sctp), ("demo/gone", gone)])
}

/// Chains that are ours, without the jumps to them.
fn ours(tables: &Tables) -> Vec<String> {
    let text = tables.to_string();
    let is_ours = |line: &&str| line.starts_with(":KUBE") || line.starts_with("-A KUBE") || line.starts_with('*');
    text.lines().filter(|line| is_ours(line) && !line.contains("KUBE-IPTABLES-HINT")).map(str::to_owned).collect()
}

#[test]
fn the_kernel_holds_what_the_fake_holds() {
    on_both(|mut world| {
        let mut fake = Fake::new(Family::V4);
        fake.apply(&Transaction::between(&Ruleset::empty(Family::V4), world.ruleset()))?;
        let services = every_kind()?;
        let mut models: Vec<_> =
            (0..services.len()).map(|count| model(services[count..].to_vec())).collect::<Result<_>>()?;
        models.push(Model::new(Family::V4));
        models.push(model(services)?);
        for model in models {
            let before = world.ruleset().clone();
            world.program(&model)?;
            fake.apply(&Transaction::between(&before, world.ruleset()))?;
            assert_eq!(ours(&world.tables()?), ours(fake.tables()));
        }
        Ok(())
    });
}

#[test]
fn rules_found_in_the_kernel_are_recognised_repaired_and_removed() {
    on_both(|mut world| {
        world.program(&model(every_kind()?)?)?;
        let takeover =
            |world: &World| -> Result<Transaction> { Ok(Transaction::takeover(&world.tables()?, world.ruleset())) };
        assert_eq!(takeover(&world)?.text(), "", "all is as it should be");
        let tool = if world.iptables().backend() == Backend::Nft { "iptables" } else { "iptables-legacy" };
        world.node.command(tool, &["-t", "nat", "-F", "KUBE-SERVICES"])?;
        world.node.command(tool, &["-t", "nat", "-N", "KUBE-SEP-STALE"])?;
        world.node.command(tool, &["-t", "nat", "-D", "PREROUTING", "1"])?;
        let repair = takeover(&world)?;
        world.node.run(|| world.iptables().restore(&repair))??;
        let missing = Jump::missing_from(&world.tables()?);
        assert_eq!(missing.len(), 1);
        world.node.run(|| world.iptables().ensure_jumps(&missing))??;
        assert_eq!(takeover(&world)?.text(), "");
        assert!(Jump::missing_from(&world.tables()?).is_empty());
        let cleanup = Transaction::cleanup(&world.tables()?);
        world.node.run(|| world.iptables().restore(&cleanup))??;
        let left: Vec<_> = ours(&world.tables()?).into_iter().filter(|line| line.starts_with(':')).collect();
        assert_eq!(left, [":KUBE-FIREWALL - [0:0]"], "the kubelet's");
        Ok(())
    });
}

#[test]
fn one_text_is_enough_for_an_empty_namespace() {
    if !can_run() {
        return;
    }
    let world = World::new().unwrap();
    let empty = Netns::new().unwrap();
    let ruleset = Ruleset::render(&model(every_kind().unwrap()).unwrap(), &NodeConfig::default());
    empty.run(|| world.iptables().restore(&Transaction::from_nothing(&ruleset))).unwrap().unwrap();
    let tables = empty.run(|| world.iptables().save(None)).unwrap().unwrap();
    assert!(Jump::missing_from(&tables).is_empty());
    let forward = |tables: &Tables| tables.rules(Table::Filter, "FORWARD").map(<[String]>::to_vec);
    assert_eq!(forward(&tables), forward(&world.tables().unwrap()), "jumps stand in the same order");
}

#[test]
fn a_refused_line_is_named_with_its_service() {
    on_both(|mut world| {
        let full = Ruleset::render(&model(every_kind()?)?, &NodeConfig::default());
        // What is not in the kernel cannot be taken out of it.
        let without = full.next(
            &model(every_kind()?.into_iter().filter(|(name, _)| *name != "demo/gone").collect())?,
            &NodeConfig::default(),
        );
        let refused = world.node.run(|| world.iptables().restore(&Transaction::between(&full, &without)))?;
        match refused {
            Err(ApplyError::Refused { line, owner, .. }) => {
                assert!(line.contains("demo/gone has no endpoints"), "{line}");
                assert_eq!(owner.map(|owner| owner.to_string()).as_deref(), Some("demo/gone"));
            }
            other => panic!("{other:?}"),
        }
        world.serve(service(CLUSTER_IP, &[])?)?;
        Ok(())
    });
}

#[test]
fn jumps_and_canaries_can_be_made_any_number_of_times() {
    on_both(|world| {
        let before = world.tables()?.to_string();
        world.node.run(|| world.iptables().ensure_jumps(&JUMPS))??;
        assert_eq!(world.tables()?.to_string(), before);
        assert!(!world.node.run(|| world.iptables().has_canary(PROXY_CANARY))??);
        for _ in 0..2 {
            world.node.run(|| world.iptables().make_canary(PROXY_CANARY))??;
            world.node.run(|| world.iptables().make_canary(KUBELET_CANARY))??;
            world.node.run(|| world.iptables().make_kubelet_chains())??;
        }
        assert!(world.node.run(|| world.iptables().has_canary(PROXY_CANARY))??);
        let tables = world.tables()?;
        assert_eq!(tables.rules(Table::Filter, "KUBE-FIREWALL").map(<[String]>::len), Some(1));
        assert_eq!(tables.rules(Table::Filter, "INPUT").map(<[String]>::len), Some(4));
        Ok(())
    });
}

#[test]
fn the_table_of_nftables_is_taken_over_replaced_and_removed() {
    if !can_run() {
        return;
    }
    let test = || -> Result<()> {
        let mut world = World::with_nftables()?;
        let listing = |world: &World| world.node.command("nft", &["list", "table", "ip", "kube-proxy"]);
        // By name of chain, set and element: what is made anew moves to the end of a listing.
        let sorted = |world: &World| -> Result<Vec<String>> {
            let listing = listing(world)?.replace(",\n", "\n");
            let mut lines: Vec<_> = listing.lines().map(|line| line.trim().replace("elements = {", "")).collect();
            lines.iter_mut().for_each(|line| *line = line.trim_end_matches(" }").trim().to_owned());
            lines.sort_unstable();
            Ok(lines)
        };
        world.program(&model(every_kind()?)?)?;
        let wanted = sorted(&world)?;
        for damage in [
            "flush chain ip kube-proxy services",
            "flush map ip kube-proxy service-ips",
            "add chain ip kube-proxy service-STALE",
            "flush ruleset",
        ] {
            world.node.command("nft", &[damage])?;
            let (nft, ruleset) = world.nftables();
            let repair = match world.node.run(|| nft.found(Family::V4))?? {
                Some(found) => nft::Transaction::takeover(&found, ruleset),
                None => nft::Transaction::between(&nft::Ruleset::empty(Family::V4), ruleset),
            };
            world.node.run(|| nft.restore(&repair))??;
            assert_eq!(sorted(&world)?, wanted, "{damage}");
            world.node.run(|| nft.restore(&nft::Transaction::replacing(ruleset)))??;
            assert_eq!(sorted(&world)?, wanted, "replaced after {damage}");
        }
        for rest in (0..4).rev().chain([4]) {
            world.program(&model(every_kind()?[rest..].to_vec())?)?;
        }
        let (nft, ruleset) = world.nftables();
        world.node.run(|| nft.restore(&nft::Transaction::between(ruleset, &nft::Ruleset::empty(Family::V4))))??;
        world.node.run(|| nft.restore(&nft::Transaction::cleanup(Family::V4)))??;
        assert!(listing(&world).is_err());
        Ok(())
    };
    test().unwrap();
}

#[test]
fn a_line_that_nft_refuses_is_named_with_its_service() {
    if !can_run() {
        return;
    }
    let test = || -> Result<()> {
        let world = World::with_nftables()?;
        let full = nft::Ruleset::render(&model(every_kind()?)?, &NodeConfig::default());
        let without = full.next(&Model::new(Family::V4), &NodeConfig::default());
        let (nft, _) = world.nftables();
        match world.node.run(|| nft.restore(&nft::Transaction::between(&full, &without)))? {
            Err(ApplyError::Refused { line, owner, .. }) => {
                assert!(line.starts_with("delete element"), "{line}");
                assert_eq!(owner.map(|owner| owner.to_string()).as_deref(), Some("demo/edge"));
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    };
    test().unwrap();
}

#[test]
fn a_change_by_anybody_is_seen_without_listing_rules() {
    on_both(|mut world| {
        let backend = world.iptables().backend();
        let watch = world.node.run(|| Watch::open(Family::V4, backend))??;
        let tool = if backend == Backend::Nft { "iptables" } else { "iptables-legacy" };
        let first = watch.fingerprint()?;
        world.tables()?;
        assert_eq!(watch.fingerprint()?, first, "looking is no change");
        world.serve(service(CLUSTER_IP, &[2])?)?;
        let second = watch.fingerprint()?;
        assert_ne!(second, first);
        world.node.command(tool, &["-t", "nat", "-F", "KUBE-SERVICES"])?;
        let third = watch.fingerprint()?;
        assert_ne!(third, second);
        world.neighbour.command("nft", &["add table ip elsewhere"])?;
        assert_eq!(watch.fingerprint()?, third, "other namespaces have rules of their own");
        let six = world.node.run(|| Watch::open(Family::V6, backend))??;
        assert_eq!(six.fingerprint()?, six.fingerprint()?);
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

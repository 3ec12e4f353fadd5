//! What the library and the kernel's tables tell each other, in network namespaces made for one test. Packets are sent in
//! `kernel_services.rs`.

use std::num::NonZeroU32;

use anyhow::Result;
use netfilter::apply::{ApplyError, Backend, KUBELET_CANARY, PROXY_CANARY, Watch};
use netfilter::iptables::{JUMPS, Jump, Table, Tables};
use netfilter::nft;
use netfilter::{Fake, Family, Model, NodeConfig, Policy, Protocol, Ruleset, ServicePort, Transaction};
use tests::pod_network::{Netns, can_run};
use tests::service_world::{World, model, on_both, port, service};

const CLUSTER_IP: &str = "10.96.0.10:80";

#[test]
fn the_back_end_with_the_kubelets_mark_is_found() {
    if can_run() {
        assert_eq!(World::new().unwrap().iptables().backend(), Backend::Nft);
        assert_eq!(World::with_legacy_tables().unwrap().iptables().backend(), Backend::Legacy);
    }
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

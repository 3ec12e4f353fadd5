//! Rules change hands and change all the time, and no connection to a healthy service fails: between kube-proxy and us,
//! and through any number of changes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netfilter::iptables::{Table, Tables};
use netfilter::{Policy, ServicePort, ServicePortName, Transaction};
use tests::pod_network::Netns;
use tests::service_world::{World, model, on_all, on_both, port, service};

const CLUSTER_IP: &str = "10.96.0.50:80";
const NODE_PORT: &str = "192.0.2.1:30080";

/// Between two questions of one client: what a test costs is bounded by its changes, not by its clients.
const PAUSE: Duration = Duration::from_millis(5);

/// What kube-proxy 1.36 writes for demo/web:http with two endpoints, and for a Service that is gone by now, in its order.
const KUBE_PROXY: &str = r#"*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-FIREWALL - [0:0]
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x00004000/0x00004000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-XRY76EGRC3BSCIIJ - [0:0]
:KUBE-EXT-XRY76EGRC3BSCIIJ - [0:0]
:KUBE-SEP-PPQSH3RHU5NVL3F3 - [0:0]
:KUBE-SEP-42676UCKGIO5SMC6 - [0:0]
-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000
-A KUBE-SERVICES -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 -j KUBE-SVC-XRY76EGRC3BSCIIJ
-A KUBE-NODEPORTS -m comment --comment demo/web:http -m tcp -p tcp --dport 30080 -j KUBE-EXT-XRY76EGRC3BSCIIJ
-A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http cluster IP" -m tcp -p tcp -d 10.96.0.50 --dport 80 ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-EXT-XRY76EGRC3BSCIIJ -m comment --comment "masquerade traffic for demo/web:http external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-XRY76EGRC3BSCIIJ -j KUBE-SVC-XRY76EGRC3BSCIIJ
-A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.1.2:8080" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-PPQSH3RHU5NVL3F3
-A KUBE-SVC-XRY76EGRC3BSCIIJ -m comment --comment "demo/web:http -> 10.244.1.3:8080" -j KUBE-SEP-42676UCKGIO5SMC6
-A KUBE-SEP-PPQSH3RHU5NVL3F3 -m comment --comment demo/web:http -s 10.244.1.2 -j KUBE-MARK-MASQ
-A KUBE-SEP-PPQSH3RHU5NVL3F3 -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.1.2:8080
-A KUBE-SEP-42676UCKGIO5SMC6 -m comment --comment demo/web:http -s 10.244.1.3 -j KUBE-MARK-MASQ
-A KUBE-SEP-42676UCKGIO5SMC6 -m comment --comment demo/web:http -m tcp -p tcp -j DNAT --to-destination 10.244.1.3:8080
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"#;

/// A Service that kube-proxy knew and that nobody knows any more.
const STALE: &str = r#"*nat
:KUBE-SVC-IHSDW6B34HFOY7TM - [0:0]
:KUBE-SEP-Y74NZQWHFH3AN2PQ - [0:0]
-A KUBE-SEP-Y74NZQWHFH3AN2PQ -m comment --comment demo/old:http -m tcp -p tcp -j DNAT --to-destination 10.244.1.4:8080
-A KUBE-SVC-IHSDW6B34HFOY7TM -m comment --comment "demo/old:http -> 10.244.1.4:8080" -j KUBE-SEP-Y74NZQWHFH3AN2PQ
-I KUBE-SERVICES -m comment --comment "demo/old:http cluster IP" -m tcp -p tcp -d 10.96.0.51 --dport 80 -j KUBE-SVC-IHSDW6B34HFOY7TM
COMMIT
"#;

/// Asks each address from its namespace, over and over, while `work` is done; the first failure of either is the result.
/// Gives how often was asked, and what `work` gave.
fn under_load<T>(asked: &[(&Netns, &str)], work: impl FnOnce() -> Result<T>) -> Result<(usize, T)> {
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let client = |(from, address): &(&Netns, &str)| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let asked = count.fetch_add(1, Ordering::Relaxed);
                from.ask_tcp(address).with_context(|| format!("connection {asked}, to {address}"))?;
                thread::sleep(PAUSE);
            }
            Ok(())
        };
        let clients: Vec<_> = asked.iter().map(|one| scope.spawn(move || client(one))).collect();
        let done = work();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok((count.load(Ordering::Relaxed), done?))
    })
}

fn restore(world: &World, text: &str) -> Result<()> {
    let tool = match world.iptables().backend() {
        netfilter::apply::Backend::Nft => "iptables-nft-restore",
        netfilter::apply::Backend::Legacy => "iptables-legacy-restore",
    };
    let script = format!("exec {tool} -w 5 --noflush --counters <<'END'\n{text}END\n");
    world.node.command("sh", &["-c", &script]).map(drop)
}

fn web() -> Result<netfilter::Model> {
    let mut web = service(CLUSTER_IP, &[2, 3])?;
    web.node_port = Some(port(30080)?);
    let mut model = netfilter::Model::new(netfilter::Family::V4);
    model.insert(ServicePortName::new("demo", "web", "http")?, web);
    Ok(model)
}

/// Chains of ours, in whatever order the kernel has them.
fn ours(tables: &Tables) -> Vec<String> {
    let text = tables.to_string();
    let is_ours = |line: &&str| line.contains("KUBE-") && !line.contains("KUBE-IPTABLES-HINT");
    let mut lines: Vec<_> = text.lines().filter(is_ours).map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn kube_proxys_rules_become_ours_and_back_without_a_failed_connection() {
    on_both(|mut world| {
        world.server(2, "a")?;
        world.server(3, "b")?;
        let (pod, neighbour) = (world.pod(9)?, world.neighbour.clone());
        restore(&world, KUBE_PROXY)?;
        let theirs = ours(&world.tables()?);
        restore(&world, STALE)?;
        let clients = [(&pod, CLUSTER_IP), (&neighbour, CLUSTER_IP), (&neighbour, NODE_PORT)];
        let model = web()?;
        let (asked, ()) = under_load(&clients, || {
            for _ in 0..10 {
                restore(&world, STALE)?;
                let found = world.tables()?;
                let rules = netfilter::Ruleset::render(&model, world.config());
                world.node.run(|| world.iptables().restore(&Transaction::takeover(&found, &rules)))??;
                ensure!(
                    ours(&world.tables()?) == theirs,
                    "what kube-proxy wrote is what we write: {}",
                    world.tables()?
                );
                // A full sync of kube-proxy empties each of its chains and fills it in one transaction.
                restore(&world, KUBE_PROXY)?;
                ensure!(ours(&world.tables()?) == theirs, "and the other way round");
            }
            Ok(())
        })?;
        assert!(asked > 3, "{asked} connections");
        let stale = world.tables()?.chains(Table::Nat).any(|name| name == "KUBE-SVC-IHSDW6B34HFOY7TM");
        assert!(!stale, "what nobody knows is gone");
        Ok(())
    });
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    /// Below `end`.
    fn roll(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn is(&mut self) -> bool {
        self.roll(2) == 0
    }

    /// At least one of the pods.
    fn pods(&mut self) -> Vec<u8> {
        let mut pods: Vec<u8> = (2..5).filter(|_| self.is()).collect();
        if pods.is_empty() {
            pods.push(2);
        }
        pods
    }
}

/// A Service that always has an endpoint; all else about it changes.
fn healthy(dice: &mut Dice) -> Result<ServicePort> {
    let mut web = service(CLUSTER_IP, &dice.pods())?;
    web.node_port = Some(port(30080)?);
    if dice.is() {
        web.affinity_seconds = std::num::NonZeroU32::new(60);
    }
    if dice.is() {
        web.external_policy = Policy::Local;
    }
    if dice.is() {
        web.external_ips.push("203.0.113.50".parse()?);
    }
    Ok(web)
}

/// Others come and go, with and without endpoints.
fn others(dice: &mut Dice) -> Result<Vec<(&'static str, ServicePort)>> {
    const OTHERS: [(&str, &str, u16); 4] = [
        ("demo/a", "10.96.1.1:80", 30081),
        ("demo/b", "10.96.1.2:80", 30082),
        ("demo/c", "10.96.1.3:443", 30083),
        ("demo/d", "10.96.1.4:80", 30084),
    ];
    let mut services = Vec::new();
    for (name, address, node_port) in OTHERS {
        if dice.is() {
            let pods = if dice.is() { dice.pods() } else { Vec::new() };
            let mut other = service(address, &pods)?;
            other.node_port = if dice.is() { Some(port(node_port)?) } else { None };
            services.push((name, other));
        }
    }
    Ok(services)
}

fn storm(mut world: World, changes: usize) -> Result<()> {
    for (number, name) in [(2, "a"), (3, "b"), (4, "c")] {
        world.server(number, name)?;
    }
    let (pod, neighbour) = (world.pod(9)?, world.neighbour.clone());
    let mut dice = Dice(0x5eed);
    world.program(&model(vec![("demo/web", healthy(&mut dice)?)])?)?;
    let clients = [(&pod, CLUSTER_IP), (&neighbour, CLUSTER_IP), (&neighbour, NODE_PORT)];
    let (asked, ()) = under_load(&clients, || {
        for change in 0..changes {
            let mut services = others(&mut dice)?;
            services.push(("demo/web", healthy(&mut dice)?));
            world.program(&model(services)?).with_context(|| format!("change {change}"))?;
        }
        Ok(())
    })?;
    assert!(asked > 3, "{asked} connections through {changes} changes");
    Ok(())
}

/// 1,000 changes in all. The seed is fixed: a failure comes back.
#[test]
fn connections_run_through_a_storm_of_changes() {
    on_all(|world| storm(world, 334));
}

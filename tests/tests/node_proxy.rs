//! Services of whole agents, where things go wrong around them: rules that are wiped, kills, endpoints that move, another
//! mode, other programs. Endpoints are servers beside the node, named by EndpointSlices.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::agent::{Agent, Place};
use tests::pod_network::Netns;

const SOON: Duration = Duration::from_secs(60);

/// An agent with the Services of `manifests`, its node, and two servers beside it, 192.0.2.21 and .22, that answer on port
/// 8080 (TCP) and 5353 (UDP) with their names, `a` and `b`.
struct World {
    agent: Agent,
    node: Netns,
    neighbours: BTreeMap<u8, Netns>,
}

impl World {
    fn new(manifests: &[(&str, &str)], flags: &[&str]) -> Result<Self> {
        Self::prepared(manifests, flags, |_| Ok(()))
    }

    fn prepared(
        manifests: &[(&str, &str)],
        flags: &[&str],
        prepare: impl FnOnce(&Place) -> Result<()>,
    ) -> Result<Self> {
        let mut agent = Agent::prepared(manifests)?;
        agent.set_flags(flags);
        let (node, mut neighbours) = (Netns::named(&agent.place().name)?, BTreeMap::new());
        node.ip("address add fd00:2::10/64 dev uplink nodad")?;
        node.ip("-6 route add default via fd00:2::1")?;
        for (number, name) in [(21, "a"), (22, "b"), (30, "")] {
            neighbours.insert(number, neighbour(&node, number, name)?);
        }
        prepare(agent.place())?;
        agent.start()?;
        Ok(Self { agent, node, neighbours })
    }

    /// Waits until the Service answers, and says what.
    fn answer(&mut self, address: &str) -> Result<String> {
        let node = self.node.clone();
        self.agent.wait(&format!("answer from {address}"), SOON, |_| Ok(node.ask_tcp(address).ok()))
    }

    /// What was told and holds these words, waited for.
    fn told(&mut self, words: &[&str]) -> Result<String> {
        let all =
            |text: &str| text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned);
        self.agent.wait(&format!("event about {words:?}"), SOON, |agent| Ok(all(&agent.print(&["events"])?)))
    }

    /// Ends the agent; nothing of it is left but links that are ours.
    fn ends_clean(mut self) -> Result<()> {
        self.agent.interrupt(Duration::from_secs(60))?;
        self.neighbours.clear();
        let mut left = self.agent.place().leftovers();
        left.retain(|line| !line.starts_with("link n"));
        let tables = self.node.command("nft", &["list", "tables"])?;
        left.extend(tables.lines().filter(|line| line.contains("kube-proxy")).map(str::to_owned));
        ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), self.agent.log());
        Ok(())
    }
}

fn neighbour(node: &Netns, number: u8, name: &'static str) -> Result<Netns> {
    let neighbour = Netns::new()?;
    node.ip(&format!("link add n{number} type veth peer name eth0 netns {}", neighbour.path()))?;
    node.ip(&format!("link set n{number} master uplink up"))?;
    neighbour.ip(&format!("address add 192.0.2.{number}/24 dev eth0"))?;
    neighbour.ip(&format!("address add fd00:2::{number}/64 dev eth0 nodad"))?;
    neighbour.ip("link set eth0 up")?;
    if !name.is_empty() {
        neighbour.serve_tcp("0.0.0.0:8080", name)?;
        neighbour.serve_tcp("[::]:8081", name)?;
        neighbour.serve_udp("0.0.0.0:5353", name)?;
    }
    Ok(neighbour)
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

/// Endpoints of a Service with one unnamed port.
fn slice(of: &str, port: &str, addresses: &[&str]) -> String {
    let family = if addresses.iter().any(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    let endpoints: Vec<_> = addresses.iter().map(|address| format!("{{addresses: [\"{address}\"]}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {of}-1\n  labels: \
         {{kubernetes.io/service-name: {of}}}\naddressType: {family}\nendpoints: [{}]\nports: [{{name: \"\", {port}}}]\n---\n",
        endpoints.join(", ")
    )
}

const WEB: &str = "10.96.0.10:80";

fn web() -> String {
    let spec = "{clusterIP: 10.96.0.10, type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
    service("web", spec) + &slice("web", "port: 8080", &["192.0.2.21"])
}

/// Everything that is ours, in an order that does not depend on who wrote it.
fn rules(node: &Netns) -> Result<Vec<String>> {
    let text = node.command("nft", &["--stateless", "list", "ruleset"])?;
    let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    Ok(lines)
}

/// Waits until the rules are what they were.
fn back(world: &mut World, before: &[String], after: &str) -> Result<()> {
    let node = world.node.clone();
    world.agent.wait(&format!("repair after {after}"), SOON, |_| Ok((rules(&node)? == before).then_some(())))
}

#[test]
fn rules_that_are_taken_away_come_back() -> Result<()> {
    let mut world = World::new(&[("web.yaml", &web())], &[])?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    // The guard of the pod network's rules begins a moment later than Services work.
    std::thread::sleep(Duration::from_secs(3));
    let before = rules(&world.node)?;
    for wipe in [
        "iptables -t nat -D KUBE-SERVICES 1",
        "iptables -t nat -F",
        "iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X",
        "iptables -t nat -D PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES",
        "nft flush ruleset",
    ] {
        world.node.command("sh", &["-ec", wipe])?;
        back(&mut world, &before, wipe)?;
    }
    ensure!(world.answer(WEB)?.starts_with("a "));
    world.told(&["ServicesRepaired", "from outside"])?;
    world.ends_clean()
}

#[test]
fn a_table_of_nftables_that_is_taken_away_comes_back() -> Result<()> {
    let mut world = World::new(&[("web.yaml", &web())], &["--proxy-mode=nftables"])?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    ensure!(!world.node.command("iptables-save", &[])?.contains("KUBE-SERVICES"));
    let node = world.node.clone();
    world.agent.wait("count of what came", SOON, |agent| {
        node.ask_tcp(WEB)?;
        node.ask_tcp("192.0.2.10:30080")?;
        let listed: serde_json::Value = serde_json::from_str(&agent.print(&["services", "-o", "json"])?)?;
        let port = &listed["services"][0]["ports"][0];
        let (packets, bytes) = (port["packets"].as_u64(), port["bytes"].as_u64());
        // Two connections at least, each of whose first packets has 40 bytes and more.
        Ok((packets >= Some(2) && bytes >= Some(80)).then_some(()))
    })?;
    std::thread::sleep(Duration::from_secs(3));
    let before = rules(&world.node)?;
    for wipe in [
        "nft delete table ip kube-proxy",
        "nft flush chain ip kube-proxy services",
        "nft flush map ip kube-proxy service-ips",
        // As many elements as before.
        "nft 'delete element ip kube-proxy service-ips { 10.96.0.10 . tcp . 80 }; \
         add element ip kube-proxy service-ips { 10.96.0.10 . tcp . 80 : drop }'",
        "nft flush ruleset",
    ] {
        world.node.command("sh", &["-ec", wipe])?;
        back(&mut world, &before, wipe)?;
    }
    ensure!(world.answer(WEB)?.starts_with("a "));
    world.ends_clean()
}

#[test]
fn rules_in_the_older_tables_come_back_too() -> Result<()> {
    let mark = |place: &Place| -> Result<()> {
        let made = place.command("iptables-legacy").args(["-t", "mangle", "-N", "KUBE-IPTABLES-HINT"]).status()?;
        ensure!(made.success(), "the kernel has no older tables");
        Ok(())
    };
    let mut world = World::prepared(&[("web.yaml", &web())], &[], mark)?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    let save = |node: &Netns| node.command("iptables-legacy-save", &["-t", "nat"]);
    let count = |text: String| text.lines().filter(|line| line.starts_with("-A")).count();
    let before = count(save(&world.node)?);
    ensure!(before > 5, "the older tables are used");
    for wipe in ["-t nat -F", "-t nat -D KUBE-SERVICES 1"] {
        world.node.command("iptables-legacy", &wipe.split(' ').collect::<Vec<_>>())?;
        let node = world.node.clone();
        world
            .agent
            .wait(&format!("repair after {wipe}"), SOON, |_| Ok((count(save(&node)?) == before).then_some(())))?;
    }
    // As many rules, and as large: only what they say differs.
    let to = |address: &str| format!("--to-destination {address}:8080");
    let text = save(&world.node)?;
    let rule = text.lines().find(|line| line.contains(&to("192.0.2.21"))).context("the endpoint's rule")?;
    let rule = rule.replace("192.0.2.21", "192.0.2.22").replacen("-A KUBE-SEP-", "-R KUBE-SEP-", 1);
    let (chain, rest) = rule.split_at(rule.find(" -p").context("a match")?);
    world.node.command("sh", &["-ec", &format!("iptables-legacy -t nat {chain} 2{rest}")])?;
    let node = world.node.clone();
    let back = |_: &Agent| Ok(save(&node)?.contains(&to("192.0.2.21")).then_some(()));
    world.agent.wait("repair of a rule that was replaced", SOON, back)?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    world.agent.interrupt(SOON)
}

#[test]
fn no_connection_notices_that_the_agent_is_killed_or_changes_its_mode() -> Result<()> {
    let mut world = World::new(&[("web.yaml", &web())], &[])?;
    world.answer(WEB)?;
    let (node, done) = (world.node.clone(), Arc::new(AtomicBool::new(false)));
    let (asked, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let (count, is_done) = (asked.clone(), done.clone());
    let client = std::thread::spawn(move || {
        let mut failed = Vec::new();
        while !is_done.load(Ordering::Relaxed) {
            let since = began.elapsed();
            count.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = node.ask_tcp(WEB) {
                failed.push(format!("begun at {since:?}, failed at {:?}: {error:#}", began.elapsed()));
            }
        }
        failed
    });
    let mut stages = Vec::new();
    let mut restarts = || -> Result<()> {
        for flags in [&[][..], &["--proxy-mode=nftables"], &["--proxy-mode=iptables"]] {
            world.agent.kill()?;
            world.agent.set_flags(flags);
            stages.push(format!("{flags:?} at {:?}", began.elapsed()));
            world.agent.start()?;
            let (node, nftables) = (world.node.clone(), flags == ["--proxy-mode=nftables"]);
            world.agent.wait("rules of one mode only", SOON, |_| {
                let tables = node.command("nft", &["list", "tables"])?.contains("table ip kube-proxy");
                let chains = node.command("iptables-save", &["-t", "nat"])?.contains("KUBE-SERVICES");
                Ok((tables == nftables && chains != nftables).then_some(()))
            })?;
            // Somebody has to have asked meanwhile.
            let before = asked.load(Ordering::Relaxed);
            world
                .agent
                .wait("more connections", SOON, |_| Ok((asked.load(Ordering::Relaxed) > before + 20).then_some(())))?;
        }
        Ok(())
    };
    let result = restarts();
    done.store(true, Ordering::Relaxed);
    let failed = client.join().expect("the client does not panic");
    result?;
    let asked = asked.load(Ordering::Relaxed);
    ensure!(
        failed.is_empty(),
        "of {asked} connections failed: {failed:#?}, restarts: {stages:#?}\n{}",
        world.agent.log()
    );
    world.ends_clean()
}

#[test]
fn a_tcp_client_that_asked_too_early_gets_through() -> Result<()> {
    let other = service("other", "{clusterIP: 10.96.0.11, ports: [{port: 80}]}")
        + &slice("other", "port: 8080", &["192.0.2.22"]);
    let mut world = World::new(&[("other.yaml", &other)], &[])?;
    world.answer("10.96.0.11:80")?;
    // Somebody takes what is sent there, and says nothing.
    world.node.ip("route add 10.96.0.0/24 via 192.0.2.30")?;
    let node = world.node.clone();
    let client = std::thread::spawn(move || node.ask_tcp_for(WEB, SOON));
    let tracked = |node: &Netns| node.command("conntrack", &["-L", "-p", "tcp", "--state", "SYN_SENT"]);
    let node = world.node.clone();
    world.agent.wait("attempt", SOON, |_| Ok(tracked(&node)?.contains("dst=10.96.0.10").then_some(())))?;
    world.agent.write("web.yaml", &web())?;
    // TCP itself tries again after 1, 3, 7 … seconds: with the first attempt still tracked in vain.
    let answer = client.join().expect("the client does not panic");
    let answer = answer.with_context(|| world.agent.log())?;
    ensure!(answer.starts_with("a "), "{answer}");
    world.ends_clean()
}

#[test]
fn a_udp_client_follows_an_endpoint_that_moved_also_while_the_agent_was_away() -> Result<()> {
    let dns = |at: &[&str]| {
        let spec = "{clusterIP: 10.96.0.53, type: NodePort, ports: [{port: 53, protocol: UDP, nodePort: 30053}]}";
        service("dns", spec) + &slice("dns", "port: 5353, protocol: UDP", at)
    };
    let mut world = World::new(&[("dns.yaml", &dns(&[]))], &[])?;
    let mut clients = vec![world.neighbours[&30].udp_client("192.0.2.10:30053")?];
    for _ in 0..7 {
        clients.push(world.node.udp_client("10.96.0.53:53")?);
    }
    for (at, name, is_restarted) in [
        ("192.0.2.21", "a ", false),
        ("192.0.2.22", "b ", false),
        ("192.0.2.21", "a ", true),
        ("192.0.2.22", "b ", true),
    ] {
        if is_restarted {
            world.agent.kill()?;
        }
        world.agent.write("dns.yaml", &dns(&[at]))?;
        if is_restarted {
            world.agent.start()?;
        }
        for client in &clients {
            // The same socket goes on sending: without help its connection would stay where it was for ever.
            let heard = |_: &Agent| Ok(client.ask().ok().filter(|answer| answer.starts_with(name)));
            world.agent.wait(&format!("answer from {at}"), SOON, heard)?;
        }
    }
    // Another endpoint comes, and nobody who is well served is moved.
    world.agent.write("dns.yaml", &dns(&["192.0.2.21", "192.0.2.22"]))?;
    let node = world.node.clone();
    let new = |_: &Agent| Ok(node.ask_udp("10.96.0.53:53").ok().filter(|answer| answer.starts_with("a ")));
    world.agent.wait("a new client at the new endpoint", SOON, new)?;
    for client in &clients {
        ensure!(client.ask()?.starts_with("b "), "a connection that was good was forgotten");
    }
    world.ends_clean()
}

#[test]
fn node_ports_answer_outside_where_they_are_told_to() -> Result<()> {
    let spec = "{clusterIP: 10.96.0.11, type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31998, \
                ports: [{port: 80}]}";
    let edge = service("edge", spec) + &slice("edge", "port: 8080", &["192.0.2.22"]);
    let manifests = [("edge.yaml", edge.as_str()), ("web.yaml", &web())];
    let mut world = World::new(&manifests, &["--nodeport-addresses=192.0.2.0/24"])?;
    world.answer(WEB)?;
    world.node.ip("address add 198.51.100.7/32 dev lo")?;
    let outside = world.neighbours[&30].clone();
    outside.ip("route add 198.51.100.7 via 192.0.2.10")?;
    ensure!(outside.ask_tcp("192.0.2.10:30080")?.starts_with("a "));
    ensure!(outside.ask_tcp("198.51.100.7:30080").is_err(), "an address that was not chosen");
    ensure!(http(&outside, "192.0.2.10:31998", "/")?.0 == 503, "its endpoint is elsewhere");
    ensure!(http(&outside, "198.51.100.7:31998", "/").is_err(), "nor for the health of a Service");
    world.ends_clean()
}

/// As an attacker would: with its own loopback address moved away, so that packets to 127.0.0.1 leave.
fn reaches_for_the_loopback(neighbour: &Netns) -> Result<()> {
    neighbour.set_sysctl("net/ipv4/conf/eth0/route_localnet", "1")?;
    neighbour.ip("address del 127.0.0.1/8 dev lo")?;
    neighbour.ip("route add 127.0.0.1 via 192.0.2.10 dev eth0").map(drop)
}

#[test]
fn node_ports_answer_on_localhost_where_they_are_told_to_and_the_loopback_stays_closed() -> Result<()> {
    let flags = [
        "--iptables-localhost-nodeports",
        "--iptables-masquerade-bit=9",
        "--detect-local-mode=InterfaceNamePrefix",
        "--pod-interface-name-prefix=veth",
    ];
    let mut world = World::new(&[("web.yaml", &web())], &flags)?;
    ensure!(world.answer("127.0.0.1:30080")?.starts_with("a "));
    world.node.serve_udp("127.0.0.1:99", "node")?;
    ensure!(world.node.ask_udp("127.0.0.1:99")? == "node 127.0.0.1");
    let attacker = world.neighbours[&30].clone();
    reaches_for_the_loopback(&attacker)?;
    ensure!(attacker.ask_udp("127.0.0.1:99").is_err(), "a neighbour reaches the loopback of the node");
    // The guard is what keeps it out: without it the packet arrives, until somebody notices.
    let guard = "iptables -I INPUT -d 127.0.0.1 -p udp --dport 99 -j ACCEPT";
    world.node.command("sh", &["-ec", guard])?;
    ensure!(attacker.ask_udp("127.0.0.1:99")? == "node 192.0.2.30", "the packet never came as far as the guard");
    world.node.command("sh", &["-ec", &guard.replace("-I", "-D")])?;
    let rules = world.node.command("iptables-save", &["-t", "nat"])?;
    ensure!(rules.contains("10.96.0.10/32 ! -i veth+ ") && rules.contains("--set-xmark 0x200/0x200"), "{rules}");

    world.agent.kill()?;
    world.agent.set_flags(&["--masquerade-all", "--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.244.0.0/16"]);
    world.agent.start()?;
    let node = world.node.clone();
    world.agent.wait("rules of the other settings", SOON, |_| {
        let rules = node.command("iptables-save", &["-t", "nat"])?;
        let marks = |line: &&str| line.contains("10.96.0.10/32 ") && line.ends_with("-j KUBE-MARK-MASQ");
        let all = rules.lines().find(marks).is_some_and(|line| !line.contains('!') && !line.contains("-s "));
        Ok((all && rules.contains("--set-xmark 0x4000/0x4000") && !rules.contains("0x200")).then_some(()))
    })?;
    ensure!(world.node.ask_tcp("127.0.0.1:30080").is_err(), "nobody asks for it any more");
    ensure!(attacker.ask_udp("127.0.0.1:99").is_err(), "the guard went while the loopback was open");
    world.agent.set_flags(&flags);
    world.agent.interrupt(SOON)?;
    world.node.set_sysctl("net/ipv4/conf/all/route_localnet", "0")?;
    world.agent.start()?;
    ensure!(world.answer("127.0.0.1:30080")?.starts_with("a "));
    let node = world.node.clone();
    world.ends_clean()?;
    ensure!(node.sysctl("net/ipv4/conf/all/route_localnet")? == "0", "the loopback is left open");
    ensure!(!node.command("iptables-save", &[])?.contains("KUBE-FIREWALL"));
    Ok(())
}

#[test]
fn services_of_both_families_are_programmed() -> Result<()> {
    let six = service("six", "{clusterIP: \"fd00:96::10\", ipFamilies: [IPv6], ports: [{port: 80}]}");
    let six = six + &slice("six", "port: 8081", &["fd00:2::22"]);
    let mut world = World::new(&[("web.yaml", &web()), ("six.yaml", &six)], &[])?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    ensure!(world.answer("[fd00:96::10]:80")?.starts_with("b "));
    let rules = world.node.command("ip6tables-save", &["-t", "nat"])?;
    ensure!(rules.contains("default/six") && !rules.contains("default/web"), "{rules}");
    world.ends_clean()
}

#[test]
fn what_clashes_or_is_nonsense_leaves_the_rest() -> Result<()> {
    let text = service("a", "{clusterIP: 10.96.0.11, ports: [{port: 80}]}")
        + &slice("a", "port: 8080", &["192.0.2.21"])
        + &service("b", "{clusterIP: 10.96.0.11, ports: [{port: 80}]}")
        + &slice("b", "port: 8080", &["192.0.2.22"])
        + &service("c", "{clusterIP: 10.96.0.12, type: NodePort, ports: [{port: 80, nodePort: 30080}]}")
        + &slice("c", "port: 8080", &["127.0.0.1", "192.0.2.22"]);
    let mut world = World::new(&[("web.yaml", &web()), ("clash.yaml", &text)], &[])?;
    ensure!(world.answer("10.96.0.11:80")?.starts_with("a "), "the first name keeps what two claim");
    ensure!(world.answer("10.96.0.12:80")?.starts_with("b "), "an endpoint on the loopback is left out");
    world.told(&["10.96.0.11", "default/a", "default/b"])?;
    world.told(&["30080", "default/c", "default/web"])?;
    world.ends_clean()
}

#[test]
fn a_service_that_the_kernel_refuses_holds_up_no_other() -> Result<()> {
    // A program that takes everything but what belongs to one Service, as a kernel does that lacks a module.
    let picky = "#!/bin/sh\nt=$(mktemp) || exit 1\ntrap 'rm -f $t' EXIT\ncat > $t\n\
                 n=$(grep -n 'default/bad' $t | head -n 1 | cut -d: -f1)\n\
                 if [ -n \"$n\" ]; then echo \"iptables-restore: line $n failed\" >&2; exit 1; fi\n\
                 /usr/sbin/iptables-restore \"$@\" < $t\n";
    let prepare = |place: &Place| -> Result<()> {
        std::fs::create_dir(place.path("bin"))?;
        let program = place.path("bin/iptables-restore");
        std::fs::write(&program, picky)?;
        Ok(std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?)
    };
    let bad =
        service("bad", "{clusterIP: 10.96.0.66, ports: [{port: 80}]}") + &slice("bad", "port: 8080", &["192.0.2.21"]);
    let mut world = World::prepared(&[("bad.yaml", &bad), ("web.yaml", &web())], &[], prepare)?;
    ensure!(world.answer(WEB)?.starts_with("a "));
    world.told(&["default/bad", "line", "refused"])?;
    world.agent.write("web.yaml", &web().replace("192.0.2.21", "192.0.2.22"))?;
    let node = world.node.clone();
    world.agent.wait("change of the good one", SOON, |_| Ok(node.ask_tcp(WEB).ok().filter(|a| a.starts_with("b "))))?;
    world.ends_clean()
}

#[test]
fn a_kube_proxy_at_work_is_noticed() -> Result<()> {
    let mut other = None;
    let prepare = |place: &Place| -> Result<()> {
        std::fs::create_dir(place.path("bin"))?;
        std::fs::copy("/bin/sleep", place.path("bin/kube-proxy"))?;
        other = Some(place.command(place.path("bin/kube-proxy")).arg("300").spawn()?);
        Ok(())
    };
    let world = World::prepared(&[("web.yaml", &web())], &[], prepare);
    let result = world.and_then(|mut world| {
        world.told(&["kube-proxy", "--proxy-mode=off"])?;
        Ok(world)
    });
    let mut other = other.context("the other program")?;
    other.kill()?;
    other.wait()?;
    result?.ends_clean()
}

/// Status and body of an HTTP answer.
fn http(node: &Netns, address: &str, path: &str) -> Result<(u16, String)> {
    let text = node.run(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&address.parse()?, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

#[test]
fn health_and_metrics_answer_as_kube_proxys() -> Result<()> {
    let spec = "{clusterIP: 10.96.0.10, type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 31999, \
                ports: [{port: 80, nodePort: 30080}]}";
    let edge = |node: &str| {
        let at = format!("{{addresses: [\"192.0.2.21\"], nodeName: {node}}}");
        service("edge", spec)
            + &slice("edge", "port: 8080", &["192.0.2.21"]).replace("{addresses: [\"192.0.2.21\"]}", &at)
    };
    let flags = ["--proxy-healthz-bind-address=0.0.0.0:10256", "--proxy-metrics-bind-address=127.0.0.1:10249"];
    let mut world = World::new(&[("edge.yaml", &edge("test-node"))], &flags)?;
    world.answer(WEB)?;
    let node = world.node.clone();
    for path in ["/healthz", "/livez"] {
        let (status, body) = http(&node, "127.0.0.1:10256", path)?;
        ensure!(status == 200 && body.contains("lastUpdated") && body.contains("\"healthy\":true"), "{status} {body}");
    }
    ensure!(http(&node, "[::1]:10256", "/livez")?.0 == 200);
    let (status, body) = http(&world.neighbours[&30], "192.0.2.10:31999", "/")?;
    ensure!(status == 200 && body.contains("\"localEndpoints\": 1"), "{status} {body}");
    let (_, metrics) = http(&node, "127.0.0.1:10249", "/metrics")?;
    for name in ["kubeproxy_sync_proxy_rules_duration_seconds_count", "kubeproxy_sync_proxy_rules_iptables_total"] {
        ensure!(metrics.contains(name), "{name}\n{metrics}");
    }
    ensure!(http(&node, "127.0.0.1:10249", "/proxyMode")?.1 == "iptables");
    // Everything is listed at the start, and nothing for a change.
    let counted = |kind: &str| -> Result<u64> {
        let (_, metrics) = http(&node, "127.0.0.1:10249", "/metrics")?;
        let name = format!("kubeproxy_sync_{kind}_proxy_rules_duration_seconds_count{{ip_family=\"IPv4\"}} ");
        Ok(metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("0").parse()?)
    };
    let (full, partial) = (counted("full")?, counted("partial")?);
    ensure!(full > 0, "{metrics}");
    world.agent.write("edge.yaml", &edge("another-node"))?;
    let client = world.neighbours[&30].clone();
    world.agent.wait("503 without local endpoints", SOON, |_| {
        Ok(http(&client, "192.0.2.10:31999", "/").ok().filter(|(status, _)| *status == 503))
    })?;
    world.agent.wait("a sync of what changed", SOON, |_| Ok((counted("partial")? > partial).then_some(())))?;
    ensure!(counted("full")? == full, "a change listed the whole table");
    world.agent.remove("edge.yaml")?;
    let closed = |_: &Agent| Ok(http(&client, "192.0.2.10:31999", "/").is_err().then_some(()));
    world.agent.wait("closed health check port", SOON, closed)?;
    world.ends_clean()
}

#[test]
fn a_port_that_is_taken_is_said_and_does_no_harm() -> Result<()> {
    let take = |place: &Place| Netns::named(&place.name)?.serve_tcp("127.0.0.1:10249", "taken");
    let mut world = World::prepared(&[("web.yaml", &web())], &["--proxy-metrics-bind-address=127.0.0.1:10249"], take)?;
    world.answer(WEB)?;
    world.told(&["metrics", "127.0.0.1:10249"])?;
    world.ends_clean()
}

//! The pod network on a real kernel: every test has a node of its own, a network namespace that ends with it.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cni::{Attachment, Bridge, HostPort, NetworkConfig, NetworkError, Protocol, SandboxId};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tempfile::TempDir;
use tests::pod_network::{NEIGHBOUR, NODE, Netns, Wire, can_run};

const BRIDGE_NETFILTER: &str = "net/bridge/bridge-nf-call-iptables";

/// What one test plays with.
struct World {
    wire: Wire,
    directory: TempDir,
}

/// A pod and its place in the network.
struct Pod {
    id: SandboxId,
    netns: Netns,
    at: Attachment,
}

impl World {
    fn config(&self, instance: &str, bridge: &str, pod_cidr: &str) -> NetworkConfig {
        NetworkConfig {
            bridge: bridge.to_owned(),
            pod_cidr: pod_cidr.parse().expect("a network"),
            no_masquerade: Vec::new(),
            leases: self.directory.path().join(instance),
            mtu: None,
            instance: instance.parse().expect("an instance"),
        }
    }

    fn usual(&self) -> NetworkConfig {
        self.config("one", "longshore0", "10.88.0.0/24")
    }

    async fn open(&self) -> Result<Bridge> {
        Ok(Bridge::open(self.usual()).await?)
    }

    /// What an agent could leave behind on the node, in words.
    fn traces(&self) -> Result<Vec<String>> {
        let links = self.wire.node.ip("-o link show")?;
        let names = links.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
        let mut traces: Vec<_> = names.filter(|name| !["lo", "wan"].contains(&name.as_str())).collect();
        let rules = self.wire.node.command("iptables-save", &[])?;
        traces.extend(rules.lines().filter(|line| line.contains("LONGSHORE")).map(str::to_owned));
        traces.extend(files(self.directory.path())?);
        Ok(traces)
    }
}

fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            names.extend(files(&entry.path())?);
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a test's body on a runtime inside the node's network namespace.
fn on_a_node(body: impl AsyncFnOnce(&World) -> Result<()> + Send) {
    if !can_run() {
        return;
    }
    let world = World { wire: Wire::new().expect("a wire"), directory: tempfile::tempdir().expect("a directory") };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(body(&world))
    };
    let done: Result<()> = world.wire.node.run(run).and_then(|done| done);
    if let Err(error) = done {
        let rules = world.wire.node.command("iptables-save", &["-c"]).unwrap_or_default();
        let links = world.wire.node.ip("address show").unwrap_or_default();
        panic!("{error:?}\n{links}\n{rules}");
    }
}

fn id(name: &str) -> SandboxId {
    name.parse().expect("an id")
}

fn port(host_ip: &str, host_port: u16, protocol: Protocol, container_port: u16) -> HostPort {
    HostPort { host_ip: host_ip.parse().ok(), host_port, protocol, container_port }
}

async fn attach(bridge: &Bridge, name: &str, ports: &[HostPort]) -> Result<Pod> {
    let netns = Netns::bare()?;
    let at = bridge.attach(&id(name), netns.fd()?, ports).await?;
    Ok(Pod { id: id(name), netns, at })
}

impl Pod {
    fn address(&self) -> String {
        self.at.ips[0].to_string()
    }
}

fn said(answer: Result<String>, expected: impl AsRef<str>, who: &str) -> Result<()> {
    let answer = answer.with_context(|| format!("{who} hears nothing"))?;
    ensure!(answer == expected.as_ref(), "{who} hears {answer:?} instead of {:?}", expected.as_ref());
    Ok(())
}

/// Both settings of br_netfilter where the kernel has it; else the one that there is.
fn bridge_netfilter_settings(node: &Netns) -> Vec<&'static str> {
    if node.sysctl(BRIDGE_NETFILTER).is_ok() { vec!["0", "1"] } else { vec!["absent"] }
}

fn set_bridge_netfilter(node: &Netns, setting: &str) -> Result<()> {
    if setting == "absent" { Ok(()) } else { node.set_sysctl(BRIDGE_NETFILTER, setting) }
}

#[test]
fn pods_reach_each_other_their_gateway_and_themselves_by_their_own_addresses() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let (one, two) = (attach(&bridge, "one", &[]).await?, attach(&bridge, "two", &[]).await?);
        one.netns.serve_tcp("0.0.0.0:80", "one")?;
        world.wire.node.serve_tcp("0.0.0.0:81", "node")?;
        for setting in bridge_netfilter_settings(&world.wire.node) {
            set_bridge_netfilter(&world.wire.node, setting)?;
            said(two.netns.ask_tcp(&format!("{}:80", one.address())), format!("one {}", two.address()), "a pod")?;
            said(one.netns.ask_tcp(&format!("{}:80", one.address())), format!("one {}", one.address()), "itself")?;
            said(one.netns.ask_tcp("127.0.0.1:80"), "one 127.0.0.1", "itself by loopback")?;
            said(one.netns.ask_tcp("10.88.0.1:81"), format!("node {}", one.address()), "a pod of its gateway")?;
            said(world.wire.node.ask_tcp(&format!("{}:80", one.address())), "one 10.88.0.1", "the node")?;
        }
        Ok(())
    });
}

#[test]
fn what_leaves_the_pod_network_is_masqueraded_even_when_forwarding_is_denied_by_default() {
    on_a_node(async |world| {
        world.wire.node.command("iptables", &["-P", "FORWARD", "DROP"])?;
        let bridge = world.open().await?;
        let pod = attach(&bridge, "one", &[]).await?;
        world.wire.neighbour.serve_tcp("0.0.0.0:80", "neighbour")?;
        said(pod.netns.ask_tcp(&format!("{NEIGHBOUR}:80")), format!("neighbour {NODE}"), "a pod of the world")
    });
}

#[test]
fn a_network_that_knows_the_pods_sees_their_own_addresses_and_reaches_them() {
    on_a_node(async |world| {
        world.wire.node.command("iptables", &["-P", "FORWARD", "DROP"])?;
        let no_masquerade = vec!["192.0.2.0/24".parse()?];
        let bridge = Bridge::open(NetworkConfig { no_masquerade, ..world.usual() }).await?;
        let pod = attach(&bridge, "one", &[]).await?;
        pod.netns.serve_tcp("0.0.0.0:80", "one")?;
        world.wire.neighbour.serve_tcp("0.0.0.0:80", "neighbour")?;
        world.wire.neighbour.ip(&format!("route add 10.88.0.0/24 via {NODE}"))?;
        let seen = format!("neighbour {}", pod.address());
        said(pod.netns.ask_tcp(&format!("{NEIGHBOUR}:80")), seen, "a pod of the world")?;
        let answer = world.wire.neighbour.ask_tcp(&format!("{}:80", pod.address()));
        said(answer, format!("one {NEIGHBOUR}"), "the world of a pod")
    });
}

#[test]
fn a_host_port_answers_from_everywhere() {
    on_a_node(async |world| {
        world.wire.node.command("iptables", &["-P", "FORWARD", "DROP"])?;
        let (node, neighbour) = (&world.wire.node, &world.wire.neighbour);
        let bridge = world.open().await?;
        let ports = [port("", 8080, Protocol::Tcp, 80), port("", 8053, Protocol::Udp, 53)];
        let (web, other) = (attach(&bridge, "web", &ports).await?, attach(&bridge, "other", &[]).await?);
        web.netns.serve_tcp("0.0.0.0:80", "web")?;
        web.netns.serve_udp("0.0.0.0:53", "web")?;
        let at_node = format!("{NODE}:8080");
        for setting in bridge_netfilter_settings(node) {
            set_bridge_netfilter(node, setting)?;
            said(neighbour.ask_tcp(&at_node), format!("web {NEIGHBOUR}"), "the neighbour")?;
            said(neighbour.ask_udp(&format!("{NODE}:8053")), format!("web {NEIGHBOUR}"), "the neighbour by UDP")?;
            said(node.ask_tcp(&at_node), format!("web {NODE}"), "the node")?;
            said(node.ask_tcp("127.0.0.1:8080"), "web 10.88.0.1", "the node by its loopback")?;
            said(node.ask_udp("127.0.0.1:8053"), "web 10.88.0.1", "the node by its loopback and UDP")?;
            said(other.netns.ask_tcp(&at_node), format!("web {}", other.address()), "another pod")?;
            said(web.netns.ask_tcp(&at_node), "web 10.88.0.1", "the pod itself")
                .with_context(|| format!("bridge netfilter {setting}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_udp_client_that_never_pauses_follows_its_port_to_the_next_pod() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let ports = [port("", 8053, Protocol::Udp, 53)];
        let client = world.wire.neighbour.udp_client(&format!("{NODE}:8053"))?;
        // Before there is any pod: the node itself gets the question, and remembers.
        ensure!(client.ask().is_err());
        let first = attach(&bridge, "first", &ports).await?;
        first.netns.serve_udp("0.0.0.0:53", "first")?;
        said(client.ask(), format!("first {NEIGHBOUR}"), "the client, first")?;
        bridge.detach(&first.id).await?;
        ensure!(client.ask().is_err());
        let second = attach(&bridge, "second", &ports).await?;
        second.netns.serve_udp("0.0.0.0:53", "second")?;
        said(client.ask(), format!("second {NEIGHBOUR}"), "the client, then")
    });
}

#[test]
fn a_host_port_that_is_bound_to_an_address_answers_there_only() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let ports = [port(NODE, 8080, Protocol::Tcp, 80)];
        let web = attach(&bridge, "web", &ports).await?;
        web.netns.serve_tcp("0.0.0.0:80", "web")?;
        said(world.wire.neighbour.ask_tcp(&format!("{NODE}:8080")), format!("web {NEIGHBOUR}"), "the neighbour")?;
        ensure!(world.wire.node.ask_tcp("127.0.0.1:8080").is_err());
        ensure!(world.wire.node.sysctl("net/ipv4/conf/longshore0/route_localnet")? == "0");
        Ok(())
    });
}

#[test]
fn the_loopback_of_the_node_stays_out_of_reach_of_pods_and_neighbours() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let pod = attach(&bridge, "web", &[port("", 8080, Protocol::Tcp, 80)]).await?;
        world.wire.node.serve_udp("127.0.0.1:99", "node")?;
        said(world.wire.node.ask_udp("127.0.0.1:99"), "node 127.0.0.1", "the node")?;
        ensure!(world.wire.node.sysctl("net/ipv4/conf/longshore0/route_localnet")? == "1");
        for (netns, link, gateway) in [(&pod.netns, "eth0", "10.88.0.1"), (&world.wire.neighbour, "lan", NODE)] {
            // As an attacker would: its own loopback address moved away, so that packets to 127.0.0.1 leave.
            netns.set_sysctl(&format!("net/ipv4/conf/{link}/route_localnet"), "1")?;
            netns.ip("address del 127.0.0.1/8 dev lo")?;
            netns.ip(&format!("route add 127.0.0.1 via {gateway} dev {link}"))?;
            ensure!(netns.ask_udp("127.0.0.1:99").is_err(), "{link} reaches the loopback of the node");
        }
        // The guard is what keeps the pod out: without it the packet arrives.
        world.wire.node.command("iptables", &["-t", "raw", "-F", "LONGSHORE-one-LOOP"])?;
        said(pod.netns.ask_udp("127.0.0.1:99"), format!("node {}", pod.address()), "the pod without the guard")
    });
}

#[test]
fn a_service_address_leads_from_pod_to_pod_on_one_node_with_or_without_bridge_netfilter() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let (one, two) = (attach(&bridge, "one", &[]).await?, attach(&bridge, "two", &[]).await?);
        one.netns.serve_udp("0.0.0.0:53", "one")?;
        one.netns.serve_tcp("0.0.0.0:80", "one")?;
        let rule = format!("-t nat -A PREROUTING -d 10.96.0.10 -p tcp -j DNAT --to-destination {}:80", one.address());
        world.wire.node.command("iptables", &rule.split(' ').collect::<Vec<_>>())?;
        for setting in bridge_netfilter_settings(&world.wire.node) {
            set_bridge_netfilter(&world.wire.node, setting)?;
            // The node tells pods that talk to each other of a shorter way, a few times a second at most. They must not
            // take it: answers from the service would go past the node.
            let (clock, chat) = (Instant::now(), two.netns.udp_client(&format!("{}:53", one.address()))?);
            while clock.elapsed() < Duration::from_millis(500) {
                said(chat.ask(), format!("one {}", two.address()), "a pod of another")?;
            }
            said(two.netns.ask_tcp("10.96.0.10:80"), format!("one {}", two.address()), "a pod of a service")
                .with_context(|| format!("bridge netfilter {setting}"))?;
        }
        Ok(())
    });
}

#[test]
fn detaching_leaves_nothing_and_can_be_repeated() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let before = world.traces()?;
        let mut pod = attach(&bridge, "web", &[port("", 8080, Protocol::Tcp, 80)]).await?;
        ensure!(world.traces()?.len() > before.len());
        for _ in 0..2 {
            bridge.detach(&pod.id).await?;
        }
        // What stays: where the round of addresses goes on, and the guard in front of the loopback.
        let kept = |trace: &String| trace != "last-given" && !trace.contains("LONGSHORE-one-LOOP");
        let after: Vec<_> = world.traces()?.into_iter().filter(kept).collect();
        ensure!(after == before, "{after:?}");
        pod.netns = Netns::new()?;
        bridge.detach(&id("never-seen")).await?;
        Ok(())
    });
}

#[test]
fn a_pod_whose_namespace_is_gone_can_be_detached() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let pod = attach(&bridge, "one", &[]).await?;
        let (id, address) = (pod.id.clone(), pod.address());
        drop(pod);
        bridge.detach(&id).await?;
        ensure!(!world.traces()?.contains(&address));
        Ok(())
    });
}

#[test]
fn removing_everything_leaves_the_node_as_it_was_and_can_be_repeated() {
    on_a_node(async |world| {
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "0");
        let bridge = world.open().await?;
        let _pod = attach(&bridge, "web", &[port("", 8080, Protocol::Tcp, 80)]).await?;
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "1");
        for _ in 0..2 {
            bridge.remove_all().await?;
        }
        ensure!(world.traces()?.is_empty(), "{:?}", world.traces()?);
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "0");
        Ok(())
    });
}

#[test]
fn two_agents_side_by_side_share_nothing_but_forwarding_which_the_last_one_gives_back() {
    on_a_node(async |world| {
        let one = world.open().await?;
        let two = Bridge::open(world.config("two", "longshore1", "10.89.0.0/24")).await?;
        let ports = [port("", 8080, Protocol::Tcp, 80)];
        let (first, second) = (attach(&one, "same", &ports).await?, attach(&two, "same", &[]).await?);
        ensure!(first.at.host_interface != second.at.host_interface);
        second.netns.serve_tcp("0.0.0.0:80", "second")?;
        said(
            first.netns.ask_tcp(&format!("{}:80", second.address())),
            format!("second {NODE}"),
            "a pod of the other network",
        )
        .or_else(|_| {
            let seen = first.netns.ask_tcp(&format!("{}:80", second.address()));
            said(seen, "second 10.89.0.1", "a pod of the other network")
        })?;
        one.remove_all().await?;
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "1", "the other agent still needs it");
        world.wire.neighbour.serve_tcp("0.0.0.0:80", "neighbour")?;
        said(second.netns.ask_tcp(&format!("{NEIGHBOUR}:80")), format!("neighbour {NODE}"), "the other's pod")?;
        two.remove_all().await?;
        ensure!(world.traces()?.is_empty(), "{:?}", world.traces()?);
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "0");
        Ok(())
    });
}

#[test]
fn the_next_agent_finds_everything_and_disturbs_nothing() {
    on_a_node(async |world| {
        let ports = [port("", 8080, Protocol::Tcp, 80)];
        let first = world.open().await?;
        let pod = attach(&first, "web", &ports).await?;
        pod.netns.serve_tcp("0.0.0.0:80", "web")?;
        let before = world.traces()?;
        drop(first);
        let next = world.open().await?;
        ensure!(world.traces()? == before);
        ensure!(next.attachments().get(&pod.id) == Some(&pod.at));
        said(world.wire.neighbour.ask_tcp(&format!("{NODE}:8080")), format!("web {NEIGHBOUR}"), "the neighbour")?;
        next.detach(&pod.id).await?;
        next.remove_all().await?;
        ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "0", "the first value outlives the first agent");
        Ok(())
    });
}

#[test]
fn half_made_states_are_found_and_repaired() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        // Killed after the lease: the same sandbox gets the same address.
        let lone = attach(&bridge, "lease-only", &[]).await?;
        world.wire.node.ip(&format!("link del {}", lone.at.host_interface))?;
        let again = attach(&bridge, "lease-only", &[]).await?;
        ensure!(again.at == lone.at);
        // Killed after the pair: the link is there, nothing in the pod is set, and a new namespace comes.
        let other = attach(&bridge, "twice", &[]).await?;
        let twice = attach(&bridge, "twice", &[]).await?;
        ensure!(twice.at == other.at);
        again.netns.serve_tcp("0.0.0.0:80", "again")?;
        let answer = twice.netns.ask_tcp(&format!("{}:80", again.address()));
        said(answer, format!("again {}", twice.address()), "the second try")?;
        // The store lost a lease: its link is known to nobody.
        let lost = attach(&bridge, "link-only", &[]).await?;
        drop(bridge);
        fs::remove_file(world.directory.path().join("one").join(lost.address()))?;
        let bridge = world.open().await?;
        let released = bridge.release_unknown(&BTreeSet::from([id("twice")])).await?;
        ensure!(released.sandboxes == [id("lease-only")], "{released:?}");
        ensure!(released.links == [lost.at.host_interface.clone()], "{released:?}");
        ensure!(bridge.attachments().len() == 1);
        said(twice.netns.ask_tcp("10.88.0.1:80").or(Ok("reached".to_owned())), "reached", "the known one")
    });
}

#[test]
fn pods_come_back_to_a_bridge_that_was_deleted() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let (one, two) = (attach(&bridge, "one", &[]).await?, attach(&bridge, "two", &[]).await?);
        one.netns.serve_tcp("0.0.0.0:80", "one")?;
        drop(bridge);
        world.wire.node.ip("link del longshore0")?;
        let _bridge = world.open().await?;
        said(two.netns.ask_tcp(&format!("{}:80", one.address())), format!("one {}", two.address()), "a pod")
    });
}

#[test]
fn rules_that_a_firewall_wiped_are_set_again_and_a_plain_pod_runs_no_tool() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let before = world.traces()?;
        for table in ["nat", "filter"] {
            world.wire.node.command("iptables", &["-t", table, "-F"])?;
            world.wire.node.command("iptables", &["-t", table, "-X"])?;
        }
        let wiped = world.traces()?;
        let pod = attach(&bridge, "plain", &[]).await?;
        bridge.detach(&pod.id).await?;
        let after: Vec<_> = world.traces()?.into_iter().filter(|trace| trace != "last-given").collect();
        ensure!(after == wiped, "a plain pod touched the rules: {after:?}");
        bridge.ensure_rules().await?;
        let after: Vec<_> = world.traces()?.into_iter().filter(|trace| trace != "last-given").collect();
        ensure!(after == before, "{after:?}");
        Ok(())
    });
}

#[test]
fn a_full_range_and_a_taken_host_port_are_refused_and_leave_nothing() {
    on_a_node(async |world| {
        let bridge = Bridge::open(world.config("one", "longshore0", "10.88.0.0/29")).await?;
        let ports = [port("", 8080, Protocol::Tcp, 80)];
        let _first = attach(&bridge, "first", &ports).await?;
        let before = world.traces()?;
        let taken = bridge.attach(&id("second"), Netns::bare()?.fd()?, &ports).await;
        ensure!(matches!(&taken, Err(NetworkError::HostPortTaken { held_by, .. }) if *held_by == id("first")));
        ensure!(world.traces()? == before);
        let mut pods = Vec::new();
        for n in 1..5 {
            pods.push(attach(&bridge, &format!("pod-{n}"), &[]).await?);
        }
        let full = bridge.attach(&id("more"), Netns::bare()?.fd()?, &[]).await;
        ensure!(matches!(full, Err(NetworkError::Exhausted { capacity: 5, .. })), "{full:?}");
        bridge.detach(&pods[2].id).await?;
        let more = attach(&bridge, "more", &[]).await?;
        ensure!(more.at.ips == pods[2].at.ips);
        Ok(())
    });
}

#[test]
fn a_failed_attach_is_undone() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let netns = Netns::bare()?;
        netns.ip("link add eth0 type bridge")?;
        let refused = bridge.attach(&id("one"), netns.fd()?, &[]).await;
        ensure!(matches!(refused, Err(NetworkError::Link { .. })), "{refused:?}");
        let not_a_namespace = fs::File::open("/dev/null")?.into();
        ensure!(bridge.attach(&id("two"), not_a_namespace, &[]).await.is_err());
        ensure!(bridge.attachments().is_empty());
        ensure!(world.wire.node.ip("-o link show master longshore0")?.is_empty());
        Ok(())
    });
}

#[test]
fn the_nodes_own_namespace_is_not_taken_for_a_pods() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let refused = bridge.attach(&id("one"), world.wire.node.fd()?, &[]).await;
        ensure!(matches!(refused, Err(NetworkError::OwnNamespace { .. })), "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_range_or_a_bridge_that_is_taken_is_refused_before_anything_is_changed() {
    on_a_node(async |world| {
        let overlapping = Bridge::open(world.config("one", "longshore0", "192.0.0.0/16")).await.unwrap_err();
        ensure!(overlapping.to_string().contains("192.0.2.1/24 on interface wan"), "{overlapping}");
        let other = Bridge::open(world.config("two", "longshore1", "10.88.0.0/24")).await?;
        let refused = Bridge::open(world.config("one", "longshore1", "10.90.0.0/24")).await.unwrap_err();
        ensure!(refused.to_string().contains("belongs to the Longshore agent two"), "{refused}");
        let refused = world.open().await.map(drop).unwrap_err();
        ensure!(refused.to_string().contains("on interface longshore1"), "{refused}");
        other.remove_all().await?;
        ensure!(world.traces()?.is_empty(), "{:?}", world.traces()?);
        Ok(())
    });
}

#[test]
fn fifty_pods_at_once_get_fifty_addresses() {
    on_a_node(async |world| {
        let bridge = world.open().await?;
        let mut namespaces = Vec::new();
        for _ in 0..50 {
            namespaces.push(Netns::bare()?);
        }
        let ids: Vec<_> = (0..50).map(|n| id(&format!("pod-{n}"))).collect();
        let mut tasks = Vec::new();
        for (id, netns) in ids.iter().zip(&namespaces) {
            tasks.push(bridge.attach(id, netns.fd()?, &[]));
        }
        let attached = futures::future::try_join_all(tasks).await?;
        let addresses: BTreeSet<IpAddr> = attached.iter().flat_map(|at| at.ips.clone()).collect();
        ensure!(addresses.len() == 50);
        futures::future::try_join_all(ids.iter().map(|id| bridge.detach(id))).await?;
        ensure!(bridge.attachments().is_empty());
        Ok(())
    });
}

#[test]
fn read_only_kernel_parameters_are_refused_with_what_to_do_before_anything_is_changed() {
    on_a_node(async |world| {
        world.wire.node.with_read_only_sysctls(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let refused = runtime.block_on(world.open()).map(drop).unwrap_err().to_string();
            let expected = "net/ipv4/ip_forward must be set to 1, but /proc/sys is read-only here: \
                run `mount -o remount,rw /proc/sys` first";
            ensure!(refused == expected, "{refused}");
            ensure!(world.traces()?.is_empty(), "{:?}", world.traces()?);
            Ok(())
        })
    });
}

/// Namespaces that outlive an agent, as those of pods do.
const PODS: usize = 4;

/// Says to [`victim`] where the leases are, and which files are the pods' namespaces.
const VICTIM: &str = "LONGSHORE_TEST_VICTIM";

/// Not a test: the agent that the next test kills. It opens, attaches, detaches and removes everything, for ever.
#[test]
#[ignore = "run by the test that kills it"]
fn victim() {
    let Ok(words) = std::env::var(VICTIM) else { return };
    let (leases, pods) = words.split_once(' ').expect("two words");
    let config = NetworkConfig {
        bridge: "longshore0".to_owned(),
        pod_cidr: "10.88.0.0/24".parse().expect("a network"),
        no_masquerade: Vec::new(),
        leases: leases.into(),
        mtu: None,
        instance: "one".parse().expect("an instance"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    loop {
        runtime.block_on(live(&config, &pods.split(',').collect::<Vec<_>>())).expect("a life");
    }
}

async fn live(config: &NetworkConfig, pods: &[&str]) -> Result<()> {
    let bridge = Bridge::open(config.clone()).await?;
    let one = async |n: usize| -> Result<()> {
        let netns = cni::open_netns(pods[n].as_ref())?;
        bridge.attach(&id(&format!("pod-{n}")), netns, &ports_of(n)).await?;
        Ok(())
    };
    futures::future::try_join_all((0..PODS).map(one)).await?;
    let gone: Vec<_> = (0..PODS / 2).map(|n| id(&format!("pod-{n}"))).collect();
    futures::future::try_join_all(gone.iter().map(|id| bridge.detach(id))).await?;
    Ok(bridge.remove_all().await?)
}

fn ports_of(pod: usize) -> Vec<HostPort> {
    (0..pod as u16 % 2).map(|n| port("", 8000 + pod as u16 + n, Protocol::Tcp, 80)).collect()
}

/// Starts the victim in the node's namespace, and kills it after that long.
fn kill_after(world: &World, pods: &[Netns], life: Duration) -> Result<()> {
    let paths: Vec<_> = pods.iter().map(|netns| netns.path()).collect();
    let words = format!("{} {}", world.directory.path().join("one").display(), paths.join(","));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--ignored", "--exact", "victim"]).env(VICTIM, words).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = world.wire.node.run(|| command.spawn())??;
    std::thread::sleep(life);
    ensure!(child.try_wait()?.is_none(), "the victim died by itself");
    child.kill()?;
    child.wait()?;
    Ok(())
}

#[test]
fn an_agent_killed_at_any_moment_is_succeeded_by_one_that_puts_everything_right() {
    on_a_node(async |world| {
        let pods = (0..PODS).map(|_| Netns::bare()).collect::<Result<Vec<_>>>()?;
        for (n, netns) in pods.iter().enumerate() {
            netns.serve_tcp("0.0.0.0:80", ["pod-0", "pod-1", "pod-2", "pod-3"][n])?;
        }
        let mut left_something = 0;
        for round in 0..20_u64 {
            // Spread over a life of some 200 ms, so that every step of it is hit.
            kill_after(world, &pods, Duration::from_millis(10 + round * 37 % 230))?;
            left_something += u32::from(!world.traces()?.is_empty());
            let bridge = world.open().await?;
            let known = BTreeSet::from([id("pod-0"), id("pod-1")]);
            bridge.release_unknown(&known).await?;
            let (netns, ports) = (|n: usize| pods[n].fd(), ports_of(1));
            let zero = bridge.attach(&id("pod-0"), netns(0)?, &[]).await?;
            let one = bridge.attach(&id("pod-1"), netns(1)?, &ports).await?;
            let said_by = format!("pod-1 {}", zero.ips[0]);
            said(pods[0].ask_tcp(&format!("{}:80", one.ips[0])), said_by, "a pod")
                .with_context(|| format!("round {round}"))?;
            said(world.wire.neighbour.ask_tcp(&format!("{NODE}:8001")), format!("pod-1 {NEIGHBOUR}"), "the neighbour")?;
            let links = world.wire.node.ip("-o link show master longshore0")?;
            ensure!(links.lines().count() == 2, "round {round}: {links}");
            ensure!(bridge.attachments().len() == 2);
            bridge.remove_all().await?;
            ensure!(world.traces()?.is_empty(), "round {round}: {:?}", world.traces()?);
            ensure!(world.wire.node.sysctl("net/ipv4/ip_forward")? == "0", "round {round}");
        }
        ensure!(left_something >= 5, "only {left_something} of 20 kills came in the midst of work");
        Ok(())
    });
}

/// Figures, not a verdict: `cargo nextest run -p tests --test kernel_cni --run-ignored only --no-capture`.
#[test]
#[ignore = "prints how long things take"]
#[expect(clippy::print_stderr, reason = "its only purpose")]
fn how_long_attaching_and_detaching_takes() {
    on_a_node(async |world| {
        let clock = Instant::now();
        let bridge = world.open().await?;
        eprintln!("open, fresh: {:?}", clock.elapsed());
        let clock = Instant::now();
        drop(bridge);
        let bridge = world.open().await?;
        eprintln!("open, again: {:?}", clock.elapsed());
        for (what, ports) in [("plain", vec![]), ("with a host port", vec![port("", 8080, Protocol::Tcp, 80)])] {
            let (mut attach, mut detach) = (Vec::new(), Vec::new());
            // Beforehand, and kept: the kernel holds the lock of all links while it clears a namespace away.
            let namespaces = (0..30).map(|_| Netns::bare()).collect::<Result<Vec<_>>>()?;
            let before = getrusage(UsageWho::RUSAGE_SELF)?;
            let before = before.user_time() + before.system_time();
            for (n, netns) in namespaces.iter().enumerate() {
                let (fd, id) = (netns.fd()?, id(&format!("pod-{n}")));
                let clock = Instant::now();
                bridge.attach(&id, fd, &ports).await?;
                attach.push(clock.elapsed());
                let clock = Instant::now();
                bridge.detach(&id).await?;
                detach.push(clock.elapsed());
            }
            let spent = getrusage(UsageWho::RUSAGE_SELF)?;
            let spent = (spent.user_time() + spent.system_time() - before).num_microseconds() / 30;
            eprintln!("attach and detach, {what}: {spent} us of processor time, tools not counted");
            for (verb, times) in [("attach", &mut attach), ("detach", &mut detach)] {
                times.sort();
                eprintln!("{verb}, {what}: p50 {:?}, p90 {:?}", times[15], times[27]);
            }
        }
        let namespaces = (0..50).map(|_| Netns::bare()).collect::<Result<Vec<_>>>()?;
        let fds = namespaces.iter().map(Netns::fd).collect::<Result<Vec<_>>>()?;
        let ids: Vec<_> = (0..50).map(|n| id(&format!("pod-{n}"))).collect();
        let clock = Instant::now();
        futures::future::try_join_all(ids.iter().zip(fds).map(|(id, fd)| bridge.attach(id, fd, &[]))).await?;
        eprintln!("attach, 50 at once: {:?}", clock.elapsed());
        let clock = Instant::now();
        futures::future::try_join_all(ids.iter().map(|id| bridge.detach(id))).await?;
        eprintln!("detach, 50 at once: {:?}", clock.elapsed());
        let clock = Instant::now();
        bridge.remove_all().await?;
        eprintln!("remove_all: {:?}", clock.elapsed());
        Ok(())
    });
}

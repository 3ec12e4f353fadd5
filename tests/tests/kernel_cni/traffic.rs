//! Who reaches whom, by which address.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cni::{Bridge, NetworkConfig, Protocol};
use tests::pod_network::{NEIGHBOUR, NODE};

use crate::world::*;

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

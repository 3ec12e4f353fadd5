//! Detaching, successors, half-made states: what is left and what is found again.

use std::{collections::BTreeSet, fs};

use anyhow::ensure;
use cni::{Bridge, Protocol};
use tests::pod_network::{NEIGHBOUR, NODE, Netns};

use crate::world::*;

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

//! What cannot be had is refused, and leaves nothing; many at once are served.

use std::{collections::BTreeSet, fs, net::IpAddr};

use anyhow::ensure;
use cni::{Bridge, NetworkError, Protocol};
use tests::pod_network::Netns;

use crate::world::*;

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

//! Figures, not verdicts.

use std::time::Instant;

use anyhow::Result;
use cni::Protocol;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use tests::pod_network::Netns;

use crate::world::*;

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

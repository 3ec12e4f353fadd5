//! An agent killed at any moment.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cni::{Bridge, HostPort, NetworkConfig, Protocol};
use tests::pod_network::{NEIGHBOUR, NODE, Netns};

use crate::world::*;

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
    command
        .args(["--ignored", "--exact", "kills::victim"])
        .env(VICTIM, words)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
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

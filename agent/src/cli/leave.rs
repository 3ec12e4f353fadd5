//! `longshore leave`: undoes `join`. Pods elsewhere come first: draining the node is the cluster's administrator's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use tokio::time::{Instant, sleep};

use super::client;
use super::host_name;
use super::join::{UNIT_NAME, has_systemd, systemctl};
use super::talk::print;
use crate::api::{Client, Kubeconfig, path_of};
use crate::errors::chain;
use crate::join::Layout;
use crate::proxy::owner::{self, Owner};

const LOOK: Duration = Duration::from_millis(100);
/// How long the agent's last tasks may take to end.
const RULES: Duration = Duration::from_secs(15);

#[derive(Args, Debug)]
pub(super) struct LeaveArgs {
    /// The Node's name; the one that it joined with where it is not given.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// How long the pods may take to end, seconds.
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    timeout: u64,
    /// Leave also when no agent runs that could stop the pods.
    #[arg(long)]
    force: bool,
    /// Where etc/kubernetes and var/lib/kubelet lie.
    #[arg(long, default_value = "/", value_name = "DIR")]
    prefix: PathBuf,
}

/// Stops pods and agent, removes the Node where that is allowed, then the files.
pub(super) async fn run(agent: &client::Client, args: LeaveArgs) -> anyhow::Result<ExitCode> {
    let layout = Layout::below(&std::path::absolute(&args.prefix)?);
    if !layout.is_ours() {
        bail!("this machine did not join with `longshore join`: there is nothing of it to undo");
    }
    let unit = has_systemd() && args.prefix == Path::new("/");
    if unit {
        // Otherwise it would be started again as soon as it has ended.
        systemctl(&["disable", UNIT_NAME]).await?;
    }
    stop(agent, &args).await?;
    if unit {
        systemctl(&["stop", UNIT_NAME]).await?;
    }
    remove_rules().await?;
    remove_node(&args, &layout).await?;
    layout.remove().map_err(|(path, error)| anyhow!("removing {}: {error}", path.display()))?;
    say("certificates, configuration and token are removed; this machine has left")?;
    Ok(ExitCode::SUCCESS)
}

/// The agent stops its pods with their grace periods, and then itself.
async fn stop(agent: &client::Client, args: &LeaveArgs) -> anyhow::Result<()> {
    let everything = crate::server::StopRequest { pods: Vec::new(), grace_period: None };
    let stopped: crate::server::Stopped = match agent.post("/v1/stop", &everything).await {
        Ok(stopped) => stopped,
        Err(error @ client::ClientError::NoAgent { .. }) if !args.force => bail!(
            "{}; the node's pods, if any, go on. Start the agent and leave again, or leave with --force",
            chain(&error)
        ),
        Err(client::ClientError::NoAgent { .. }) => return say("no agent runs"),
        Err(error) => return Err(error.into()),
    };
    say(&format!("the agent stops its {} pods", stopped.pods))?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    while agent.answers().await {
        if Instant::now() > until {
            bail!("the agent has not ended after {} s; `longshore ps` shows what it waits for", args.timeout);
        }
        sleep(LOOK).await;
    }
    say("the agent has ended")
}

/// Services of a cluster that this machine no longer sees would lead nowhere.
async fn remove_rules() -> anyhow::Result<()> {
    // The agent that has just ended may hold them for a moment yet.
    let until = Instant::now() + RULES;
    while matches!(Owner::take(), Err(owner::Taken { .. })) && Instant::now() < until {
        sleep(LOOK).await;
    }
    match super::proxy::clean_up() {
        Ok(_) => Ok(()),
        Err(error) => say(&format!("rules of Services are left: {error:#}; `longshore proxy cleanup` removes them")),
    }
}

/// With the node's own credentials: most clusters do not allow it, and it does no harm to be left.
async fn remove_node(args: &LeaveArgs, layout: &Layout) -> anyhow::Result<()> {
    let named = || args.node_name.clone().or_else(|| layout.node_name());
    let name = named().unwrap_or_else(host_name);
    let asked = async {
        let client = Client::new(Kubeconfig::load(&layout.kubeconfig())?)?;
        let there = client.read::<Node>(None, &name).await?;
        if let Some(uid) = there.and_then(|node| node.metadata.uid) {
            client.delete_now(&path_of::<Node>(None, &name), &uid).await?;
        }
        anyhow::Ok(())
    };
    match asked.await {
        Ok(()) => say(&format!("the Node {name} is deleted")),
        Err(error) => say(&format!("the Node {name} is left to the cluster: kubectl delete node {name} ({error:#})")),
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    print([format!("leave: {line}")])
}

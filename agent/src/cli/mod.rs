//! What a person types. Nothing here that the agent's socket does not offer.

mod agent;
mod client;
mod exec;
mod explain;
mod flags;
mod join;
mod leave;
mod live;
mod pressure_flags;
mod proxy;
mod render;
mod run;
mod service_flags;
mod services;
mod table;
mod talk;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Longshore: runs Kubernetes pods on this machine.
#[derive(Debug, Parser)]
#[command(name = "longshore", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
struct Place {
    /// The agent's live state and its socket; another folder is another agent.
    #[arg(long, global = true, env = "LONGSHORE_RUN_DIR", default_value = "/run/longshore", value_name = "DIR")]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run pods from manifests on this machine, with no control plane, until Ctrl-C.
    Run(Box<run::RunArgs>),
    /// Run the pods that a cluster gives this node, until SIGTERM; they go on without the agent.
    Agent(Box<agent::AgentArgs>),
    /// Join this machine to a cluster with a bootstrap token, and run its agent.
    Join(Box<join::JoinArgs>),
    /// Undo a join: stop the pods and the agent, remove what was written. Drain the node first.
    Leave(leave::LeaveArgs),
    /// List pods.
    Ps(talk::PsArgs),
    /// Say what was tried for a pod, when, how it came out, and what is awaited now.
    Explain(explain::ExplainArgs),
    /// List Deployments, StatefulSets, Jobs and the other workloads.
    Workloads(talk::WorkloadsArgs),
    /// Print a container's log.
    Logs(talk::LogsArgs),
    /// List services, where they answer and what came for them.
    Services(services::ServicesArgs),
    /// Run a command in a container.
    Exec(talk::ExecArgs),
    /// Print what happened.
    Events(talk::EventsArgs),
    /// List images.
    Images(talk::ImagesArgs),
    /// Import images from an OCI layout, an OCI or docker archive, or a plain root file system folder.
    Import(talk::ImportArgs),
    /// Pull an image from its registry.
    Pull(talk::PullArgs),
    /// Show what pods and containers use, and how they are.
    Top(top::TopArgs),
    /// Show or change how much the agent logs, while it runs.
    LogLevel(talk::LogLevelArgs),
    /// Start pods again that were stopped by hand.
    Start(talk::StartArgs),
    /// Stop pods, or without a name the agent with all of its pods.
    Stop(talk::StopArgs),
    /// The rules of Services: print them, remove them. Needs no agent.
    Proxy(proxy::ProxyArgs),
}

/// Parses the command line and does what it says.
///
/// # Errors
/// What went wrong, for a person.
pub fn main() -> anyhow::Result<ExitCode> {
    crate::heap::configure();
    let cli = Cli::parse();
    // Two threads: the work is waiting, and what computes (unpacking, hashing) has the blocking pool.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let run_dir = cli.place.run_dir;
    runtime.block_on(async {
        let agent = client::Client::of(&run_dir);
        match cli.command {
            Command::Run(args) => run::run(*args, run_dir).await,
            Command::Agent(args) => self::agent::run(*args, run_dir).await,
            Command::Join(args) => join::run(*args, run_dir).await,
            Command::Leave(args) => leave::run(&agent, args).await,
            Command::Ps(args) => talk::ps(&agent, args).await,
            Command::Explain(args) => explain::run(&agent, args).await,
            Command::Workloads(args) => talk::workloads(&agent, args).await,
            Command::Logs(args) => talk::logs(&agent, args).await,
            Command::Services(args) => services::services(&agent, args).await,
            Command::Exec(args) => talk::exec(&agent, args).await,
            Command::Events(args) => talk::events(&agent, args).await,
            Command::Images(args) => talk::images(&agent, args).await,
            Command::Import(args) => talk::import(&agent, args).await,
            Command::Pull(args) => talk::pull(&agent, args).await,
            Command::LogLevel(args) => talk::log_level(&agent, args).await,
            Command::Top(args) => top::run(&agent, args).await,
            Command::Start(args) => talk::start(&agent, args).await,
            Command::Stop(args) => talk::stop(&agent, args).await,
            Command::Proxy(args) => proxy::run(&args),
        }
    })
}

/// This machine's name, as nodes are called after it.
fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! `longshore proxy`: the rules of Services without an agent.

mod cleanup; // out of the kernel
mod files; // which files are read
mod objects; // what one file holds
mod render; // the text for the kernel's tools

use std::process::ExitCode;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(super) struct ProxyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the rules for given Services, EndpointSlices and Nodes, for `iptables-restore --noflush`,
    /// `ip6tables-restore --noflush` or `nft -f`. Touches nothing.
    Render(render::RenderArgs),
    /// Remove every rule of Services from this network namespace, whoever wrote it: longshore or kube-proxy, in IPv4
    /// and IPv6, in either back end of iptables and in nftables.
    Cleanup(cleanup::CleanupArgs),
}

/// Every rule of Services goes, unless an agent programs them.
pub(super) fn clean_up() -> anyhow::Result<ExitCode> {
    cleanup::run(&cleanup::CleanupArgs::default())
}

/// Does it and says what was done.
pub(super) fn run(args: &ProxyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Render(args) => render::run(args),
        Command::Cleanup(args) => cleanup::run(args),
    }
}

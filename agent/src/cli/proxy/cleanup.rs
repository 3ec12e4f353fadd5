//! `longshore proxy cleanup`: every rule of Services goes.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use netfilter::apply::{ApplyError, Backend, Iptables, Nft};
use netfilter::iptables::Tables;
use netfilter::{Family, Transaction, nft};

use crate::errors::chain;
use crate::proxy::owner::{self, Owner};

#[derive(Args, Debug, Default)]
pub(super) struct CleanupArgs {
    /// Remove them though an agent programs them: it writes them again.
    #[arg(long)]
    force: bool,
}

/// Removes what there is and says so; what fails does not keep the rest.
pub(super) fn run(args: &CleanupArgs) -> Result<ExitCode> {
    let owner = Owner::take();
    if let (false, Err(owner::Taken { .. })) = (args.force, &owner) {
        bail!(
            "an agent programs Services here: stop it, or run it with --proxy-mode=off, before its rules go (--force removes them all the same)"
        );
    }
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for family in [Family::V4, Family::V6] {
        for iptables in Iptables::every(family) {
            let what = name(&iptables);
            match of_iptables(&iptables) {
                Ok(None) => {}
                Ok(Some(count)) => removed.push(format!("{count} chains of {what}")),
                Err(error) => failed.push(format!("{what}: {}", chain(&error))),
            }
        }
        match of_nftables(family) {
            Ok(false) => {}
            Ok(true) => removed.push(format!("the table kube-proxy of nftables, {}", family_name(family))),
            Err(error) => failed.push(format!("nftables, {}: {}", family_name(family), chain(&error))),
        }
    }
    let mut stdout = std::io::stdout().lock();
    removed.iter().try_for_each(|what| writeln!(stdout, "Removed {what}."))?;
    if removed.is_empty() && failed.is_empty() {
        writeln!(stdout, "Nothing to remove.")?;
    }
    if !failed.is_empty() {
        bail!("not all rules could be removed:\n  {}", failed.join("\n  "));
    }
    Ok(ExitCode::SUCCESS)
}

fn name(iptables: &Iptables) -> String {
    let backend = match iptables.backend() {
        Backend::Nft => "nft",
        Backend::Legacy => "legacy",
    };
    format!("iptables ({backend}), {}", family_name(iptables.family()))
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// How many chains went; `None` when there were none. A back end that the kernel does not have holds none.
fn of_iptables(iptables: &Iptables) -> Result<Option<usize>, ApplyError> {
    let Ok(found) = iptables.save(None) else { return Ok(None) };
    // A kubelet makes its chains again only when it looks for them, once a minute: they are left to one that runs.
    let transaction =
        if kubelet_runs() { Transaction::cleanup(&found) } else { Transaction::cleanup_with_kubelet(&found) };
    if transaction.is_empty() {
        return Ok(None);
    }
    iptables.restore(&transaction)?;
    Ok(Some(chains(&found) - chains(&iptables.save(None)?)))
}

fn chains(tables: &Tables) -> usize {
    use netfilter::iptables::Table;
    [Table::Filter, Table::Nat, Table::Mangle].map(|table| tables.chains(table).count()).iter().sum()
}

fn of_nftables(family: Family) -> Result<bool, ApplyError> {
    let nft = match Nft::find() {
        Err(ApplyError::Missing(_)) => return Ok(false),
        other => other?,
    };
    if nft.found(family)?.is_none() {
        return Ok(false);
    }
    nft.restore(&nft::Transaction::cleanup(family))?;
    Ok(true)
}

fn kubelet_runs() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).ok();
    processes.filter_map(name).any(|name| name.trim_end() == "kubelet")
}

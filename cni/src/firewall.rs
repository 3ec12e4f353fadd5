//! Runs the packet filter's tools. One process per change; each has a deadline and waits at most that long for their lock.

use std::{
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use iptables::IPTables;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    error::{FirewallError, NetworkError},
    rules::{self, Jumps, Present, Table},
};

/// Longer than the five seconds that the tools wait for their lock; a restore itself takes milliseconds.
const LIMIT: Duration = Duration::from_secs(15);

/// Removing all jumps takes a dozen runs.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// Where the tools are on every distribution; a root shell that `su` made does not look there by itself.
const SYSTEM_PROGRAMS: [&str; 2] = ["/usr/sbin", "/sbin"];

const RESTORE: &str = "iptables-restore";
const SAVE: &str = "iptables-save";

/// Makes the kernel's rules these, as far as they are ours. One process when the jumps are in place, as they are after
/// the first time; else the tables are listed once.
pub(crate) async fn apply(tables: &[Table]) -> Result<(), NetworkError> {
    match restore(&rules::transaction(tables, Jumps::Check)).await {
        // A missing jump, most likely. If it is something else it comes again.
        Err(FirewallError::Refused { .. }) => apply_first(tables).await,
        done => done.map_err(not_set),
    }
}

/// As [`apply`] where the jumps are most likely missing.
pub(crate) async fn apply_first(tables: &[Table]) -> Result<(), NetworkError> {
    let missing = Present::read(&run(SAVE, &[], "").await.map_err(not_set)?).missing(tables);
    restore(&rules::transaction(tables, Jumps::Add(&missing))).await.map_err(not_set)
}

fn not_set(source: FirewallError) -> NetworkError {
    NetworkError::Firewall { doing: "setting the pod network's packet rules", source }
}

/// Removes whatever is there of these tables. Repeatable.
pub(crate) async fn remove(tables: Vec<Table>) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Firewall { doing: "removing the pod network's packet rules", source };
    let present = Present::read(&run(SAVE, &[], "").await.map_err(failed)?).of(tables);
    if present.is_empty() {
        return Ok(());
    }
    let tables = present.clone();
    let removal = tokio::task::spawn_blocking(move || remove_jumps(&tables));
    match tokio::time::timeout(REMOVAL_LIMIT, removal).await {
        Ok(Ok(done)) => done.map_err(failed)?,
        Ok(Err(join)) => return Err(failed(FirewallError::Run { tool: "iptables", source: io::Error::other(join) })),
        Err(_) => return Err(failed(FirewallError::Deadline { tool: "iptables", limit: REMOVAL_LIMIT })),
    }
    restore(&rules::removal(&present)).await.map_err(failed)
}

/// Every copy of every jump, in case something doubled them.
fn remove_jumps(tables: &[Table]) -> Result<(), FirewallError> {
    // Built by hand: the crate's own constructor runs the program once more to learn what every iptables since 1.4.20 can.
    let iptables = IPTables { cmd: jump_tool(), has_check: true, has_wait: true, is_numeric: false };
    for table in tables {
        for jump in &table.jumps {
            let done = iptables.delete_all(table.name, jump.from, &jump.rule());
            done.map_err(|error| FirewallError::Refused { tool: "iptables", message: error.to_string() })?;
        }
    }
    Ok(())
}

async fn restore(input: &str) -> Result<(), FirewallError> {
    run(RESTORE, &["--noflush", "-w", "5"], input).await.map(drop)
}

async fn run(tool: &'static str, arguments: &[&str], input: &str) -> Result<String, FirewallError> {
    match tokio::time::timeout(LIMIT, talk(tool, arguments, input)).await {
        Ok(done) => done,
        Err(_) => Err(FirewallError::Deadline { tool, limit: LIMIT }),
    }
}

async fn talk(tool: &'static str, arguments: &[&str], input: &str) -> Result<String, FirewallError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FirewallError::Missing { tool },
        _ => FirewallError::Run { tool, source },
    };
    let mut command = Command::new(tool);
    command
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that refuses early closes its end; its exit code says more than our broken pipe.
        _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(FirewallError::Refused { tool, message: last_lines(&output.stderr) })
}

/// The crate wants a name that lives for ever and looks in the inherited search path only.
fn jump_tool() -> &'static str {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let is_found = env::split_paths(&inherited).any(|folder| folder.join("iptables").exists());
    let elsewhere = ["/usr/sbin/iptables", "/sbin/iptables"].into_iter().find(|path| Path::new(path).exists());
    elsewhere.filter(|_| !is_found).unwrap_or("iptables")
}

fn search_path() -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&inherited).chain(SYSTEM_PROGRAMS.map(PathBuf::from));
    env::join_paths(folders).unwrap_or(inherited)
}

/// The end of what a tool printed, on one line.
fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_is_not_installed_is_named_with_its_package() {
        let error = run("longshore-no-such-tool", &[], "").await.unwrap_err();
        assert_eq!(error.to_string(), "longshore-no-such-tool is not installed: install the package iptables");
    }

    #[test]
    fn a_refusal_keeps_the_end_and_drops_remarks() {
        let stderr = b"# Warning: iptables-legacy tables present\n\niptables-restore: line 2 failed\n";
        assert_eq!(last_lines(stderr), "iptables-restore: line 2 failed");
    }
}

//! Memory of processes, as the kernel counts it.

use anyhow::{Context, Result};

/// Bytes of one process.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Proportional: shared pages divided by their users.
    pub(crate) pss: u64,
}

/// From `/proc/<pid>/smaps_rollup`.
pub(crate) fn of(pid: i32) -> Result<Memory> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("memory of {pid}"))?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1_024)
    };
    Ok(Memory { rss: field("Rss:").context("Rss")?, pss: field("Pss:").context("Pss")? })
}

/// Pids whose name (`comm`) is one of `names` and whose command line or working folder holds `mark`.
pub(crate) fn pids_named(names: &[&str], mark: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let text = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        names.contains(&text("comm").trim()) && (text("cmdline").contains(mark) || text("cgroup").contains(mark))
    })
    .collect()
}

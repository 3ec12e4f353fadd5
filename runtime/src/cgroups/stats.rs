//! What a group uses, read from its files by hand: these are read every few seconds for every container.

use std::fs;
use std::path::Path;

use super::{CgroupError, CgroupPath, Cgroups, Version};

/// What a group and everything below it use. A value the machine does not count is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// CPU time used since the group was made, nanoseconds.
    pub cpu_usage_ns: Option<u64>,
    /// Time lost because others ran.
    pub cpu_pressure: Option<Psi>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Swap.
    pub swap: Option<SwapStats>,
    /// Time lost waiting for memory.
    pub memory_pressure: Option<Psi>,
    /// Time lost waiting for storage.
    pub io_pressure: Option<Psi>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Memory of a group, bytes and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Everything charged, page cache included.
    pub usage: u64,
    /// Usage without the page cache that could be dropped at once: what eviction looks at.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page faults since the group was made.
    pub page_faults: u64,
    /// Those that waited for storage.
    pub major_page_faults: u64,
    /// The group's limit; `None` is unlimited.
    pub limit: Option<u64>,
}

impl MemoryStats {
    /// Limit minus working set; `None` without a limit.
    pub fn available(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.working_set))
    }
}

/// Swap of a group, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// Swapped out.
    pub usage: u64,
    /// The group's limit on swap alone; `None` is unlimited.
    pub limit: Option<u64>,
}

/// Pressure stall information of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// Every task waited.
    pub full: PsiLine,
}

/// Shares of time in percent over the last 10, 60 and 300 seconds, and the total in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "named as in the kernel's file")]
pub struct PsiLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// v1 says "unlimited" as the largest multiple of the page size in a signed number; any limit this large is none.
const UNLIMITED: u64 = 1 << 62;

impl Cgroups {
    /// Reads what the group uses.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when the group does not exist.
    pub fn stats(&self, path: &CgroupPath) -> Result<Stats, CgroupError> {
        if !self.exists(path) {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(CgroupError::io("reading the usage of", path.as_str())(gone));
        }
        let file = |controller: &str, name: &str| {
            self.directory_of(controller, path).and_then(|directory| read(&directory, name))
        };
        let number = |controller: &str, name: &str| file(controller, name).and_then(|text| text.trim().parse().ok());
        let mut stats = match self.version {
            Version::V2 => v2(&file),
            _ => v1(&file),
        };
        stats.pids = number("pids", "pids.current");
        if let Some(directory) = self.unified.as_deref().map(|root| path.below(root)) {
            let pressure = |name: &str| read(&directory, name).map(|text| psi(&text));
            stats.cpu_pressure = pressure("cpu.pressure");
            stats.memory_pressure = pressure("memory.pressure");
            stats.io_pressure = pressure("io.pressure");
        }
        Ok(stats)
    }
}

fn read(directory: &Path, name: &str) -> Option<String> {
    fs::read_to_string(directory.join(name)).ok()
}

/// `(controller, file name)` to its text; `None` where there is no such file.
type Files<'a> = dyn Fn(&str, &str) -> Option<String> + 'a;

fn v1(file: &Files) -> Stats {
    let number = |controller: &str, name: &str| file(controller, name).and_then(|text| value(&text));
    let memory = number("memory", "memory.usage_in_bytes").zip(file("memory", "memory.stat")).map(|(usage, stat)| {
        let of = |key: &str| keyed(&stat, key).unwrap_or(0);
        MemoryStats {
            usage,
            working_set: usage.saturating_sub(of("total_inactive_file")),
            rss: of("total_rss"),
            page_faults: of("total_pgfault"),
            major_page_faults: of("total_pgmajfault"),
            limit: number("memory", "memory.limit_in_bytes").filter(|limit| *limit < UNLIMITED),
        }
    });
    let sum = number("memory", "memory.memsw.usage_in_bytes");
    let sum_limit = number("memory", "memory.memsw.limit_in_bytes").filter(|limit| *limit < UNLIMITED);
    let swap = memory.zip(sum).map(|(memory, sum)| SwapStats {
        usage: sum.saturating_sub(memory.usage),
        limit: sum_limit.zip(memory.limit).map(|(sum, memory)| sum.saturating_sub(memory)),
    });
    Stats { cpu_usage_ns: number("cpuacct", "cpuacct.usage"), memory, swap, ..Stats::default() }
}

fn v2(file: &Files) -> Stats {
    let number = |controller: &str, name: &str| file(controller, name).and_then(|text| value(&text));
    let cpu = file("cpu", "cpu.stat").and_then(|text| keyed(&text, "usage_usec"));
    let memory = number("memory", "memory.current").zip(file("memory", "memory.stat")).map(|(usage, stat)| {
        let of = |key: &str| keyed(&stat, key).unwrap_or(0);
        MemoryStats {
            usage,
            working_set: usage.saturating_sub(of("inactive_file")),
            rss: of("anon"),
            page_faults: of("pgfault"),
            major_page_faults: of("pgmajfault"),
            limit: number("memory", "memory.max"),
        }
    });
    let swap = number("memory", "memory.swap.current")
        .map(|usage| SwapStats { usage, limit: number("memory", "memory.swap.max") });
    Stats { cpu_usage_ns: cpu.map(|usec| usec.saturating_mul(1000)), memory, swap, ..Stats::default() }
}

/// The one number of a file; `max` is none.
fn value(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The number behind `key` in lines of `key number`.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full` (absent for CPU before Linux 5.13).
fn psi(text: &str) -> Psi {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(psi_line).unwrap_or_default();
    Psi { some: line("some "), full: line("full ") }
}

fn psi_line(text: &str) -> PsiLine {
    let of = |key: &str| text.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let share = |key: &str| of(key).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let total = of("total").and_then(|text| text.parse().ok()).unwrap_or(0);
    PsiLine { avg10: share("avg10"), avg60: share("avg60"), avg300: share("avg300"), total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn files<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&str, &str) -> Option<String> + 'a {
        |_, name| files.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn v1_counts_memory_and_swap_together_and_cpu_in_nanoseconds() {
        let stats = v1(&files(&[
            ("cpuacct.usage", "123456789\n"),
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.usage_in_bytes", "1500\n"),
            ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ("memory.stat", "rss 1\ntotal_rss 700\ntotal_inactive_file 200\ntotal_pgfault 9\ntotal_pgmajfault 2\n"),
        ]));
        expect![[r#"
            Some(123456789)
            Some(MemoryStats { usage: 1000, working_set: 800, rss: 700, page_faults: 9, major_page_faults: 2, limit: None })
            Some(SwapStats { usage: 500, limit: None })
        "#]]
        .assert_eq(&format!("{:?}\n{:?}\n{:?}\n", stats.cpu_usage_ns, stats.memory, stats.swap));
    }

    #[test]
    fn v2_counts_cpu_in_microseconds_and_unlimited_as_max() {
        let stats = v2(&files(&[
            ("cpu.stat", "usage_usec 5000\nuser_usec 1\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.stat", "anon 2048\ninactive_file 1024\npgfault 3\npgmajfault 1\n"),
            ("memory.swap.current", "7\n"),
            ("memory.swap.max", "max\n"),
        ]));
        expect![[r#"
            Some(5000000)
            Some(MemoryStats { usage: 4096, working_set: 3072, rss: 2048, page_faults: 3, major_page_faults: 1, limit: Some(8192) })
            Some(SwapStats { usage: 7, limit: None })
        "#]]
        .assert_eq(&format!("{:?}\n{:?}\n{:?}\n", stats.cpu_usage_ns, stats.memory, stats.swap));
        assert_eq!(stats.memory.and_then(|memory| memory.available()), Some(5120));
    }

    #[test]
    fn pressure_is_read_with_and_without_the_full_line() {
        let some = "some avg10=1.50 avg60=0.25 avg300=0.01 total=42\n";
        assert_eq!(psi(some).some, PsiLine { avg10: 1.5, avg60: 0.25, avg300: 0.01, total: 42 });
        assert_eq!(psi(some).full, PsiLine::default());
        assert_eq!(psi("garbage").some, PsiLine::default());
    }

    #[test]
    fn a_key_is_a_whole_word() {
        assert_eq!(keyed("oom 1\noom_kill 3\noom_kill_disable 0\n", "oom_kill"), Some(3));
    }
}

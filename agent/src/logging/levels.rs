use std::fmt::Write as _;

use super::QUIET;

/// The agent's own crates: what `-v` speaks of.
const OWN: [&str; 4] = ["agent", "runtime", "cni", "netfilter"];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLevel {
    /// In the words it was given.
    #[error("{0:?} is no level: use off, error, warn, info, debug or trace, a number of klog's, or MODULE=LEVEL")]
    Word(String),
    /// This process does not log.
    #[error("nothing is logged here")]
    NoLog,
}

impl BadLevel {
    pub(super) fn new(word: impl Into<String>) -> Self {
        Self::Word(word.into())
    }
}

/// Directives of words separated by commas: `debug`, `4`, `pods=trace`, `agent::pods::worker=5`.
///
/// # Errors
/// The first word that is none of these.
pub fn read(words: &str) -> Result<String, BadLevel> {
    let parts = words.split(',').map(str::trim).filter(|part| !part.is_empty());
    let read = parts.map(part).collect::<Result<Vec<_>, _>>()?;
    if read.is_empty() { Err(BadLevel::new(words)) } else { Ok(read.join(",")) }
}

/// Directives of klog's verbosity and its levels by module. 0 is what everybody gets who says nothing.
pub fn of_klog(verbosity: u32, modules: &[(String, u32)]) -> String {
    let mut directives = of_number(verbosity);
    for (name, verbosity) in modules {
        let _ = write!(directives, ",{}", of_module(name, level_of(*verbosity)));
    }
    directives
}

fn part(part: &str) -> Result<String, BadLevel> {
    match part.split_once('=') {
        None => word(part).map(str::to_owned).or_else(|| part.parse().ok().map(of_number)),
        Some((module, level)) => {
            let level = word(level).or_else(|| level.parse().ok().map(level_of));
            level.filter(|_| is_module(module)).map(|level| of_module(module, level))
        }
    }
    .ok_or_else(|| BadLevel::new(part))
}

fn word(text: &str) -> Option<&'static str> {
    LEVELS.into_iter().find(|level| level.eq_ignore_ascii_case(text))
}

/// klog's numbers: 2 is what a person wants to see of a node that works, 4 is for looking for a mistake.
fn level_of(verbosity: u32) -> &'static str {
    match verbosity {
        0 => QUIET,
        1..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    }
}

fn of_number(verbosity: u32) -> String {
    let own = level_of(verbosity);
    // From 8 on klog shows what goes over the wire: that is in other crates.
    let others = if verbosity >= 8 { "debug" } else { QUIET };
    if own == others {
        return own.to_owned();
    }
    OWN.iter().fold(others.to_owned(), |all, crate_name| format!("{all},{crate_name}={own}"))
}

/// A path is what it says; a single word is a module of any of our crates, or a crate.
fn of_module(name: &str, level: &str) -> String {
    let path = name.replace('/', "::");
    if path.contains("::") || OWN.contains(&name) {
        return format!("{path}={level}");
    }
    let own: Vec<_> = OWN.iter().map(|crate_name| format!("{crate_name}::{path}={level}")).collect();
    format!("{},{path}={level}", own.join(","))
}

fn is_module(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'/'))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::EnvFilter;

    use super::*;

    fn check(words: &str, directives: &str) {
        let read = read(words).unwrap();
        assert_eq!(read, directives);
        EnvFilter::try_new(read).unwrap();
    }

    #[test]
    fn words_are_levels_numbers_and_modules() {
        check("Debug", "debug");
        check("0", "warn");
        check("4", "warn,agent=debug,runtime=debug,cni=debug,netfilter=debug");
        check("9", "debug,agent=trace,runtime=trace,cni=trace,netfilter=trace");
        check("info, agent::pods::worker=5", "info,agent::pods::worker=debug");
        check("pods=trace", "agent::pods=trace,runtime::pods=trace,cni::pods=trace,netfilter::pods=trace,pods=trace");
        check("runtime=off", "runtime=off");
        for wrong in ["", "loud", "-1", "pods=loud", "=info", "a b=info", "kubelet*=4", "info,much"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn klogs_flags_are_understood_together() {
        let modules = [("runtime".to_owned(), 6)];
        assert_eq!(of_klog(0, &modules), "warn,runtime=trace");
        assert_eq!(of_klog(2, &[]), "warn,agent=info,runtime=info,cni=info,netfilter=info");
    }
}

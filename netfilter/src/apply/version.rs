//! What a program can do.

use super::{ApplyError, Backend, SHORT_DEADLINE, SHORT_OUTPUT, run};
use std::fmt;

/// A version of iptables or nft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub(super) u16, pub(super) u16, pub(super) u16);

impl Version {
    /// Rules can be looked for (`-C`) and the lock can be waited for (`-w`): older ones are not usable.
    const OLDEST: Self = Self(1, 4, 20);
    /// The wait can be given a limit.
    const LIMITED_WAIT: Self = Self(1, 4, 22);
    /// iptables-restore can wait too, and masquerading can be random.
    const RESTORE_WAITS: Self = Self(1, 6, 2);

    /// Whether iptables-restore waits for the lock by itself.
    pub(super) fn restore_waits(self) -> bool {
        self >= Self::RESTORE_WAITS
    }

    pub(super) fn has_random_fully(self) -> bool {
        self >= Self::RESTORE_WAITS
    }

    /// The words that make the program wait for its lock.
    pub(super) fn wait(self) -> &'static str {
        if self >= Self::LIMITED_WAIT { "-w 5" } else { "-w" }
    }

    /// Finds `v1.8.9` in `iptables v1.8.9 (nf_tables)`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let word = text.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Asks a program for its version and its back end.
pub(super) fn ask(program: &'static str) -> Result<(Version, Backend), ApplyError> {
    let text = run::Command::new(program, &["--version"]).run_well(SHORT_DEADLINE, SHORT_OUTPUT)?;
    let version = Version::parse(&text).filter(|version| *version >= Version::OLDEST);
    let unusable = || ApplyError::Version { program: program.to_owned(), text: run::message(&text) };
    let backend = if text.contains("nf_tables") { Backend::Nft } else { Backend::Legacy };
    Ok((version.ok_or_else(unusable)?, backend))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let read = |text| Version::parse(text).unwrap();
        assert_eq!(read("iptables v1.8.9 (nf_tables)\n"), Version(1, 8, 9));
        assert_eq!(read("ip6tables v1.4.21"), Version(1, 4, 21));
        assert_eq!(read("iptables-restore v1.10 (legacy)"), Version(1, 10, 0));
        assert_eq!(Version::parse("no version here"), None);
        let old = read("iptables v1.4.21");
        assert_eq!((old.wait(), old.restore_waits(), old.has_random_fully()), ("-w", false, false));
        let new = read("iptables v1.8.9");
        assert_eq!((new.wait(), new.restore_waits(), new.has_random_fully()), ("-w 5", true, true));
    }
}

//! Transactions of the nftables back end into the kernel, through `nft`.

use super::run::{Command, Output, message};
use super::{ApplyError, LONG_OUTPUT, RESTORE_DEADLINE, SAVE_DEADLINE, SHORT_DEADLINE, SHORT_OUTPUT, Version, find};
use crate::nft::{Batch, Census, Found, TABLE, Transaction, counts};
use crate::{Count, Family};
use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

const PLACES: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// Older versions do not read all of our rules.
const OLDEST: Version = Version(1, 0, 1);
/// How long kernels before 6.2 hold on to what a removed map element led to.
const RELEASED_AFTER: Duration = Duration::from_secs(1);

/// The program of nftables.
#[derive(Debug, Clone)]
pub struct Nft {
    program: &'static str,
    version: Version,
}

impl Nft {
    /// Finds the program.
    ///
    /// # Errors
    /// If there is none, it is older than 1.0.1, or it does not answer.
    pub fn find() -> Result<Self, ApplyError> {
        let program = PLACES.into_iter().find(|place| find::exists(place)).ok_or(ApplyError::Missing("nft"))?;
        let text = Command::new(program, &["--version"]).run_well(SHORT_DEADLINE, SHORT_OUTPUT)?;
        let unusable = || ApplyError::Version { program: program.to_owned(), text: message(&text) };
        let version = Version::parse(&text).filter(|version| *version >= OLDEST).ok_or_else(unusable)?;
        Ok(Self { program, version })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Hands a transaction to the kernel. An empty one costs nothing.
    ///
    /// # Errors
    /// If a line was refused, the program failed, or it took too long. Batches before that line are in
    /// force, its own and later ones not.
    pub fn restore(&self, transaction: &Transaction) -> Result<(), ApplyError> {
        transaction.batches().iter().try_for_each(|batch| self.run(batch, transaction.family()))
    }

    /// What is in the table of a family; `None` if there is no such table.
    ///
    /// # Errors
    /// If the program failed or took too long.
    pub fn found(&self, family: Family) -> Result<Option<Found>, ApplyError> {
        Ok(self.list("--terse", family)?.map(|listing| Found::parse(&listing)))
    }

    /// How much there is in the table of a family: costs more than [`Nft::found`], as everything is listed.
    ///
    /// # Errors
    /// If the program failed or took too long.
    pub fn census(&self, family: Family) -> Result<Option<Census>, ApplyError> {
        Ok(self.list("--numeric", family)?.map(|listing| Census::parse(&listing)))
    }

    /// What came for each service port of a family, by its name: see [`counts`]. Lists everything.
    ///
    /// # Errors
    /// If the program failed or took too long.
    pub fn counts(&self, family: Family) -> Result<BTreeMap<String, Count>, ApplyError> {
        Ok(self.list("--numeric", family)?.map(|listing| counts(&listing)).unwrap_or_default())
    }

    fn list(&self, how: &'static str, family: Family) -> Result<Option<String>, ApplyError> {
        let command = Command::new(self.program, &[how, "list", "table", ip(family), TABLE]);
        let output = command.run(SAVE_DEADLINE, LONG_OUTPUT)?;
        match output.success {
            true => Ok(Some(output.stdout)),
            false if output.stderr.contains("No such file or directory") => Ok(None),
            false => Err(command.unsuccessful(&output)),
        }
    }

    fn run(&self, batch: &Batch, family: Family) -> Result<(), ApplyError> {
        let command = Command::new(self.program, &["-f", "-"]).input(batch.text(family));
        let mut output = command.run(RESTORE_DEADLINE, SHORT_OUTPUT)?;
        if batch.is_cleanup && output.stderr.contains("Device or resource busy") {
            thread::sleep(RELEASED_AFTER);
            output = command.run(RESTORE_DEADLINE, SHORT_OUTPUT)?;
        }
        if output.success { Ok(()) } else { Err(explain(batch, family, &command, &output)) }
    }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn explain(batch: &Batch, family: Family, command: &Command, output: &Output) -> ApplyError {
    let found = line_number(&output.stderr).and_then(|number| Some((number, batch.line(family, number)?)));
    match found {
        Some((number, line)) => {
            ApplyError::Refused { number, line: line.text, owner: line.owner, message: message(&output.stderr) }
        }
        None => command.unsuccessful(output),
    }
}

/// `/dev/stdin:5:44-53: Error: …`, or with the name `-`.
fn line_number(text: &str) -> Option<usize> {
    let (place, _) = text.lines().find_map(|line| line.split_once(": Error"))?;
    place.rsplit(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_error_is_found() {
        let text = "/dev/stdin:5:44-53: Error: Could not process rule: No such file or directory\ndelete element\n";
        assert_eq!(line_number(text), Some(5));
        assert_eq!(line_number("netlink: Error: cache initialization failed"), None);
        assert_eq!(line_number("something else"), None);
    }
}

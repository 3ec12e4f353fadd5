//! Transactions and jumps into the kernel, through the iptables programs or nft.
//!
//! Every call starts processes and waits for them, with a deadline: call it where waiting is allowed.
//! Calls of one address family must come one after the other, as kube-proxy's do: the programs lock each
//! other out anyway.

use crate::iptables::{Table, Tables, TablesError, Transaction, counts};
use crate::{Count, Family, ServicePortName};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

mod chains; // single chains: canaries, and what the kubelet makes
mod entries; // what the older tables say, as a number
mod find; // which of the installed programs is the right one
mod jumps; // from the kernel's own chains into ours
mod lock; // for programs that cannot wait for each other
mod netlink; // what messages of the kernel have in common
mod nftables; // the same for the nftables back end
mod notices; // whether anybody wrote to our table of nftables
mod refusal; // which line the kernel did not like
mod run; // one process, with a deadline
mod version; // what a program can do
mod watch; // whether anybody changed the rules

pub use chains::{KUBELET_CANARY, PROXY_CANARY};
pub use nftables::Nft;
pub use notices::Notices;
pub use version::Version;
pub use watch::{Fingerprint, Watch};

/// How long a transaction may take. 10,000 services from nothing take 6 s on an idle machine.
const RESTORE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a listing may take: 50,000 rules take 2 s.
const SAVE_DEADLINE: Duration = Duration::from_secs(60);
/// How long a question about one chain or rule may take. The programs themselves wait 5 s for their lock.
const SHORT_DEADLINE: Duration = Duration::from_secs(30);
/// The most output that is read of a program that should say little, in bytes.
const SHORT_OUTPUT: u64 = 1 << 20;
/// The most that is read of a listing, in bytes.
const LONG_OUTPUT: u64 = 512 << 20;

/// Why the kernel does not have the rules.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// There is no such program in the search path or in /usr/sbin.
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// The program could not be started, fed or read.
    #[error("running {program}")]
    Run {
        /// Its name.
        program: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The program was still busy and has been killed.
    #[error("{program} took longer than {} s", deadline.as_secs())]
    Deadline {
        /// Its name.
        program: String,
        /// How long it was given.
        deadline: Duration,
    },
    /// The program does not say which version it is, or is older than any we can use.
    #[error("{program} is not a usable version: {text:?}")]
    Version {
        /// Its name.
        program: String,
        /// What it said.
        text: String,
    },
    /// Another program held the lock of iptables all the time.
    #[error("somebody else holds the lock {0}")]
    Locked(&'static str),
    /// A line of the transaction was refused. Earlier sections are in force, its own and later ones not.
    #[error("line {number} was refused: {line}: {message}")]
    Refused {
        /// Its number, counted from 1.
        number: usize,
        /// The line.
        line: String,
        /// For which service port it stood there.
        owner: Option<ServicePortName>,
        /// What the program said.
        message: String,
    },
    /// The program failed and did not say at which line.
    #[error("{command} failed with {status}: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit status, or the signal that ended it.
        status: String,
        /// What it said.
        message: String,
    },
    /// The listing could not be read.
    #[error("reading the rules in the kernel")]
    Listing(#[from] TablesError),
}

/// Where the rules of iptables are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// In nftables, by translation.
    Nft,
    /// In the kernel's older tables.
    Legacy,
}

/// The programs of one address family.
#[derive(Debug, Clone)]
pub struct Iptables {
    family: Family,
    programs: find::Programs,
    version: Version,
    backend: Backend,
}

impl Iptables {
    /// Finds the programs. Where both back ends are installed, the one in which a kubelet left its mark
    /// is right; without a mark it is whichever `iptables` stands for.
    ///
    /// # Errors
    /// If there are none, they are too old, or do not answer.
    pub fn find(family: Family) -> Result<Self, ApplyError> {
        Self::of(family, find::programs(family)?)
    }

    /// The programs of every back end that is installed and answers: rules may be in each of them.
    pub fn every(family: Family) -> Vec<Self> {
        find::every(family).into_iter().filter_map(|programs| Self::of(family, programs).ok()).collect()
    }

    fn of(family: Family, programs: find::Programs) -> Result<Self, ApplyError> {
        let (version, backend) = version::ask(programs.iptables)?;
        Ok(Self { family, programs, version, backend })
    }

    /// The address family they are for.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Their version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where they keep their rules.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether they know how to masquerade with random ports: see
    /// [`NodeConfig::random_fully`](crate::NodeConfig::random_fully).
    pub fn knows_random_fully(&self) -> bool {
        self.version.has_random_fully()
    }

    /// Whether the kernel has tables of this family at all.
    pub fn is_supported(&self) -> bool {
        let ipv6 = || find::has_ipv6();
        (self.family == Family::V4 || ipv6()) && self.list(Table::Nat, "POSTROUTING").is_ok()
    }

    /// Hands a transaction to the kernel. An empty one costs nothing.
    ///
    /// # Errors
    /// If a line was refused, the program failed, or it took too long.
    pub fn restore(&self, transaction: &Transaction) -> Result<(), ApplyError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let _lock = if self.version.restore_waits() { None } else { Some(lock::take()?) };
        let wait: &[&str] = if self.version.restore_waits() { &["-w", "5"] } else { &[] };
        let arguments = [wait, &["--noflush", "--counters"]].concat();
        let command = run::Command::new(self.programs.restore, &arguments).input(transaction.text());
        let output = command.run(RESTORE_DEADLINE, SHORT_OUTPUT)?;
        if output.success { Ok(()) } else { Err(refusal::explain(transaction, &command, &output)) }
    }

    /// Lists what is in the kernel: one table, or all.
    ///
    /// # Errors
    /// If the program failed or took too long, or its output cannot be read.
    pub fn save(&self, table: Option<Table>) -> Result<Tables, ApplyError> {
        let arguments = table.map(|table| ["-t", table.as_str()]);
        let arguments: &[&str] = arguments.as_ref().map_or(&[], |arguments| arguments);
        let output = run::Command::new(self.programs.save, arguments).run_well(SAVE_DEADLINE, LONG_OUTPUT)?;
        Ok(Tables::parse(self.family, &output)?)
    }

    /// What came for each service port, by its name: see [`counts`]. Lists the whole nat table.
    ///
    /// # Errors
    /// If the program failed or took too long.
    pub fn counts(&self) -> Result<BTreeMap<String, Count>, ApplyError> {
        let arguments = ["-c", "-t", Table::Nat.as_str()];
        Ok(counts(&run::Command::new(self.programs.save, &arguments).run_well(SAVE_DEADLINE, LONG_OUTPUT)?))
    }
}

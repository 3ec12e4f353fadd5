//! Single chains: canaries, and what the kubelet makes.

use super::{ApplyError, Iptables, SHORT_DEADLINE, SHORT_OUTPUT, run};
use crate::Family;
use crate::iptables::{KUBELET_JUMPS, Table, block_localnet};

/// The chain whose absence shows that somebody flushed the tables of the proxy.
pub const PROXY_CANARY: &str = "KUBE-PROXY-CANARY";
/// The same for the kubelet's part.
pub const KUBELET_CANARY: &str = "KUBE-KUBELET-CANARY";
/// Tells containers which back end the host uses.
const HINT: &str = "KUBE-IPTABLES-HINT";
const FIREWALL: &str = "KUBE-FIREWALL";
/// The tables in which canaries live; the first is the one to look at.
const CANARY_TABLES: [Table; 3] = [Table::Mangle, Table::Nat, Table::Filter];

impl Iptables {
    /// Makes a canary in every table where it is missing.
    ///
    /// # Errors
    /// If a command fails.
    pub fn make_canary(&self, canary: &str) -> Result<(), ApplyError> {
        CANARY_TABLES.into_iter().try_for_each(|table| self.make_chain(table, canary))
    }

    /// Whether the canary is still in its first table. Asking costs one short process.
    ///
    /// # Errors
    /// If nothing can be said, as when the lock is held by somebody else.
    pub fn has_canary(&self, canary: &str) -> Result<bool, ApplyError> {
        let command = self.command(&["-S", canary, "-t", Table::Mangle.as_str()]);
        let output = command.run(SHORT_DEADLINE, SHORT_OUTPUT)?;
        // 4 means that there was no answer, which is not "no".
        if output.status.code() == Some(4) { Err(command.unsuccessful(&output)) } else { Ok(output.success) }
    }

    /// Makes what a kubelet makes: the hint in mangle, and for IPv4 the rule that keeps neighbours away
    /// from 127.0.0.0/8. Costs nothing but time when it is all there.
    ///
    /// # Errors
    /// If a command fails.
    pub fn make_kubelet_chains(&self) -> Result<(), ApplyError> {
        self.make_chain(Table::Mangle, HINT)?;
        if self.family == Family::V6 {
            return Ok(());
        }
        self.ensure_jumps(&KUBELET_JUMPS)?;
        let rule = block_localnet().words();
        let words: Vec<&str> = ["-t", "filter"].into_iter().chain(rule.iter().map(String::as_str)).collect();
        let check = self.command(&[&["-C", FIREWALL], words.as_slice()].concat());
        if check.run(SHORT_DEADLINE, SHORT_OUTPUT)?.success {
            return Ok(());
        }
        let append = self.command(&[&["-A", FIREWALL], words.as_slice()].concat());
        append.run_well(SHORT_DEADLINE, SHORT_OUTPUT).map(drop)
    }

    pub(super) fn list(&self, table: Table, chain: &str) -> Result<String, ApplyError> {
        self.command(&["-S", chain, "-t", table.as_str()]).run_well(SHORT_DEADLINE, SHORT_OUTPUT)
    }

    fn make_chain(&self, table: Table, chain: &str) -> Result<(), ApplyError> {
        let command = self.command(&["-N", chain, "-t", table.as_str()]);
        let output = command.run(SHORT_DEADLINE, SHORT_OUTPUT)?;
        // 1: there is one already.
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(command.unsuccessful(&output)),
        }
    }

    fn command(&self, arguments: &[&str]) -> run::Command {
        let wait: Vec<&str> = self.version.wait().split(' ').collect();
        run::Command::new(self.programs.iptables, &[wait.as_slice(), arguments].concat())
    }
}

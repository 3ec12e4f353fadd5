//! Tables that take the text of a transaction as the kernel does.
//!
//! It is stricter than either back end: a jump must lead to a chain that is already there, and a chain
//! must be empty and unused at the very line that removes it. What it accepts, both accept.

use super::save::{saved, words};
use super::tables::{Tables, built_in};
use super::{Table, Transaction, Unreadable};
use crate::Family;
use std::collections::BTreeMap;
use std::fmt;

/// Tables in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fake {
    tables: Tables,
}

/// Why a text was refused. Sections before the one with the line are in force; that one is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} failed: {text:?}")]
pub struct Refused {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    #[source]
    pub reason: Reason,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is not a line that iptables-restore knows.
    #[error("not a line of rules")]
    Syntax,
    /// The rule cannot be read.
    #[error("not a rule")]
    Rule(#[from] Unreadable),
    /// The name is longer than 28 characters.
    #[error("the name of chain {0} is too long")]
    LongName(String),
    /// There is no such chain.
    #[error("there is no chain {0}")]
    NoChain(String),
    /// There is no such rule in the chain.
    #[error("there is no such rule")]
    NoRule,
    /// The chain still has rules.
    #[error("chain {0} has rules")]
    NotEmpty(String),
    /// A rule still leads to the chain.
    #[error("chain {0} is in use")]
    InUse(String),
}

type Chains = BTreeMap<String, Vec<String>>;

/// XT_EXTENSION_MAXNAMELEN without its final zero byte.
const LONGEST_CHAIN: usize = 28;
const TARGETS: [&str; 7] = ["ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "MASQUERADE", "DNAT"];

impl Fake {
    /// Tables as the kernel starts with them.
    pub fn new(family: Family) -> Self {
        Self { tables: Tables::new(family) }
    }

    /// What is in the tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Applies a transaction, section by section.
    ///
    /// # Errors
    /// The first line that the kernel would refuse.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        self.restore(&transaction.text())
    }

    /// Applies a text like `iptables-restore --noflush`.
    ///
    /// # Errors
    /// The first line that the kernel would refuse.
    pub fn restore(&mut self, text: &str) -> Result<(), Refused> {
        let mut open: Option<(Table, Chains)> = None;
        for (index, line) in text.lines().enumerate() {
            let refused = |reason| Refused { line: index + 1, text: line.to_owned(), reason };
            self.read_line(&mut open, line).map_err(refused)?;
        }
        Ok(())
    }

    fn read_line(&mut self, open: &mut Option<(Table, Chains)>, line: &str) -> Result<(), Reason> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            let found = self.tables.tables.iter().find(|(table, _)| table.as_str() == name);
            let (table, chains) = found.filter(|_| open.is_none()).ok_or(Reason::Syntax)?;
            *open = Some((*table, chains.clone()));
            return Ok(());
        }
        if line == "COMMIT" {
            let (table, chains) = open.take().ok_or(Reason::Syntax)?;
            self.tables.tables.insert(table, chains);
            return Ok(());
        }
        let family = self.tables.family();
        let (table, chains) = open.as_mut().ok_or(Reason::Syntax)?;
        change(*table, chains, family, line)
    }
}

impl fmt::Display for Fake {
    /// As `iptables-save` prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.fmt(f)
    }
}

fn change(table: Table, chains: &mut Chains, family: Family, line: &str) -> Result<(), Reason> {
    if let Some(chain) = line.strip_prefix(':') {
        return make_or_empty(chains, chain.split_once(' ').ok_or(Reason::Syntax)?.0);
    }
    let (command, rest) = line.split_once(' ').ok_or(Reason::Syntax)?;
    let (name, rule) = rest.split_once(' ').unwrap_or((rest, ""));
    if command == "-X" {
        return remove_chain(table, chains, name);
    }
    let target = target(rule)?.filter(|target| !TARGETS.contains(&target.as_str()));
    if let Some(target) = target.filter(|target| !chains.contains_key(target)) {
        return Err(Reason::NoChain(target));
    }
    let rule = saved(rule, family)?;
    let rules = chains.get_mut(name).ok_or_else(|| Reason::NoChain(name.to_owned()))?;
    match command {
        "-A" => rules.push(rule),
        "-I" => rules.insert(0, rule),
        "-D" => {
            let index = rules.iter().position(|other| *other == rule).ok_or(Reason::NoRule)?;
            rules.remove(index);
        }
        _ => return Err(Reason::Syntax),
    }
    Ok(())
}

fn make_or_empty(chains: &mut Chains, name: &str) -> Result<(), Reason> {
    if name.len() > LONGEST_CHAIN {
        return Err(Reason::LongName(name.to_owned()));
    }
    chains.entry(name.to_owned()).or_default().clear();
    Ok(())
}

fn remove_chain(table: Table, chains: &mut Chains, name: &str) -> Result<(), Reason> {
    let rules = chains.get(name).filter(|_| !built_in(table).contains(&name));
    let rules = rules.ok_or_else(|| Reason::NoChain(name.to_owned()))?;
    if !rules.is_empty() {
        return Err(Reason::NotEmpty(name.to_owned()));
    }
    let leads_here = |rule: &String| matches!(target(rule), Ok(Some(target)) if target == name);
    if chains.values().flatten().any(leads_here) {
        return Err(Reason::InUse(name.to_owned()));
    }
    chains.remove(name);
    Ok(())
}

fn target(rule: &str) -> Result<Option<String>, Unreadable> {
    let words = words(rule)?;
    Ok(words.iter().position(|word| word == "-j").and_then(|index| words.get(index + 1).cloned()))
}

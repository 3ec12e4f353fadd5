//! What is in the kernel, as `iptables-save` prints it.

use super::Table;
use crate::Family;
use std::collections::BTreeMap;
use std::fmt;

/// Chains with their rules, table by table. Rules are in printed form, without `-A CHAIN `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    family: Family,
    pub(super) tables: BTreeMap<Table, BTreeMap<String, Vec<String>>>,
}

/// Why a text is not the output of `iptables-save`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablesError {
    /// The text is larger than any that our rules make.
    #[error("{size} bytes of rules are more than the {limit} that are read")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most that is read.
        limit: usize,
    },
    /// A line that does not belong there.
    #[error("line {number} of the saved rules is not one: {text:?}")]
    Line {
        /// Counted from 1.
        number: usize,
        /// Its beginning.
        text: String,
    },
}

/// A quarter of a million services would fit; whoever has more memory than that in rules is not us.
const LARGEST_SAVE: usize = 512 << 20;

/// Chains that are there without anybody making them.
pub(super) fn built_in(table: Table) -> &'static [&'static str] {
    match table {
        Table::Filter => &["INPUT", "FORWARD", "OUTPUT"],
        Table::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        Table::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    }
}

impl Tables {
    /// Tables as the kernel starts with them.
    pub fn new(family: Family) -> Self {
        let chains = |table| built_in(table).iter().map(|name| ((*name).to_owned(), Vec::new())).collect();
        let tables = [Table::Filter, Table::Nat, Table::Mangle].map(|table| (table, chains(table)));
        Self { family, tables: tables.into() }
    }

    /// Reads the output of `iptables-save`, with or without counters. Tables other than filter, nat and
    /// mangle are passed over.
    ///
    /// # Errors
    /// If the text is too large, or a line is neither a table, a chain, a rule nor a comment.
    pub fn parse(family: Family, text: &str) -> Result<Self, TablesError> {
        if text.len() > LARGEST_SAVE {
            return Err(TablesError::TooLarge { size: text.len(), limit: LARGEST_SAVE });
        }
        let mut tables = Self::new(family);
        let mut table = None;
        for (index, line) in text.lines().enumerate() {
            let bad = || TablesError::Line { number: index + 1, text: line.chars().take(200).collect() };
            tables.read_line(&mut table, line).ok_or_else(bad)?;
        }
        Ok(tables)
    }

    fn read_line(&mut self, table: &mut Option<Table>, line: &str) -> Option<()> {
        // With counters, a rule starts with `[packets:bytes] `.
        let line = if line.starts_with('[') { line.split_once("] ")?.1 } else { line };
        if let Some(name) = line.strip_prefix('*') {
            *table = [Table::Filter, Table::Nat, Table::Mangle].into_iter().find(|table| table.as_str() == name);
            return Some(());
        }
        if line.is_empty() || line.starts_with('#') || line == "COMMIT" {
            return Some(());
        }
        let chains = table.and_then(|table| self.tables.get_mut(&table));
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_once(' ')?.0;
            if let Some(chains) = chains {
                chains.entry(name.to_owned()).or_default();
            }
            return Some(());
        }
        let (chain, rule) = line.strip_prefix("-A ")?.split_once(' ').unwrap_or((&line[3..], ""));
        if let Some(chains) = chains {
            chains.get_mut(chain)?.push(rule.to_owned());
        }
        Some(())
    }

    /// The address family of the rules.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The rules of a chain, in printed form; `None` if there is no such chain.
    pub fn rules(&self, table: Table, chain: &str) -> Option<&[String]> {
        self.tables.get(&table)?.get(chain).map(Vec::as_slice)
    }

    #[cfg(test)]
    pub(super) fn tables_mut(&mut self, table: Table) -> &mut BTreeMap<String, Vec<String>> {
        self.tables.get_mut(&table).unwrap()
    }

    /// The names of all chains of a table.
    pub fn chains(&self, table: Table) -> impl Iterator<Item = &str> {
        self.tables.get(&table).into_iter().flat_map(|chains| chains.keys().map(String::as_str))
    }
}

impl fmt::Display for Tables {
    /// As `iptables-save` prints: built-in chains first, the others by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, chains) in &self.tables {
            writeln!(f, "*{table}")?;
            let own = || chains.iter().filter(|(name, _)| !built_in(*table).contains(&name.as_str()));
            built_in(*table).iter().try_for_each(|name| writeln!(f, ":{name} ACCEPT [0:0]"))?;
            own().try_for_each(|(name, _)| writeln!(f, ":{name} - [0:0]"))?;
            let first = built_in(*table).iter().filter_map(|name| chains.get_key_value(*name));
            for (chain, rule) in first.chain(own()).flat_map(|(name, rules)| rules.iter().map(move |rule| (name, rule)))
            {
                writeln!(f, "-A {chain} {rule}")?;
            }
            writeln!(f, "COMMIT")?;
        }
        Ok(())
    }
}

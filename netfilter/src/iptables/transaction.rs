//! A change to the kernel's tables as a value.

use super::{ChainName, Rule, Table};
use crate::{Family, ServicePortName};
use std::collections::HashSet;
use std::fmt::{self, Write as _};

/// The kernel's work for one transaction of the nft back end grows with the square of its chains. With as
/// many as 250 services of two endpoints have it is still as fast as the command itself.
const CHAINS_PER_SECTION: usize = 750;

mod between; // from one ruleset to the next
mod takeover; // from whatever is in the kernel to a ruleset, or to nothing

/// Sections for one run of `iptables-restore --noflush`, applied in order, each whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    family: Family,
    sections: Vec<Section>,
}

/// One `*table … COMMIT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The table it changes.
    pub table: Table,
    /// Chains that are made, or emptied if they are there.
    pub chains: Vec<(ChainName, Option<ServicePortName>)>,
    /// What is done then, in order.
    pub edits: Vec<Edit>,
}

/// One line of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What it does.
    pub op: Op,
    /// The service port for whose sake it is there.
    pub owner: Option<ServicePortName>,
}

/// What one line does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a rule behind the others of a chain.
    Append(ChainName, Rule),
    /// Puts a rule before the others of a chain.
    Insert(ChainName, Rule),
    /// Takes the first such rule out of a chain.
    Delete(ChainName, Rule),
    /// Removes an empty chain that nothing refers to.
    DeleteChain(ChainName),
}

/// A line of the text of a transaction, found by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line itself.
    pub text: String,
    /// The service port for whose sake it is there; `None` for what all services share.
    pub owner: Option<ServicePortName>,
}

impl Transaction {
    /// Neighbours that fit into one section become one: fewer instants at which the kernel changes.
    fn new(family: Family, sections: impl IntoIterator<Item = Section>) -> Self {
        let mut joined: Vec<Section> = Vec::new();
        for section in sections.into_iter().filter(|section| !section.is_empty()) {
            match joined.last_mut() {
                Some(last) if last.can_take(&section) => last.take(section),
                _ => joined.push(section),
            }
        }
        Self { family, sections: joined }
    }

    /// The address family of its rules.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The sections in order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// How many rules of a table it writes.
    pub fn rules_written(&self, table: Table) -> usize {
        let of_table = self.sections.iter().filter(|section| section.table == table);
        let writes = |edit: &&Edit| matches!(edit.op, Op::Append(..) | Op::Insert(..));
        of_table.map(|section| section.edits.iter().filter(writes).count()).sum()
    }

    /// The text for `iptables-restore --noflush` or `ip6tables-restore --noflush`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (line, _) in self.lines() {
            // Writing into a String does not fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// How many lines its text has.
    pub fn line_count(&self) -> usize {
        self.sections.iter().map(|section| section.chains.len() + section.edits.len() + 2).sum()
    }

    /// The line with a number, counted from 1 as iptables-restore counts.
    pub fn line(&self, number: usize) -> Option<Line> {
        let (line, owner) = self.lines().nth(number.checked_sub(1)?)?;
        Some(Line { text: line.to_string(), owner: owner.cloned() })
    }

    fn lines(&self) -> impl Iterator<Item = (Words<'_>, Option<&ServicePortName>)> {
        self.sections.iter().flat_map(|section| {
            let chains = section.chains.iter().map(|(chain, owner)| (Words::Chain(chain), owner.as_ref()));
            let edits = section.edits.iter().map(|edit| (Words::Op(&edit.op), edit.owner.as_ref()));
            let open = std::iter::once((Words::Table(section.table), None));
            open.chain(chains).chain(edits).chain(std::iter::once((Words::Commit, None)))
        })
    }
}

impl Op {
    fn chain(&self) -> &ChainName {
        match self {
            Self::Append(chain, _) | Self::Insert(chain, _) | Self::Delete(chain, _) | Self::DeleteChain(chain) => {
                chain
            }
        }
    }
}

enum Words<'a> {
    Table(Table),
    Chain(&'a str),
    Op(&'a Op),
    Commit,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => write!(f, "*{table}"),
            Self::Chain(chain) => write!(f, ":{chain} - [0:0]"),
            Self::Op(Op::Append(chain, rule)) => write!(f, "-A {chain} {rule}"),
            Self::Op(Op::Insert(chain, rule)) => write!(f, "-I {chain} {rule}"),
            Self::Op(Op::Delete(chain, rule)) => write!(f, "-D {chain} {rule}"),
            Self::Op(Op::DeleteChain(chain)) => write!(f, "-X {chain}"),
            Self::Commit => f.write_str("COMMIT"),
        }
    }
}

impl Section {
    fn new(table: Table) -> Self {
        Self { table, chains: Vec::new(), edits: Vec::new() }
    }

    /// Whether `next` may happen in the same instant. It must not empty what this section fills: all
    /// emptying comes before all filling.
    fn can_take(&self, next: &Section) -> bool {
        if self.table != next.table || self.chains.len() + next.chains.len() > CHAINS_PER_SECTION {
            return false;
        }
        let emptied: HashSet<_> = next.chains.iter().map(|(chain, _)| chain).collect();
        let touched = self.edits.iter().map(|edit| edit.op.chain());
        !self.chains.iter().map(|(chain, _)| chain).chain(touched).any(|chain| emptied.contains(chain))
    }

    fn take(&mut self, next: Section) {
        self.chains.extend(next.chains);
        self.edits.extend(next.edits);
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.edits.is_empty()
    }

    /// Makes or empties the chain and fills it. Filling comes after all chains of the section are made, so
    /// that they may refer to each other in any order.
    fn write<'a>(
        &mut self,
        chain: &ChainName,
        rules: impl IntoIterator<Item = &'a Rule>,
        owner: Option<&ServicePortName>,
    ) {
        self.chains.push((chain.clone(), owner.cloned()));
        for rule in rules {
            self.edit(Op::Append(chain.clone(), rule.clone()), owner);
        }
    }

    /// Removes a chain; its rules go before any chain of the section does, so that stale chains may refer
    /// to each other.
    fn remove(&mut self, chain: &ChainName, owner: Option<&ServicePortName>) {
        self.chains.push((chain.clone(), owner.cloned()));
        self.edit(Op::DeleteChain(chain.clone()), owner);
    }

    fn edit(&mut self, op: Op, owner: Option<&ServicePortName>) {
        self.edits.push(Edit { op, owner: owner.cloned() });
    }
}

#[cfg(test)]
mod tests;

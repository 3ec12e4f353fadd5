//! A change to the table as a value.

use super::object::{Chain, Element, Object, Set, TABLE, ip};
use crate::iptables::Line;
use crate::{Family, ServicePortName};
use std::fmt::{self, Write as _};
use std::sync::Arc;

mod between; // from one ruleset to the next
mod takeover; // from what is found to a ruleset

/// The kernel's work for one transaction grows faster than its chains; with this many services it is
/// still as fast as the command itself.
const SERVICES_PER_BATCH: usize = 500;

/// Texts for `nft -f`, one run each, applied in order, each whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    family: Family,
    batches: Vec<Batch>,
}

/// One run of `nft -f`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    commands: Vec<(Command, Option<ServicePortName>)>,
    /// It only removes what nothing uses any more. Kernels before 6.2 may refuse that for a second, as
    /// they hold on to what a removed map element led to.
    pub is_cleanup: bool,
}

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes the table.
    AddTable,
    /// Removes the table with all it holds.
    DeleteTable,
    /// Makes one of the sets and maps that are always there.
    AddObject(Object),
    /// Empties one of them.
    FlushObject(Object),
    /// Makes a set of clients.
    AddSet(Set),
    /// Removes a set of clients.
    DeleteSet(Arc<str>),
    /// Makes a chain; with its hook, if it is a base chain.
    AddChain(Arc<str>, Option<&'static str>),
    /// Empties a chain.
    FlushChain(Arc<str>),
    /// Removes a chain.
    DeleteChain(Arc<str>),
    /// Puts a rule behind the others of a chain.
    AddRule(Arc<str>, Arc<str>),
    /// Puts an element into a set or map.
    AddElement(Element),
    /// Takes an element out.
    DeleteElement(Element),
}

impl Transaction {
    fn new(family: Family, batches: impl IntoIterator<Item = Batch>) -> Self {
        Self { family, batches: batches.into_iter().filter(|batch| !batch.commands.is_empty()).collect() }
    }

    /// The address family of the table.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The runs of `nft -f`, in order.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// How many lines its texts have.
    pub fn line_count(&self) -> usize {
        self.batches.iter().map(|batch| batch.commands.len()).sum()
    }

    /// Everything in one text.
    pub fn text(&self) -> String {
        self.batches.iter().map(|batch| batch.text(self.family)).collect()
    }
}

impl Batch {
    /// The text for `nft -f`.
    pub fn text(&self, family: Family) -> String {
        let mut text = String::new();
        for (command, _) in &self.commands {
            // Writing into a String does not fail.
            let _ = writeln!(text, "{}", Text { command, family });
        }
        text
    }

    /// The line with a number, counted from 1 as nft counts.
    pub fn line(&self, family: Family, number: usize) -> Option<Line> {
        let (command, owner) = self.commands.get(number.checked_sub(1)?)?;
        Some(Line { text: Text { command, family }.to_string(), owner: owner.clone() })
    }

    fn push(&mut self, command: Command, owner: Option<&ServicePortName>) {
        self.commands.push((command, owner.cloned()));
    }

    fn declare<'a>(&mut self, chains: impl IntoIterator<Item = &'a Chain>, owner: Option<&ServicePortName>) {
        for chain in chains {
            self.push(Command::AddChain(chain.name.clone(), chain.hook), owner);
        }
    }

    fn flush<'a>(&mut self, chains: impl IntoIterator<Item = &'a Chain>, owner: Option<&ServicePortName>) {
        for chain in chains {
            self.push(Command::FlushChain(chain.name.clone()), owner);
        }
    }

    fn fill<'a>(&mut self, chains: impl IntoIterator<Item = &'a Chain>, owner: Option<&ServicePortName>) {
        for chain in chains {
            for rule in &chain.rules {
                self.push(Command::AddRule(chain.name.clone(), rule.clone()), owner);
            }
        }
    }
}

struct Text<'a> {
    command: &'a Command,
    family: Family,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = ip(self.family);
        match self.command {
            Command::AddTable => write!(f, "add table {ip} {TABLE} {{ comment \"rules for kube-proxy\" ; }}"),
            Command::DeleteTable => write!(f, "delete table {ip} {TABLE}"),
            Command::AddObject(object) => {
                let (kind, name) = (object.kind(), object.name());
                write!(f, "add {kind} {ip} {TABLE} {name} {{ {} }}", object.declaration(self.family))
            }
            Command::FlushObject(object) => write!(f, "flush {} {ip} {TABLE} {}", object.kind(), object.name()),
            Command::AddSet(Set { name, seconds }) => {
                let address = super::object::address_type(self.family);
                let flags = format!("type {address} ; flags dynamic,timeout ; timeout {seconds}s ;");
                write!(f, "add set {ip} {TABLE} {name} {{ {flags} }}")
            }
            Command::DeleteSet(name) => write!(f, "delete set {ip} {TABLE} {name}"),
            Command::AddChain(name, Some(hook)) => write!(f, "add chain {ip} {TABLE} {name} {{ {hook} }}"),
            Command::AddChain(name, None) => write!(f, "add chain {ip} {TABLE} {name}"),
            Command::FlushChain(name) => write!(f, "flush chain {ip} {TABLE} {name}"),
            Command::DeleteChain(name) => write!(f, "delete chain {ip} {TABLE} {name}"),
            Command::AddRule(chain, rule) => write!(f, "add rule {ip} {TABLE} {chain} {rule}"),
            Command::AddElement(Element { object, key, verdict: Some(verdict) }) => {
                write!(f, "add element {ip} {TABLE} {} {{ {key} : {verdict} }}", object.name())
            }
            Command::AddElement(Element { object, key, verdict: None }) => {
                write!(f, "add element {ip} {TABLE} {} {{ {key} }}", object.name())
            }
            Command::DeleteElement(Element { object, key, .. }) => {
                write!(f, "delete element {ip} {TABLE} {} {{ {key} }}", object.name())
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! A table that takes transactions like the kernel: dangling references are refused, and a batch is
//! applied whole or not at all.

use super::object::TABLE;
use super::transaction::Transaction;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The table in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fake {
    table: Option<Table>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Table {
    /// With the hook of base chains.
    chains: BTreeMap<String, (String, Vec<String>)>,
    /// With their declaration and their elements.
    sets: BTreeMap<String, (String, BTreeMap<String, String>)>,
}

/// Why a batch was refused. Nothing of it is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}: {text}")]
pub struct Refused {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Fake {
    /// Applies a transaction, batch by batch.
    ///
    /// # Errors
    /// The first line that the kernel would refuse.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), Refused> {
        transaction.batches().iter().try_for_each(|batch| self.run(&batch.text(transaction.family())))
    }

    /// Applies a text like `nft -f`.
    ///
    /// # Errors
    /// The first line that the kernel would refuse.
    pub fn run(&mut self, text: &str) -> Result<(), Refused> {
        let mut table = self.table.clone();
        for (index, line) in text.lines().enumerate() {
            let refused = |reason| Refused { line: index + 1, text: line.to_owned(), reason };
            change(&mut table, line).map_err(refused)?;
        }
        self.table = table;
        Ok(())
    }

    /// The elements of a set or map, with their verdicts.
    pub fn elements(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        Some(&self.table.as_ref()?.sets.get(name)?.1)
    }

    /// The rules of a chain.
    pub fn rules(&self, name: &str) -> Option<&[String]> {
        Some(&self.table.as_ref()?.chains.get(name)?.1)
    }
}

type Change = Result<(), &'static str>;

fn change(table: &mut Option<Table>, line: &str) -> Change {
    let mut words = line.splitn(5, ' ');
    let mut next = || words.next().unwrap_or_default();
    let (verb, kind, _family, name, rest) = (next(), next(), next(), next(), next());
    match (verb, kind) {
        _ if name != TABLE => return Err("another table"),
        ("add", "table") => drop(table.get_or_insert_default()),
        ("delete", "table") => drop(table.take().ok_or("there is no table")?),
        _ => return table.as_mut().ok_or("there is no table")?.change(verb, kind, rest),
    }
    Ok(())
}

impl Table {
    fn change(&mut self, verb: &str, kind: &str, rest: &str) -> Change {
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        match (verb, kind) {
            ("add", "set" | "map") => self.add_set(name, rest),
            ("add", "chain") => {
                let chain = self.chains.entry(name.to_owned()).or_insert_with(|| (rest.to_owned(), Vec::new()));
                if chain.0 == rest { Ok(()) } else { Err("the chain has another hook") }
            }
            ("add", "rule") => self.add_rule(name, rest),
            ("add", "element") => self.add_element(name, braced(rest)),
            ("delete", "element") => self.set(name)?.1.remove(braced(rest)).map(drop).ok_or("there is no such element"),
            ("flush", "set" | "map") => {
                self.set(name)?.1.clear();
                Ok(())
            }
            ("flush", "chain") => {
                self.chains.get_mut(name).ok_or("there is no such chain")?.1.clear();
                Ok(())
            }
            ("delete", "set" | "map") => self.remove_set(name),
            ("delete", "chain") => self.remove_chain(name),
            _ => Err("not a command"),
        }
    }

    fn set(&mut self, name: &str) -> Result<&mut (String, BTreeMap<String, String>), &'static str> {
        self.sets.get_mut(name).ok_or("there is no such set")
    }

    fn add_set(&mut self, name: &str, declaration: &str) -> Change {
        let set = self.sets.entry(name.to_owned()).or_insert_with(|| (declaration.to_owned(), BTreeMap::new()));
        if set.0 == declaration { Ok(()) } else { Err("the set is of another kind") }
    }

    fn add_rule(&mut self, chain: &str, rule: &str) -> Change {
        let (chains, sets) = references(rule);
        if !chains.iter().all(|name| self.chains.contains_key(*name)) {
            return Err("the rule leads to no chain");
        }
        if !sets.iter().all(|name| self.sets.contains_key(*name)) {
            return Err("the rule names no set");
        }
        self.chains.get_mut(chain).ok_or("there is no such chain")?.1.push(rule.to_owned());
        Ok(())
    }

    fn add_element(&mut self, set: &str, element: &str) -> Change {
        let (key, verdict) = element.split_once(" : ").unwrap_or((element, ""));
        if !references(verdict).0.iter().all(|name| self.chains.contains_key(*name)) {
            return Err("the element leads to no chain");
        }
        let elements = &mut self.set(set)?.1;
        let there = elements.entry(key.to_owned()).or_insert_with(|| verdict.to_owned());
        if there == verdict { Ok(()) } else { Err("the element has another verdict") }
    }

    fn remove_set(&mut self, name: &str) -> Change {
        let is_named = |rule: &String| references(rule).1.contains(name);
        if self.chains.values().flat_map(|(_, rules)| rules).any(is_named) {
            return Err("the set is in use");
        }
        self.sets.remove(name).map(drop).ok_or("there is no such set")
    }

    fn remove_chain(&mut self, name: &str) -> Change {
        let rules = self.chains.values().flat_map(|(_, rules)| rules);
        let verdicts = self.sets.values().flat_map(|(_, elements)| elements.values());
        if rules.chain(verdicts).any(|text| references(text).0.contains(name)) {
            return Err("the chain is in use");
        }
        self.chains.remove(name).map(drop).ok_or("there is no such chain")
    }
}

fn braced(text: &str) -> &str {
    text.trim_start_matches("{ ").trim_end_matches(" }")
}

/// The chains and sets that a rule or verdict names.
fn references(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let words: Vec<_> = text.split([' ', ',']).collect();
    let chains = words.windows(2).filter(|pair| matches!(pair[0], "jump" | "goto")).map(|pair| pair[1]).collect();
    (chains, words.iter().filter_map(|word| word.strip_prefix('@')).collect())
}

impl fmt::Display for Fake {
    /// Everything by name, in the notation of nft.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(table) = &self.table else { return Ok(()) };
        for (name, (_, elements)) in &table.sets {
            writeln!(f, "set {name}")?;
            for (key, verdict) in elements {
                let colon = if verdict.is_empty() { "" } else { " : " };
                writeln!(f, "    {key}{colon}{verdict}")?;
            }
        }
        for (name, (hook, rules)) in &table.chains {
            writeln!(f, "chain {name}{}{hook}", if hook.is_empty() { "" } else { " " })?;
            rules.iter().try_for_each(|rule| writeln!(f, "    {rule}"))?;
        }
        Ok(())
    }
}

//! What an earlier run, or kube-proxy, left in the table.

use std::collections::BTreeSet;

/// The names in a table that is already there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub(super) chains: BTreeSet<String>,
    pub(super) sets: BTreeSet<String>,
}

impl Found {
    /// Reads what `nft --terse list table` prints. Only names matter: what they hold is written anew.
    pub fn parse(listing: &str) -> Self {
        let mut found = Self::default();
        for line in listing.lines() {
            let Some((kind, rest)) = line.trim_start().split_once(' ') else { continue };
            let Some(name) = rest.strip_suffix(" {") else { continue };
            match kind {
                "chain" => found.chains.insert(name.to_owned()),
                "set" | "map" => found.sets.insert(name.to_owned()),
                _ => false,
            };
        }
        found
    }
}

//! How many rules and elements there are: enough to see that somebody took some away.

use super::object::Object;
use super::ruleset::Ruleset;
use std::collections::{BTreeMap, BTreeSet};

/// How many rules each chain of the table has, and how many elements each of the sets and maps that are always there.
/// What packets put into sets themselves is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    chains: BTreeMap<String, usize>,
    elements: BTreeMap<String, usize>,
}

impl Census {
    /// Of what should be there.
    pub fn of(ruleset: &Ruleset) -> Self {
        let mut elements: BTreeMap<_, BTreeSet<_>> =
            Object::ALL.iter().map(|object| (object.name().to_owned(), BTreeSet::new())).collect();
        for element in ruleset.elements() {
            elements.entry(element.object.name().to_owned()).or_default().insert(element.key.clone());
        }
        Self {
            chains: ruleset.chains().map(|chain| (chain.name.to_string(), chain.rules.len())).collect(),
            elements: elements.into_iter().map(|(name, keys)| (name, keys.len())).collect(),
        }
    }

    /// Of what `nft list table` prints.
    pub fn parse(listing: &str) -> Self {
        let (mut census, mut inside, mut depth) = (Self::default(), None, 0_usize);
        for line in listing.lines().map(str::trim) {
            if depth == 1
                && let Some((kind, name)) = line.strip_suffix(" {").and_then(|line| line.split_once(' '))
            {
                inside = census.open(kind, name);
            }
            match inside {
                Some((Kind::Chain, name)) if depth == 2 && is_rule(line) => census.count(Kind::Chain, name, 1),
                // Elements are told apart by commas alone; the last one has none.
                Some((Kind::Elements, name)) if depth == 3 => {
                    census.count(Kind::Elements, name, line.matches(',').count() + usize::from(line.ends_with('}')));
                }
                Some((Kind::Elements, name)) if depth == 2 && line.starts_with("elements = {") => {
                    census.count(Kind::Elements, name, line.matches(',').count() + usize::from(line.ends_with('}')));
                }
                _ => {}
            }
            depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
            if depth <= 1 {
                inside = None;
            }
        }
        census
    }

    fn open<'a>(&mut self, kind: &str, name: &'a str) -> Option<(Kind, &'a str)> {
        match kind {
            "chain" => {
                self.chains.insert(name.to_owned(), 0);
                Some((Kind::Chain, name))
            }
            "set" | "map" if Object::ALL.iter().any(|object| object.name() == name) => {
                self.elements.insert(name.to_owned(), 0);
                Some((Kind::Elements, name))
            }
            _ => None,
        }
    }

    fn count(&mut self, kind: Kind, name: &str, more: usize) {
        let counts = if kind == Kind::Chain { &mut self.chains } else { &mut self.elements };
        if let Some(count) = counts.get_mut(name) {
            *count += more;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chain,
    Elements,
}

/// Not the line that hooks a base chain, nor the chain's end.
fn is_rule(line: &str) -> bool {
    !line.is_empty() && line != "}" && !line.starts_with("type ") && !line.starts_with("comment ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_counted() {
        let listing = "table ip kube-proxy {\n\tcomment \"rules for kube-proxy\"\n\tset cluster-ips {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1, 10.0.0.2,\n\t\t\t     10.0.0.3 }\n\t}\n\n\tset affinity-x {\n\t\ttype ipv4_addr\n\t\telements = { 1.2.3.4 }\n\t}\n\n\tmap service-ips {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = { 10.0.0.1 . tcp . 80 : goto service-a }\n\t}\n\n\tchain nat-output {\n\t\ttype nat hook output priority -100; policy accept;\n\t\tjump services\n\t}\n\n\tchain service-a {\n\t\tip daddr 10.0.0.1 jump mark\n\t\tmeta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.1.0.1 . 80,\n\t\t\t1 : 10.1.0.2 . 80 }\n\t}\n\n\tchain empty {\n\t}\n}\n";
        let census = Census::parse(listing);
        let of = |counts: &BTreeMap<String, usize>| {
            counts.iter().map(|(name, n)| format!("{name}={n}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(&census.chains), "empty=0 nat-output=1 service-a=2");
        assert_eq!(of(&census.elements), "cluster-ips=3 service-ips=1");
    }
}

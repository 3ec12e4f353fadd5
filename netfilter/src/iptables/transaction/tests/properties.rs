//! Any sequence of models: the differences end where a fresh start ends, and no state on the way is worse
//! than the one before and the one after.

use super::*;
use crate::testing::any_services as services;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Rules of the shared chains may stand in any order, as long as the last one of nat KUBE-SERVICES is last.
fn sorted(fake: &Fake) -> String {
    let mut tables = fake.tables().clone();
    for chain in Dispatch::ALL {
        let rules = tables.tables_mut(chain.table()).get_mut(chain.chain());
        if let Some(rules) = rules {
            let free = rules.len() - usize::from(chain == Dispatch::NatServices);
            rules[..free].sort_unstable();
        }
    }
    tables.to_string()
}

fn fresh(ruleset: &Ruleset) -> Fake {
    let mut fake = Fake::new(Family::V4);
    fake.apply(&Transaction::from_nothing(ruleset)).unwrap();
    fake
}

/// What happens to packets for each address and port: the endpoints they may reach, or none and a refusal.
type Outcomes = BTreeMap<String, BTreeSet<String>>;

fn outcomes(tables: &Tables) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for (table, chain) in [(Table::Nat, "KUBE-SERVICES"), (Table::Nat, "KUBE-NODEPORTS")] {
        for rule in tables.rules(table, chain).unwrap_or_default() {
            let targets = endpoints_behind(tables, rule);
            if let Some(place) = place(rule).filter(|_| !targets.is_empty()) {
                outcomes.entry(place).or_default().extend(targets);
            }
        }
    }
    for chain in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"] {
        for place in tables.rules(Table::Filter, chain).unwrap_or_default().iter().filter_map(|rule| place(rule)) {
            outcomes.entry(place).or_default();
        }
    }
    outcomes
}

/// Address, protocol and port that a rule matches.
fn place(rule: &str) -> Option<String> {
    let words: Vec<_> = rule.split(' ').collect();
    let after = |word: &str| Some(words[words.iter().position(|other| *other == word)? + 1]);
    Some(format!("{} {} {}", after("-d").unwrap_or("node"), after("-p")?, after("--dport")?))
}

fn endpoints_behind(tables: &Tables, rule: &str) -> BTreeSet<String> {
    let Some((_, target)) = rule.rsplit_once("-j ") else { return BTreeSet::new() };
    if let Some(endpoint) = target.strip_prefix("DNAT --to-destination ") {
        return [endpoint.to_owned()].into();
    }
    let rules = tables.rules(Table::Nat, target).unwrap_or_default();
    rules.iter().flat_map(|rule| endpoints_behind(tables, rule)).collect()
}

/// Applies section by section and looks after each.
fn apply_watching(fake: &mut Fake, transaction: &Transaction, goal: &Outcomes) {
    let before = outcomes(fake.tables());
    for section in transaction.sections() {
        let one = Transaction::new(Family::V4, [section.clone()]);
        fake.apply(&one).unwrap_or_else(|refused| panic!("{refused} {:?}\n{}", refused.reason, transaction.text()));
        let now = outcomes(fake.tables());
        for (place, old) in &before {
            let Some(new) = goal.get(place) else { continue };
            let now = now.get(place).unwrap_or_else(|| panic!("nobody knows {place}\n{}", transaction.text()));
            assert!(now.iter().all(|endpoint| old.contains(endpoint) || new.contains(endpoint)), "{place}");
            assert!(!now.is_empty() || old.is_empty() || new.is_empty(), "{place} is refused\n{}", transaction.text());
        }
    }
}

proptest! {
    #[test]
    fn differences_end_where_a_fresh_start_ends(models in proptest::collection::vec(services(), 1..5)) {
        let mut ruleset = Ruleset::render(&Model::new(Family::V4), &node());
        let mut fake = fresh(&ruleset);
        for model in models {
            let next = ruleset.next(&model, &node());
            let goal = fresh(&next);
            apply_watching(&mut fake, &Transaction::between(&ruleset, &next), &outcomes(goal.tables()));
            prop_assert_eq!(sorted(&fake), sorted(&goal));
            ruleset = next;
        }
    }

    #[test]
    fn a_takeover_ends_where_a_fresh_start_ends(old in services(), new in services()) {
        let mut fake = fresh(&Ruleset::render(&old, &node()));
        let ruleset = Ruleset::render(&new, &node());
        let goal = fresh(&ruleset);
        let transaction = Transaction::takeover(fake.tables(), &ruleset);
        apply_watching(&mut fake, &transaction, &outcomes(goal.tables()));
        prop_assert_eq!(sorted(&fake), sorted(&goal));
        fake.apply(&Transaction::cleanup(fake.tables())).unwrap();
        let ours = fake.tables().chains(Table::Nat).filter(|name| name.starts_with("KUBE-")).count();
        prop_assert_eq!(ours, 0);
    }

    #[test]
    fn a_failed_line_changes_nothing_of_its_table(model in services()) {
        let mut fake = fresh(&Ruleset::render(&model, &node()));
        let before = fake.clone();
        let text = "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j KUBE-MISSING\nCOMMIT\n";
        prop_assert!(fake.restore(text).is_err());
        prop_assert_eq!(fake, before);
    }
}

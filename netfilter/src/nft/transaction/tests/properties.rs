//! Any sequence of models: the differences end where a fresh start ends, and each batch leaves every
//! address either where it was or where it will be.

use super::*;
use crate::testing::any_services;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What happens to packets for each key: the endpoints they may reach, or none and a refusal.
type Outcomes = BTreeMap<String, BTreeSet<String>>;

fn outcomes(fake: &Fake) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for map in ["service-ips", "service-nodeports"] {
        for (key, verdict) in fake.elements(map).into_iter().flatten() {
            let endpoints = endpoints_behind(fake, verdict);
            if !endpoints.is_empty() {
                outcomes.insert(key.clone(), endpoints);
            }
        }
    }
    for map in ["no-endpoint-services", "no-endpoint-nodeports"] {
        for key in fake.elements(map).into_iter().flatten().map(|(key, _)| key) {
            outcomes.entry(key.clone()).or_default();
        }
    }
    outcomes
}

fn endpoints_behind(fake: &Fake, text: &str) -> BTreeSet<String> {
    let words: Vec<_> = text.split([' ', ',']).collect();
    let mut endpoints = BTreeSet::new();
    for pair in words.windows(2).filter(|pair| pair[0] == "goto") {
        for rule in fake.rules(pair[1]).unwrap_or_default() {
            endpoints.extend(endpoints_behind(fake, rule));
        }
    }
    if let Some((_, target)) = text.split_once(" dnat ip to ") {
        let choices = target.split_once("map { ").map_or(target, |(_, choices)| choices.trim_end_matches(" }"));
        let choice = |text: &str| text.split_once(" : ").map_or(text, |(_, choice)| choice).replace(" . ", ":");
        endpoints.extend(choices.split(", ").map(choice));
    }
    endpoints
}

proptest! {
    #[test]
    fn differences_end_where_a_fresh_start_ends(models in proptest::collection::vec(any_services(), 1..5)) {
        let mut ruleset = Ruleset::render(&Model::new(Family::V4), &node());
        let mut fake = fresh(&ruleset);
        for model in models {
            let next = ruleset.next(&model, &node());
            let goal = fresh(&next);
            let (before, after) = (outcomes(&fake), outcomes(&goal));
            for batch in Transaction::between(&ruleset, &next).batches() {
                fake.run(&batch.text(Family::V4)).unwrap();
                let now = outcomes(&fake);
                for (key, old) in before.iter().filter(|(key, _)| after.contains_key(*key)) {
                    prop_assert!(now.get(key) == Some(old) || now.get(key) == after.get(key), "{key}");
                }
            }
            prop_assert_eq!(fake.to_string(), goal.to_string());
            ruleset = next;
        }
    }

    #[test]
    fn a_model_is_rendered_alike_from_any_past(old in any_services(), new in any_services()) {
        let next = Ruleset::render(&old, &node()).next(&new, &node());
        prop_assert_eq!(next, Ruleset::render(&new, &node()));
    }
}

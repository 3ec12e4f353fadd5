//! What `promtool check metrics` would refuse.

use std::collections::BTreeSet;

/// Panics with the line that is wrong.
pub(crate) fn check(text: &str) {
    let (mut described, mut typed, mut series) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut current = "";
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(described.insert(name.to_owned()) && !help.is_empty(), "described twice or not at all: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_default();
            assert!(described.contains(name) && typed.insert(name.to_owned()), "typed twice or not described: {line}");
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert!(kind != "counter" || name.ends_with("_total") || KNOWN.contains(&name), "a counter's name: {line}");
            current = name;
        } else {
            let end = line.rfind('}').map_or_else(|| line.find(' ').unwrap_or(line.len()), |at| at + 1);
            let (key, value) = line.split_at(end);
            let name = key.split('{').next().unwrap_or_default();
            assert!(name == current, "not with its metric: {line}");
            assert!(is_name(name), "a name: {line}");
            assert!(series.insert(key.to_owned()), "twice: {line}");
            let value = value.split_whitespace().next().unwrap_or_default();
            assert!(value.parse::<f64>().is_ok(), "a value: {line}");
        }
    }
}

/// Counters that upstream called so before there was a rule.
const KNOWN: [&str; 0] = [];

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
}

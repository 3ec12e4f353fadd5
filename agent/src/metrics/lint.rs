//! What `promtool check metrics` would refuse: order, names, units, duplicates, and histograms that cannot be.

use std::collections::{BTreeMap, BTreeSet};

/// Gauges that upstream gave a counter's name.
const KNOWN: [&str; 2] =
    ["kubeproxy_sync_proxy_rules_iptables_total", "kubeproxy_sync_proxy_rules_no_local_endpoints_total"];

/// What is not a base unit (`promlint`'s list, as far as anybody here could come upon it).
const UNITS: [&str; 8] =
    ["milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "kilobytes", "megabytes", "gigabytes"];

/// Panics with the line that is wrong.
pub(crate) fn check(text: &str) {
    let (mut described, mut typed, mut series) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut current, mut kind) = ("", "");
    let mut buckets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            assert!(described.insert(name.to_owned()) && !help.is_empty(), "described twice or not at all: {line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap_or_default();
            assert!(described.contains(name) && typed.insert(name.to_owned()), "typed twice or not described: {line}");
            metric(name, of);
            (current, kind) = (name, of);
        } else {
            let end = line.rfind('}').map_or_else(|| line.find(' ').unwrap_or(line.len()), |at| at + 1);
            let (key, value) = line.split_at(end);
            let (name, labels) = key.trim_end_matches('}').split_once('{').unwrap_or((key, ""));
            let value: f64 = value.split_whitespace().next().unwrap_or_default().parse().expect(line);
            assert!(is_name(name), "a name: {line}");
            assert!(series.insert(key.to_owned()), "twice: {line}");
            let labels = parted(labels, line);
            match kind {
                "histogram" => bucket(name.strip_prefix(current), labels, value, &mut buckets, line),
                _ => assert!(name == current, "not with its metric: {line}"),
            }
        }
    }
}

fn metric(name: &str, kind: &str) {
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} {kind}");
    let is_total = name.ends_with("_total");
    assert!(kind != "counter" || is_total, "a counter's name: {name}");
    assert!(kind == "counter" || !is_total || KNOWN.contains(&name), "only a counter ends in _total: {name}");
    let units = name.split('_').filter(|part| UNITS.contains(part)).count();
    assert!(units == 0, "not a base unit: {name}");
}

/// Names and values of labels.
fn parted(mut labels: &str, line: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").unwrap_or_else(|| panic!("a label: {line}"));
        assert!(is_name(name), "a label: {line}");
        assert!(all.iter().all(|(known, _)| known != name), "a label twice: {line}");
        let mut escaped = false;
        let end = rest.find(|letter| {
            let ends = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or_else(|| panic!("a label's value: {line}"));
        all.push((name.to_owned(), rest[..end].to_owned()));
        labels = rest[end + 1..].trim_start_matches(',');
    }
    all
}

/// A line of a histogram: buckets rise, the last one is `+Inf` and is the count. `seen` has bound and count of the last one.
fn bucket(
    suffix: Option<&str>,
    labels: Vec<(String, String)>,
    value: f64,
    seen: &mut BTreeMap<String, (f64, f64)>,
    line: &str,
) {
    let (le, others): (Vec<_>, Vec<_>) = labels.into_iter().partition(|(name, _)| name == "le");
    let key = format!(
        "{}{others:?}",
        line.split(['{', ' ']).next().unwrap_or_default().rsplit_once('_').unwrap_or_default().0
    );
    match suffix {
        Some("_bucket") => {
            let bound: f64 = le.first().unwrap_or_else(|| panic!("a bucket without le: {line}")).1.parse().expect(line);
            let (last, count) = seen.get(&key).copied().unwrap_or((f64::NEG_INFINITY, 0.0));
            assert!(bound > last && value >= count, "what grows with its bounds: {line}");
            seen.insert(key, (bound, value));
        }
        Some("_count") => assert_eq!(seen.get(&key), Some(&(f64::INFINITY, value)), "the count is +Inf's: {line}"),
        Some("_sum") => assert!(le.is_empty(), "{line}"),
        _ => panic!("a histogram's line: {line}"),
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    bytes.next().is_some_and(letter) && bytes.all(|byte| letter(byte) || byte.is_ascii_digit())
}

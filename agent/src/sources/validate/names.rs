use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Report;

/// DNS-1123 label: what containers, volumes and namespaces may be called.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// DNS-1123 subdomain: what most objects may be called.
pub(super) fn is_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// A port's name: at most 15 characters, at least one of them a letter, no `--`.
pub(super) fn is_port_name(text: &str) -> bool {
    text.len() <= 15 && is_label(text) && text.bytes().any(|b| b.is_ascii_lowercase()) && !text.contains("--")
}

/// `[prefix/]name` of labels, annotations and extended resources.
pub(super) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

/// `example.com/internal`: who signs certificates.
pub(super) fn is_signer(text: &str) -> bool {
    let domain = |domain: &str| domain.contains('.') && is_subdomain(domain);
    text.split_once('/').is_some_and(|(prefix, name)| domain(prefix) && name.split('.').all(is_label))
}

fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && text.bytes().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

/// Checks a label-shaped name, with the reason in words.
pub(super) fn label(text: &str, field: impl Into<String>, report: &mut Report) {
    report.check(is_label(text), field, || {
        format!("{text:?} must be 1 to 63 lower-case letters, digits or '-', and begin and end with a letter or digit")
    });
}

/// Checks a subdomain-shaped name, with the reason in words.
pub(super) fn subdomain(text: &str, field: impl Into<String>, report: &mut Report) {
    report.check(is_subdomain(text), field, || {
        format!(
            "{text:?} must be lower-case letters, digits, '-' or '.', with a letter or digit at each end, up to 253"
        )
    });
}

/// Name, namespace, labels and annotations of any object.
pub(super) fn object(meta: &ObjectMeta, report: &mut Report) {
    match meta.name.as_deref() {
        Some(name) if !name.is_empty() => subdomain(name, "metadata.name", report),
        _ if meta.generate_name.is_some() => {
            report.add("metadata.name", "is missing; generateName needs an API server, give a name");
        }
        _ => report.add("metadata.name", "is missing"),
    }
    if let Some(namespace) = meta.namespace.as_deref() {
        label(namespace, "metadata.namespace", report);
    }
    described(meta, report);
}

/// Labels and annotations.
pub(super) fn described(meta: &ObjectMeta, report: &mut Report) {
    labels(meta.labels.as_ref(), "metadata.labels", report);
    annotations(meta.annotations.as_ref(), report);
}

/// Keys and values of labels or of a selector.
pub(super) fn labels(map: Option<&BTreeMap<String, String>>, field: &str, report: &mut Report) {
    for (key, value) in map.into_iter().flatten() {
        keys(key, field, report);
        report.check(value.is_empty() || is_word(value), format!("{field}[{key}]"), || {
            format!("{value:?} must be up to 63 letters, digits, '-', '_' or '.', with a letter or digit at each end")
        });
    }
}

fn annotations(map: Option<&BTreeMap<String, String>>, report: &mut Report) {
    let mut size = 0_usize;
    for (key, value) in map.into_iter().flatten() {
        keys(&key.to_lowercase(), "metadata.annotations", report);
        size = size.saturating_add(key.len()).saturating_add(value.len());
    }
    report.check(size <= 256 << 10, "metadata.annotations", || "are larger than 256 KiB together".to_owned());
}

fn keys(key: &str, field: &str, report: &mut Report) {
    report.check(is_qualified(key), format!("{field}[{key}]"), || {
        "the key must be a word of up to 63 letters, digits, '-', '_' or '.', or example.com/word".to_owned()
    });
}

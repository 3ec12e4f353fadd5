use std::path::Path;

use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::api::Kubeconfig;

/// A follower of ConfigMaps that keeps the value of one key; its server is never asked.
fn follower() -> (Follower<String>, Sets<String>) {
    let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca"), key.cert.pem()).unwrap();
    let text = "{clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ca}}],
        contexts: [{name: c, context: {cluster: c}}], current-context: c}";
    let client = Client::new(Kubeconfig::parse(text, Path::new(dir.path())).unwrap()).unwrap();
    let decode = |json: serde_json::Value| {
        let map: ConfigMap = serde_json::from_value(json)?;
        Ok(map.data.and_then(|mut data| data.remove("k")))
    };
    let feed = Feed { path: "/api/v1/configmaps".into(), fields: None, labels: None, decode };
    let (sets, listen) = watch::channel(Some(Arc::default()));
    (Follower { client, feed, sets, version: Some("1".into()) }, listen)
}

fn line(kind: &str, name: &str, version: u32, rest: &str) -> Bytes {
    let metadata = format!(r#"{{"name":"{name}","namespace":"n","resourceVersion":"{version}"}}"#);
    format!(r#"{{"type":"{kind}","object":{{"metadata":{metadata}{rest}}}}}"#).into()
}

fn take(follower: &mut Follower<String>, lines: &[Bytes]) -> String {
    let outcome = follower.take(lines, &Call::get("/api/v1/configmaps").with("watch", "true"));
    let set = follower.sets.borrow().clone().unwrap();
    let objects: Vec<_> = set.iter().map(|(name, value)| format!("{}={value}", name.name)).collect();
    let outcome = outcome.err().map(|error| format!(" ! {}", chain(&error))).unwrap_or_default();
    format!("{}: {}{outcome}", follower.version.clone().unwrap_or("list".into()), objects.join(" "))
}

#[test]
fn events_change_the_set_and_bookmarks_only_the_version() {
    let (mut follower, mut listen) = follower();
    let one = r#","data":{"k":"1"}"#;
    assert_eq!(take(&mut follower, &[line("ADDED", "a", 2, one), line("ADDED", "b", 3, one)]), "3: a=1 b=1");
    assert!(listen.has_changed().unwrap());
    listen.mark_unchanged();
    assert_eq!(take(&mut follower, &[line("BOOKMARK", "", 9, "")]), "9: a=1 b=1");
    assert!(!listen.has_changed().unwrap(), "nobody is woken for a bookmark");
    assert_eq!(
        take(&mut follower, &[line("MODIFIED", "a", 10, r#","data":{"k":"2"}"#), line("DELETED", "b", 11, one)]),
        "11: a=2"
    );
    assert_eq!(take(&mut follower, &[line("MODIFIED", "a", 12, "")]), "12: ", "no longer wanted");
}

#[test]
fn an_object_that_cannot_be_read_stays_as_it_was() {
    let (mut follower, _listen) = follower();
    let one = r#","data":{"k":"1"}"#;
    take(&mut follower, &[line("ADDED", "a", 2, one)]);
    let odd =
        [line("MODIFIED", "a", 3, r#","data":7"#), line("ADDED", "c", 4, r#","data":7"#), line("ADDED", "b", 5, one)];
    assert_eq!(take(&mut follower, &odd), "5: a=1 b=1");
}

#[test]
fn what_was_before_an_error_counts_and_garbage_is_listed_anew() {
    let (mut follower, _listen) = follower();
    let gone = Bytes::from_static(
        br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}}"#,
    );
    let one = line("ADDED", "a", 2, r#","data":{"k":"1"}"#);
    assert_eq!(
        take(&mut follower, &[one, gone]),
        "2: a=1 ! GET /api/v1/configmaps: 410 Expired: too old resource version"
    );
    assert!(take(&mut follower, &[Bytes::from_static(b"<html>")]).starts_with("list: a=1 ! "));
}

#[test]
fn a_server_with_older_data_is_found_out() {
    assert!(is_ahead("10", "9"));
    assert!(!is_ahead("9", "9"));
    assert!(!is_ahead("9", "10"));
    assert!(is_ahead("x", "10"));
}

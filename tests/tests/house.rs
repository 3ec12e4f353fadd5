//! The rules of the house that no compiler knows: which crate may use which, what licences we ship, one version of
//! everything. `deny.toml` says what is allowed; cargo-deny reads the same file where it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn deny() -> toml::Table {
    std::fs::read_to_string(workspace().join("deny.toml")).unwrap().parse().unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// What each package of ours may use of ours (ARCHITECTURE.md). `tests` may use all.
const ARROWS: &[(&str, &[&str])] = &[
    ("agent", &["cri-proto", "runtime", "netfilter"]),
    ("runtime", &["cri-proto", "cni", "shim"]),
    ("shim", &[]),
    ("cni", &["netfilter"]),
    ("netfilter", &[]),
    ("cri-proto", &[]),
];

#[test]
fn arrows_point_where_the_architecture_says() {
    let metadata = metadata();
    let ours: BTreeSet<_> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["source"].is_null())
        .map(|p| text(p, "name"))
        .collect();
    let drawn: BTreeSet<_> = ARROWS.iter().map(|(from, _)| *from).chain(["tests"]).collect();
    assert_eq!(ours, drawn, "a crate without a place on the map");
    for package in metadata["packages"].as_array().unwrap() {
        let Some((from, allowed)) =
            ARROWS.iter().find(|(name, _)| package["source"].is_null() && *name == text(package, "name"))
        else {
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = text(dependency, "name");
            assert!(!ours.contains(to) || allowed.contains(&to), "{from} must not use {to}");
        }
    }
}

#[test]
fn netfilter_knows_neither_tokio_nor_kubernetes() {
    let used = reachable("netfilter");
    for stranger in ["tokio", "k8s-openapi", "kube", "tonic", "serde_json"] {
        assert!(!used.contains(stranger), "netfilter uses {stranger}");
    }
    for stranger in ["tokio", "serde", "nix"] {
        assert!(!reachable("shim").contains(stranger), "the shim uses {stranger}");
    }
}

/// Names of everything that `package` links, however deep.
fn reachable(package: &str) -> BTreeSet<String> {
    let metadata = metadata();
    let id_of = |node: &Value| text(node, "id").to_owned();
    let names: BTreeMap<_, _> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (id_of(p), text(p, "name").to_owned())).collect();
    let nodes: BTreeMap<_, _> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (id_of(n), n)).collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<_> = names.iter().filter(|(_, name)| *name == package).map(|(id, _)| id.clone()).collect();
    while let Some(id) = open.pop() {
        for dependency in nodes[&id]["deps"].as_array().unwrap() {
            let linked = dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            let to = text(dependency, "pkg").to_owned();
            if linked && seen.insert(to.clone()) {
                open.push(to);
            }
        }
    }
    seen.into_iter().map(|id| names[&id].clone()).collect()
}

#[test]
fn every_licence_is_one_we_may_ship() {
    let deny = deny();
    let allowed: BTreeSet<_> =
        deny["licenses"]["allow"].as_array().unwrap().iter().filter_map(|l| l.as_str()).collect();
    let fits = |expression: &str| {
        let flat = expression.replace('/', " OR ").replace(['(', ')'], " ");
        let any = |part: &str| part.split(" OR ").any(|licence| allowed.contains(licence.trim()));
        flat.split(" AND ").all(any)
    };
    for package in metadata()["packages"].as_array().unwrap() {
        let licence = text(package, "license");
        assert!(fits(licence), "{} is under {licence:?}, which deny.toml does not list", text(package, "name"));
    }
}

#[test]
fn nothing_is_linked_twice_or_from_strange_places() {
    let deny = deny();
    let skip: BTreeSet<_> = deny["bans"]["skip"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry.get("crate").and_then(|name| name.as_str()))
        .collect();
    let banned: Vec<_> =
        deny["bans"]["deny"].as_array().unwrap().iter().filter_map(|entry| entry["crate"].as_str()).collect();
    let linked = linked_by_the_agent();
    for (name, versions) in &linked {
        assert!(!banned.contains(&name.as_str()), "{name} is banned by deny.toml");
        let listed = versions.iter().any(|version| skip.contains(format!("{name}@{version}").as_str()));
        assert!(
            versions.len() == 1 || listed,
            "{name} is linked {versions:?}; list the odd one in deny.toml with its reason"
        );
    }
    for package in metadata()["packages"].as_array().unwrap() {
        let source = text(package, "source");
        assert!(source.is_empty() || source.starts_with("registry+"), "{} comes from {source}", text(package, "name"));
    }
}

/// Name -> versions of what ends up in the `longshore` binary.
fn linked_by_the_agent() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "agent",
            "-e",
            "normal,no-proc-macro",
            "--prefix=none",
            "-f",
            "{p}",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let mut linked = BTreeMap::<_, BTreeSet<_>>::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            linked.entry(name.to_owned()).or_default().insert(version.trim_start_matches('v').to_owned());
        }
    }
    linked
}

#[test]
fn no_work_is_left_as_a_note_in_the_code() {
    let output = Command::new("git")
        .args(["grep", "-nE", "to(d)o!\\(|unimpl(e)mented!\\(|TO(D)O|FIX(M)E", "--", "*.rs"])
        .current_dir(workspace())
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.is_empty(), "left open:\n{found}");
}

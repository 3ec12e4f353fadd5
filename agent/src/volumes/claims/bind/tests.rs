use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> Key {
    Key { name: ObjectName::new("shop", name), owner: None }
}

/// `name size class …`: each further word is `field=value` of the spec.
fn spec(words: &[&str], mut base: Value) -> Value {
    for word in words {
        let (field, value) = word.split_once('=').unwrap();
        base[field] = match field {
            "claimRef" => json!({"namespace": "shop", "name": value}),
            _ => json!(value),
        };
    }
    base
}

fn volumes(lines: &[&str]) -> Volumes {
    let one = |line: &&str| {
        let words: Vec<_> = line.split(' ').collect();
        let base = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": words[1]}});
        let volume = json!({"metadata": {"name": words[0]}, "spec": spec(&words[2..], base)});
        (words[0].to_owned(), Arc::new(serde_json::from_value(volume).unwrap()))
    };
    lines.iter().map(one).collect()
}

fn claims(lines: &[&str]) -> Claims {
    let one = |line: &&str| {
        let words: Vec<_> = line.split(' ').collect();
        let base = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": words[1]}}});
        let claim = json!({"metadata": {"name": words[0]}, "spec": spec(&words[2..], base)});
        (key(words[0]), Arc::new(serde_json::from_value(claim).unwrap()))
    };
    lines.iter().map(one).collect()
}

fn shown(bindings: &Bindings) -> String {
    let line = |(key, bound): (&Key, &Bound)| match bound {
        Bound::Volume(name) => format!("{} -> {name}\n", key.name.name),
        Bound::Directory(name) => format!("{} -> ./{name}\n", key.name.name),
    };
    bindings.iter().map(line).collect()
}

fn check(has: &[&str], wants: &[&str], before: &Bindings, expected: Expect) -> Bindings {
    let bound = bind(&claims(wants), &volumes(has), before, &Labels::new());
    expected.assert_eq(&shown(&bound));
    bound
}

#[test]
fn the_smallest_that_fits_is_taken_and_who_names_a_volume_comes_first() {
    check(
        &["large 9Gi", "small 2Gi", "tiny 1Mi", "mine 99Gi claimRef=d"],
        &["a 1Gi", "b 1Gi volumeName=small", "c 100Gi", "d 1Gi"],
        &Bindings::new(),
        expect![[r#"
            a -> large
            b -> small
            c -> ./shop_c
            d -> mine
        "#]],
    );
}

#[test]
fn a_class_that_no_volume_has_is_provisioned_and_one_that_some_has_is_waited_for() {
    check(
        &["v 1Gi storageClassName=manual"],
        &[
            "a 1Gi storageClassName=fast",
            "b 2Gi storageClassName=manual",
            "c 1Gi storageClassName=",
            "d 1Gi volumeName=x",
        ],
        &Bindings::new(),
        expect![[r#"
            a -> ./shop_a
        "#]],
    );
}

#[test]
fn what_is_bound_stays_bound_until_its_claim_goes_and_then_by_the_reclaim_policy() {
    let has = ["keep 1Gi", "free 1Gi persistentVolumeReclaimPolicy=Delete"];
    let both = check(
        &has,
        &["a 1Gi volumeName=keep", "b 1Gi volumeName=free", "p 1Gi storageClassName=x"],
        &Bindings::new(),
        expect![[r#"
        a -> keep
        b -> free
        p -> ./shop_p
    "#]],
    );
    let later = check(
        &has,
        &["A 1Gi storageClassName="],
        &both,
        expect![[r#"
        A -> free
        a -> keep
        p -> ./shop_p
    "#]],
    );
    check(
        &["keep 1Gi"],
        &["a 1Gi", "p 1Gi storageClassName=x"],
        &later,
        expect![[r#"
        a -> keep
        p -> ./shop_p
    "#]],
    );
}

#[test]
fn why_a_claim_waits_names_each_volume_and_what_is_wrong_with_it() {
    let (has, wants) = (
        volumes(&["a 1Gi", "b 9Gi storageClassName=x", "c 9Gi", "d 9Gi claimRef=other"]),
        claims(&["w 5Gi storageClassName=", "first 5Gi volumeName=c", "n 1Gi volumeName=none"]),
    );
    let bound = bind(&wants, &has, &Bindings::new(), &Labels::new());
    let say = |name: &str| why_not(&key(name), &wants[&key(name)], &has, &bound, &Labels::new());
    assert_eq!(
        say("w"),
        "no PersistentVolume fits: a has 1Gi, b has the class \"x\", c is bound to shop/first, d is reserved for another claim"
    );
    assert_eq!(say("n"), "there is no PersistentVolume \"none\"");
}

#[test]
fn names_of_directories_are_file_names() {
    let long = Key { name: ObjectName::new("n".repeat(63), "c".repeat(253)), owner: Some(PodUid::from_number(7)) };
    assert!(directory(&long).len() < 255 && directory(&long) != directory(&Key { owner: None, ..long.clone() }));
}

proptest! {
    #[test]
    fn no_volume_is_ever_bound_twice_and_no_binding_wanders(
        sizes in prop::collection::vec(1u8..9, 0..6),
        rounds in prop::collection::vec(prop::collection::btree_map(0u8..6, 1u8..9, 0..6), 1..6),
    ) {
        let names: Vec<_> = sizes.iter().enumerate().map(|(at, size)| format!("v{at} {size}Gi")).collect();
        let has = volumes(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut bound = Bindings::new();
        for round in rounds {
            let lines: Vec<_> = round.iter().map(|(name, size)| format!("c{name} {size}Gi storageClassName=")).collect();
            let next = bind(&claims(&lines.iter().map(String::as_str).collect::<Vec<_>>()), &has, &bound, &Labels::new());
            let volumes: Vec<_> = next.values().collect();
            for (at, volume) in volumes.iter().enumerate() {
                prop_assert!(!volumes[at + 1..].contains(volume), "{volume:?} twice");
            }
            for (key, volume) in &bound {
                prop_assert_eq!(next.get(key), Some(volume), "it wandered");
            }
            bound = next;
        }
    }
}

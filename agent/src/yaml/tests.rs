use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Pod, Secret};

use super::*;

fn mistakes(text: &str) -> String {
    let of = |document: Result<Node, Broken>| match document {
        Err(broken) => vec![format!("line {}: {}", broken.line, broken.message)],
        Ok(node) => match decode::<Pod>(&node, false) {
            Ok(pod) => vec![format!("fine: {}", pod.metadata.name.unwrap_or_default())],
            Err(mistakes) => {
                mistakes.into_iter().map(|m| format!("line {}: {}: {}", m.line, m.field, m.message)).collect()
            }
        },
    };
    documents(text).into_iter().flat_map(of).collect::<Vec<_>>().join("\n") + "\n"
}

fn check(text: &str, want: Expect) {
    want.assert_eq(&mistakes(text));
}

#[test]
fn every_unknown_field_is_named_with_the_nearest_one() {
    check(
        "metadata: {name: a}\nspec:\n  containers:\n  - name: c\n    imgae: x\n    volumeMount: []\n  restartpolicy: Never\n  colour: red\n",
        expect![[r#"
            line 5: spec.containers[0].imgae: unknown field; did you mean image?
            line 6: spec.containers[0].volumeMount: unknown field; did you mean volumeMounts?
            line 7: spec.restartpolicy: unknown field; did you mean restartPolicy?
            line 8: spec.colour: unknown field; known here: activeDeadlineSeconds, affinity, automountServiceAccountToken, containers, dnsConfig, dnsPolicy, enableServiceLinks, ephemeralContainers, hostAliases, hostIPC, hostNetwork, hostPID
        "#]],
    );
}

#[test]
fn a_value_of_a_wrong_type_is_named_with_what_would_be_right() {
    for (value, want) in [
        ("containers: nginx", expect!["line 2: spec.containers: is text, must be a list (lines that begin with -)\n"]),
        ("containers: [x]", expect!["line 2: spec.containers[0]: is text, must be a mapping (key: value)\n"]),
        (
            "containers: [{image: 3}]",
            expect![[r#"
            line 2: spec.containers[0].image: is a number, must be text: write "3"
        "#]],
        ),
        ("containers: [{image: [a]}]", expect!["line 2: spec.containers[0].image: is a list, must be text\n"]),
        (
            "containers: [{env: [{name: A, value: yes}]}]",
            expect![[r#"
            line 2: spec.containers[0].env[0].value: is true or false, must be text: write "yes"
        "#]],
        ),
        ("hostNetwork: 'true'", expect!["line 2: spec.hostNetwork: is text, must be true or false (without quotes)\n"]),
        ("priority: '5'", expect!["line 2: spec.priority: is text, must be a whole number: write 5 without quotes\n"]),
        ("priority: 1.5", expect!["line 2: spec.priority: is a number, must be a whole number\n"]),
        ("priority: 3000000000", expect!["line 2: spec.priority: must be between -2147483648 and 2147483647\n"]),
        ("priority: 99999999999999999999", expect!["line 2: spec.priority: is too large a number\n"]),
        ("nodeSelector: [a]", expect!["line 2: spec.nodeSelector: is a list, must be a mapping (key: value)\n"]),
    ] {
        check(&format!("spec:\n  {value}\n"), want);
    }
    check("just words\n", expect!["line 1: : is text, must be a mapping (key: value)\n"]);
}

#[test]
fn modes_are_octal_quantities_are_as_written_and_nothing_is_unset() {
    let text = "metadata: {name: a, labels: }\nspec:\n  containers:\n  - name: c\n    resources: {limits: {cpu: 1, memory: 1.50}}\n  volumes:\n  - {name: v, secret: {defaultMode: 0644}}\n";
    let node = documents(text).remove(0).unwrap();
    let pod: Pod = decode(&node, false).unwrap();
    let spec = pod.spec.unwrap();
    let limits = spec.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1", "1.50"));
    assert_eq!(spec.volumes.unwrap()[0].secret.clone().unwrap().default_mode, Some(0o644));
    assert_eq!(pod.metadata.labels, None);
}

#[test]
fn a_broken_document_leaves_its_neighbours_alone() {
    check(
        "metadata: {name: a}\n---\nmetadata: {name: b\n---\nmetadata: {name: c}\n---\n\tx: 1\n---\na: 1\na: 2\n",
        expect![[r#"
            fine: a
            line 3: not YAML: unclosed bracket '{' (column 11)
            fine: c
            line 7: x: unknown field; known here: metadata, spec, status
            line 10: key "a" is given twice, first in line 9
        "#]],
    );
}

#[test]
fn json_is_read_as_json() {
    check(
        "{\"metadata\":\t{\"name\": \"\\ud83d\\ude00\"}}\n{\"metadata\": {\"name\": \"b\"}}",
        expect![[r#"
        fine: 😀
        fine: b
    "#]],
    );
    check(
        "{\"metadata\": {\"name\": \"a\", \"name\": \"b\"}}",
        expect!["line 1: not JSON: key \"name\" is given twice\n"],
    );
    check("{\"metadata\": {\"name\": \"a\"}", expect!["line 1: not JSON: EOF while parsing an object\n"]);
    check("{metadata: {name: flow}}", expect!["fine: flow\n"]);
}

#[test]
fn aliases_and_merges_work_and_bombs_do_not() {
    check(
        "metadata: &m {name: a}\nspec: {containers: []}\n---\nmetadata: {<<: {name: b, uid: u}, name: c}\n",
        expect![[r#"
        fine: a
        fine: c
    "#]],
    );
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        let many = vec![format!("*a{}", n - 1); 10].join(",");
        bomb += &format!("a{n}: &a{n} [{many}]\n");
    }
    assert!(mistakes(&bomb).contains("too large with its aliases put in"), "{}", mistakes(&bomb));
    assert!(mistakes(&"[".repeat(5_000)).starts_with("line 1: not YAML"));
    check("a: &a [*a]\n", expect!["line 1: an alias may not stand inside what it names\n"]);
}

#[test]
fn values_of_secrets_are_never_shown() {
    for text in ["stringData: {pin: 4711}", "data: {pin: 4711}", "data: {pin: '4711%hush'}", "data: {pin: [4711]}"] {
        let node = documents(text).remove(0).unwrap();
        let mistakes = decode::<Secret>(&node, true).unwrap_err();
        assert!(!format!("{mistakes:?}").contains("4711"), "{mistakes:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[ -~\n\t&*<>{}\\[\\]:#|'\"-]{0,200}") {
        for node in documents(&text).into_iter().flatten() {
            let _ = decode::<Pod>(&node, false);
        }
    }
}

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: Expect) {
    let shown = match text.parse::<ImageQuery>() {
        Ok(ImageQuery::Name(name)) => name.to_string(),
        Ok(ImageQuery::Id(id)) => format!("id {id}"),
        Err(error) => format!("error: {error}"),
    };
    expected.assert_eq(&shown);
}

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn what_is_left_out_is_filled_in() {
    check("busybox", expect!["docker.io/library/busybox:latest"]);
    check("busybox:1.36", expect!["docker.io/library/busybox:1.36"]);
    check("user/app", expect!["docker.io/user/app:latest"]);
    check("docker.io/busybox", expect!["docker.io/library/busybox:latest"]);
    check("index.docker.io/library/busybox", expect!["docker.io/library/busybox:latest"]);
    check("registry.k8s.io/pause:3.10", expect!["registry.k8s.io/pause:3.10"]);
    check("localhost/app", expect!["localhost/app:latest"]);
    check("localhost:5000/app", expect!["localhost:5000/app:latest"]);
    check("127.0.0.1:5000/a/b/c:v1", expect!["127.0.0.1:5000/a/b/c:v1"]);
    check("[::1]:5000/a", expect!["[::1]:5000/a:latest"]);
    check("Host/app", expect!["Host/app:latest"]);
    check("x/a__b-c.d---e/f_g", expect!["docker.io/x/a__b-c.d---e/f_g:latest"]);
}

#[test]
fn a_digest_needs_no_tag_and_keeps_one() {
    check(
        &format!("busybox@sha256:{HEX}"),
        expect!["docker.io/library/busybox@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    );
    check(
        &format!("quay.io/a/b:v1@sha256:{HEX}"),
        expect!["quay.io/a/b:v1@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
    );
}

#[test]
fn an_id_is_an_id_with_or_without_its_algorithm() {
    for text in [HEX.to_owned(), format!("sha256:{HEX}")] {
        check(&text, expect!["id sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]);
    }
    let error = HEX.parse::<ImageRef>().unwrap_err();
    assert!(matches!(error, ReferenceError::IsAnId { .. }), "{error}");
}

#[test]
fn an_error_names_the_part_that_is_wrong() {
    check("", expect!["error: the image name is empty"]);
    check(
        "Busybox",
        expect![[
            r#"error: image name "Busybox": "Busybox" is not allowed in a repository name: lower-case letters and digits, separated by '.', '_', '__' or '-'s"#
        ]],
    );
    check(
        "a//b",
        expect![[
            r#"error: image name "a//b": "" is not allowed in a repository name: lower-case letters and digits, separated by '.', '_', '__' or '-'s"#
        ]],
    );
    check(
        "busybox:",
        expect![[
            r#"error: image name "busybox:": "" is not a tag: up to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'"#
        ]],
    );
    check(
        "busybox:-x",
        expect![[
            r#"error: image name "busybox:-x": "-x" is not a tag: up to 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'"#
        ]],
    );
    check(
        "busybox@sha256:12",
        expect![[
            r#"error: image name "busybox@sha256:12": "sha256:12" is not a digest: sha256: and 64 lower-case hex digits are wanted"#
        ]],
    );
    check("a..b:99/x", expect![[r#"error: image name "a..b:99/x": "a..b:99" is not a registry host or host:port"#]]);
    check(
        "a.b:99999/x",
        expect![[r#"error: image name "a.b:99999/x": "a.b:99999" is not a registry host or host:port"#]],
    );
    check(
        "https://a.b/x",
        expect![[r#"error: image name "https://a.b/x": "https:" is not a registry host or host:port"#]],
    );
    for bad in ["../x", "a/../b", "a/.", "-a", "a-", "a._b", "a b", "a\0b", "a/b\n", " a", "ä", "[::1/x", "[zz]:1/a"] {
        assert!(bad.parse::<ImageRef>().is_err(), "{bad:?}");
    }
    assert!(format!("{}/b", "a".repeat(255)).parse::<ImageRef>().is_err());
}

proptest! {
    #[test]
    fn the_full_form_parses_to_itself(text in "([a-z0-9.:]{1,12}/)?[a-z0-9/_.-]{1,24}(:[a-zA-Z0-9_.-]{1,12})?") {
        if let Ok(reference) = text.parse::<ImageRef>() {
            let full = reference.to_string();
            prop_assert_eq!(full.parse::<ImageRef>().unwrap(), reference);
            prop_assert!(!full.contains("//") && !full.contains("/../"));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = text.parse::<ImageQuery>();
    }
}

//! `WWW-Authenticate`: how a registry says what it wants to see.

use std::collections::BTreeMap;

/// One challenge. Parameter names are in lower case.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from somewhere else.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

// A header of that many bytes is no challenge.
const MAX_HEADER: usize = 8 * 1024;

/// The challenge to answer among all headers: bearer before basic, as every client prefers; unknown schemes are passed over.
pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, mut parameters) in headers.flat_map(parse) {
        match scheme.as_str() {
            "bearer" => {
                if let Some(realm) = parameters.remove("realm") {
                    let (service, scope) = (parameters.remove("service"), parameters.remove("scope"));
                    return Some(Challenge::Bearer { realm, service, scope });
                }
            }
            "basic" => basic = Some(Challenge::Basic),
            _ => {}
        }
    }
    basic
}

type Parameters = BTreeMap<String, String>;

/// Schemes with their parameters. Both challenges and parameters are separated by commas: a word that no `=` follows
/// begins a new challenge.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    if header.len() > MAX_HEADER {
        return challenges;
    }
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // A stray `=`: nothing that follows can be trusted to be what it looks like.
            return challenges;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = take_value(value.trim_start_matches([' ', '\t']));
                parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((word.to_ascii_lowercase(), Parameters::new()));
                rest = after;
            }
        }
        if rest.is_empty() {
            return challenges;
        }
    }
}

/// A word, or a text in quotes with `\` before what stands for itself.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(headers: &[&str], expected: Expect) {
        expected.assert_eq(&format!("{:?}", choose(headers.iter().copied())));
    }

    #[test]
    fn bearer_is_preferred_wherever_it_stands() {
        check(
            &[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            ],
            expect![[
                r#"Some(Bearer { realm: "https://auth.docker.io/token", service: Some("registry.docker.io"), scope: Some("repository:a/b:pull,push") })"#
            ]],
        );
        check(
            &[r#"Basic realm="x""#, r#"bearer REALM = "r\"q" , service=s"#],
            expect![[r#"Some(Bearer { realm: "r\"q", service: Some("s"), scope: None })"#]],
        );
        check(
            &[r#"Basic realm="x", Bearer realm="r""#],
            expect![[r#"Some(Bearer { realm: "r", service: None, scope: None })"#]],
        );
        check(&[r#"Negotiate, Basic realm="x""#], expect!["Some(Basic)"]);
        check(&["Basic"], expect!["Some(Basic)"]);
    }

    #[test]
    fn what_cannot_be_answered_is_passed_over() {
        check(&["Negotiate abc"], expect!["None"]);
        check(&["Bearer service=x"], expect!["None"]);
        check(&["", "=", "realm=x", ",,,"], expect!["None"]);
        check(
            &[r#"Bearer realm="never ends"#],
            expect![[r#"Some(Bearer { realm: "never ends", service: None, scope: None })"#]],
        );
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_without_panic(header in "[a-zA-Z =,\"\\\\ä]{0,60}") {
            let _ = choose([header.as_str()].into_iter());
        }
    }
}

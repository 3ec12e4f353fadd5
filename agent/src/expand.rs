//! `$(VAR)` in commands, arguments, values and sub paths, by the rules of `containers`, section 1.

/// Replaces each `$(NAME)` that `lookup` knows; others stay as written, `$$` becomes `$`. One pass: what was put in is
/// not looked at again.
pub fn expand(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = take(&rest[at + 1..], &mut out, &mut lookup);
    }
    out.push_str(rest);
    out
}

/// Like [`expand`], for `subPathExpr`: names that are unknown or empty are an error.
///
/// # Errors
/// The names without a value, in order.
pub fn expand_all(text: &str, mut lookup: impl FnMut(&str) -> Option<String>) -> Result<String, Vec<String>> {
    let mut missing = Vec::new();
    let out = expand(text, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.push(name.to_owned());
        }
        value
    });
    if missing.is_empty() { Ok(out) } else { Err(missing) }
}

/// Handles what follows a `$`; returns what is still to be read.
fn take<'a>(after: &'a str, out: &mut String, lookup: &mut impl FnMut(&str) -> Option<String>) -> &'a str {
    if let Some(rest) = after.strip_prefix('$') {
        out.push('$');
        return rest;
    }
    let Some((name, rest)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) else {
        out.push('$');
        return after;
    };
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => out.extend(["$(", name, ")"]),
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "A" => Some("1".to_owned()),
            "NEST" => Some("$(A)".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn known_names_are_replaced_once_and_the_rest_stays() {
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$x", "$x"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("$(NEST)", "$(A)"),
            ("$()", "$()"),
            ("", ""),
            ("ä$(A)ö", "ä1ö"),
        ] {
            assert_eq!(expand(text, lookup), want, "{text}");
        }
    }

    #[test]
    fn a_sub_path_needs_every_name() {
        assert_eq!(expand_all("a/$(A)", lookup), Ok("a/1".to_owned()));
        assert_eq!(expand_all("$(B)/$(EMPTY)", lookup), Err(vec!["B".to_owned(), "EMPTY".to_owned()]));
    }
}

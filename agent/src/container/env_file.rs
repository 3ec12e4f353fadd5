//! Files that variables come from (`fileKeyRef`): `NAME='value'` lines, as the kubelet reads them.

/// Why a file is no file of variables. The kubelet tells nobody more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotVariables;

/// The value of `key`, the first there is; `None` where the file does not have it, or it is empty.
///
/// Values stand in single quotes, taken as they are, over several lines where need be. `#` begins a comment on a line of
/// its own or after a closing quote. A blank before `=` is an error; one after it means that the value is empty.
pub(super) fn value(text: &str, key: &str) -> Result<Option<String>, NotVariables> {
    let mut rest = text;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = line.strip_suffix('\r').unwrap_or(line).trim_start_matches(BLANK);
        if trimmed.is_empty() || trimmed.starts_with('#') {
            rest = after;
            continue;
        }
        let (name, given) = trimmed.split_once('=').ok_or(NotVariables)?;
        if name.is_empty() || name.ends_with(BLANK) {
            return Err(NotVariables);
        }
        if given.starts_with(BLANK) {
            if name == key {
                return Ok(None);
            }
            rest = after;
            continue;
        }
        // From the quote on, over all lines that follow.
        let begin = rest.find('=').ok_or(NotVariables)? + 1;
        let quoted = rest[begin..].strip_prefix('\'').ok_or(NotVariables)?;
        let (found, behind) = quoted.split_once('\'').ok_or(NotVariables)?;
        let (end, after) = behind.split_once('\n').unwrap_or((behind, ""));
        let end = end.strip_suffix('\r').unwrap_or(end).trim_start_matches(BLANK);
        if !end.is_empty() && !end.starts_with('#') {
            return Err(NotVariables);
        }
        if name == key {
            return Ok(Some(found.replace("\r\n", "\n")).filter(|found| !found.is_empty()));
        }
        rest = after;
    }
    Ok(None)
}

const BLANK: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kubelet_reads_them() {
        let text = "# c\n\n  A='one' # first\nB='two\nlines # kept'\nA='later'\nC= 'x'\nD=''\nE='a=b $(A) \\n'\r\n";
        for (key, want) in [
            ("A", Some("one")),
            ("B", Some("two\nlines # kept")),
            ("C", None),
            ("D", None),
            ("E", Some("a=b $(A) \\n")),
            ("F", None),
        ] {
            assert_eq!(value(text, key), Ok(want.map(str::to_owned)), "{key}");
        }
    }

    #[test]
    fn what_is_no_file_of_variables_is_refused() {
        for bad in ["A", "A ='x'", "='x'", "A=x", "A=\"x\"", "A='x", "A='x' y", "B='1'\nA='x"] {
            assert_eq!(value(bad, "A"), Err(NotVariables), "{bad:?}");
        }
        // What comes after the key is not looked at.
        assert_eq!(value("A='1'\nnonsense", "A"), Ok(Some("1".to_owned())));
    }
}

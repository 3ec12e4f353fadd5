//! Which line the kernel did not like.

use super::run::{Command, Output, message};
use super::{ApplyError, Transaction};

/// The error for a transaction that was not taken whole.
pub(super) fn explain(transaction: &Transaction, command: &Command, output: &Output) -> ApplyError {
    let found = line_number(&output.stderr).and_then(|number| Some((number, transaction.line(number)?)));
    match found {
        Some((number, line)) => {
            ApplyError::Refused { number, line: line.text, owner: line.owner, message: message(&output.stderr) }
        }
        None => command.unsuccessful(output),
    }
}

/// `line 7 failed`, `line 7: RULE_APPEND failed`, `Error occurred at line: 7`.
fn line_number(text: &str) -> Option<usize> {
    text.match_indices("line").find_map(|(index, word)| {
        let rest = text[index + word.len()..].trim_start_matches([':', ' ']);
        let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_naming_a_line_is_understood() {
        for (text, number) in [
            ("iptables-restore: line 7 failed\n", Some(7)),
            (
                "iptables-restore v1.8.9 (nf_tables): \nline 12: CHAIN_USER_DEL failed (Device or resource busy)",
                Some(12),
            ),
            ("iptables-restore v1.8.9 (nf_tables): unknown option \"--foo\"\nError occurred at line: 3\n", Some(3)),
            ("iptables-restore: unable to initialize table 'nat'", None),
            ("in line with", None),
        ] {
            assert_eq!(line_number(text), number, "{text}");
        }
    }
}

/// One document of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Piece<'a> {
    /// Lines of the file in front of it.
    pub before: usize,
    /// Its text.
    pub text: &'a str,
}

/// Cuts a file at its `---` lines, so that a document that is not YAML does not take its neighbours with it.
/// Pieces without content are left out.
pub(super) fn split(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut before) = (0, 0);
    let (mut offset, mut line) = (0, 0);
    for row in text.split_inclusive('\n') {
        if is_separator(row) {
            pieces.push(Piece { before, text: &text[start..offset] });
            // What may follow `---` on its line belongs to the new document.
            (start, before) = (offset, line);
        }
        offset += row.len();
        line += 1;
    }
    pieces.push(Piece { before, text: &text[start..] });
    pieces.retain(|piece| has_content(piece.text));
    pieces
}

fn is_separator(row: &str) -> bool {
    row.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(text: &str) -> bool {
    text.lines().any(|row| {
        let row = if is_separator(row) { &row[3..] } else { row };
        let row = row.trim();
        !row.is_empty() && !row.starts_with(['#', '%']) && row != "..."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines_and_empty_ones_do_not_count() {
        let text = "# top\n---\na: 1\n---\n# only words\n---  \nb: |\n  ---\n--- c\n";
        let found: Vec<_> = split(text).into_iter().map(|piece| (piece.before, piece.text)).collect();
        assert_eq!(found, [(1, "---\na: 1\n"), (5, "---  \nb: |\n  ---\n"), (8, "--- c\n")]);
    }
}

//! Columns of text, as wide as their widest cell.

/// Lays rows out under their headings, three spaces apart; the last column is not padded.
pub(super) fn columns<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = headings.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let mut text = String::new();
        for (place, (cell, width)) in cells.iter().zip(widths).enumerate() {
            text.push_str(cell);
            if place + 1 < N {
                let gap = width - cell.chars().count() + 3;
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.truncate(text.trim_end().len());
        text
    };
    std::iter::once(line(&headings.map(str::to_owned))).chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".into(), "1/1".into(), "x".into()], ["longer name".into(), "0/1".into(), String::new()]];
        expect![[r#"
            NAME          READY   NOTE
            a             1/1     x
            longer name   0/1"#]]
        .assert_eq(&columns(["NAME", "READY", "NOTE"], &rows).join("\n"));
    }
}

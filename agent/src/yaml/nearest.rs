/// The one of `known` that `name` was probably meant to be, if any is near enough.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer words are not worth comparing; no field of the API is half as long.
    if name.len() > 64 {
        return None;
    }
    let wanted = name.to_lowercase();
    let scored = known.iter().map(|field| (distance(&wanted, &field.to_lowercase()), *field));
    let (far, field) = scored.min()?;
    // A third of the letters may be wrong, and two in short words: `cmd` is not `env`.
    (far <= (name.chars().count() / 3).max(1)).then_some(field)
}

/// Letters to insert, remove or replace (Levenshtein); two that changed places count once when they are neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = cell(&a, &b, &rows, i, j);
        }
    }
    rows[a.len()][b.len()]
}

fn cell(a: &[char], b: &[char], rows: &[Vec<usize>], i: usize, j: usize) -> usize {
    if i == 0 || j == 0 {
        return i.max(j);
    }
    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
    let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] { best.min(rows[i - 2][j - 2] + 1) } else { best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_field_and_another_word_none() {
        let known = ["image", "imagePullPolicy", "env", "envFrom", "command", "volumeMounts"];
        for (name, want) in [
            ("imgae", Some("image")),
            ("imagepullpolicy", Some("imagePullPolicy")),
            ("volumeMount", Some("volumeMounts")),
            ("Command", Some("command")),
            ("environment", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, &known), want, "{name}");
        }
    }
}

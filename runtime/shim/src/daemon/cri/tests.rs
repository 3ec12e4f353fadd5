use expect_test::{Expect, expect};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn check(pieces: &[&str], lines: Expect) {
    let mut splitter = Lines::new(Stream::Out);
    let mut out = Vec::new();
    for piece in pieces {
        assert_eq!(splitter.push(piece.as_bytes(), b"T", usize::MAX, &mut out), piece.len());
    }
    splitter.finish(b"T", &mut out);
    lines.assert_eq(&String::from_utf8(out).expect("only text was put in"));
}

#[test]
fn every_line_becomes_one_log_line() {
    check(
        &["one\ntwo\n\nfour\n"],
        expect![[r#"
            T stdout F one
            T stdout F two
            T stdout F 
            T stdout F four
        "#]],
    );
}

#[test]
fn a_line_that_comes_in_pieces_is_one_line() {
    check(
        &["o", "n", "e\ntw", "o\n"],
        expect![[r#"
        T stdout F one
        T stdout F two
    "#]],
    );
}

#[test]
fn a_last_line_without_a_newline_is_not_lost() {
    check(
        &["one\ntwo"],
        expect![[r#"
        T stdout F one
        T stdout F two
    "#]],
    );
}

#[test]
fn nothing_written_is_nothing_logged() {
    check(&[], expect![[""]]);
}

fn tags(bytes: usize, newline: bool) -> Vec<(char, usize)> {
    let mut input = vec![b'x'; bytes];
    input.extend(newline.then_some(b'\n'));
    let mut splitter = Lines::new(Stream::Err);
    let mut out = Vec::new();
    splitter.push(&input, b"T", usize::MAX, &mut out);
    splitter.finish(b"T", &mut out);
    let text = String::from_utf8(out).expect("only text was put in");
    text.lines().map(|line| (line.as_bytes()[9].into(), line.len() - "T stderr F ".len())).collect()
}

#[test]
fn a_line_of_just_the_limit_is_whole() {
    assert_eq!(tags(LONGEST_CONTENT, true), [('F', LONGEST_CONTENT)]);
    assert_eq!(tags(LONGEST_CONTENT, false), [('F', LONGEST_CONTENT)]);
}

#[test]
fn a_longer_line_is_split_with_a_full_one_last() {
    assert_eq!(tags(LONGEST_CONTENT + 1, true), [('P', LONGEST_CONTENT), ('F', 1)]);
    assert_eq!(tags(2 * LONGEST_CONTENT, true), [('P', LONGEST_CONTENT), ('F', LONGEST_CONTENT)]);
}

proptest! {
    #[test]
    fn whatever_the_pieces_the_log_has_every_byte(
        lines in vec((vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..40), 1..900usize), 0..6),
        cut in 1..5000usize,
        enough in 1..70_000usize,
    ) {
        let input: Vec<u8> = lines.iter().flat_map(|(line, times)| [line.repeat(*times), b"\n".to_vec()].concat()).collect();
        let mut splitter = Lines::new(Stream::Out);
        let mut log = Vec::new();
        for mut piece in input.chunks(cut) {
            while !piece.is_empty() {
                let mut out = Vec::new();
                let taken = splitter.push(piece, b"T", enough, &mut out);
                prop_assert!(taken > 0 || !out.is_empty(), "it goes on");
                prop_assert!(out.len() < enough + LONGEST_CONTENT + 20);
                piece = &piece[taken..];
                log.extend(out);
            }
        }
        let mut read = Vec::new();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let content = line.strip_prefix(b"T stdout ").expect("every line starts alike");
            prop_assert!(content.len() <= LONGEST_CONTENT + 3);
            match content[0] {
                b'F' => read.extend_from_slice(&content[2..]),
                b'P' => read.extend_from_slice(&content[2..content.len() - 1]),
                other => prop_assert!(false, "tag {other}"),
            }
        }
        prop_assert_eq!(read, input);
    }

    #[test]
    fn a_later_time_is_a_greater_text(at in 0..4_000_000_000_000_000_000i64, more in 1..5_000_000_000_000_000_000i64) {
        prop_assert!(timestamp(at) < timestamp(at + more));
    }
}

#[test]
fn times_are_those_of_the_calendar() {
    let check = |seconds: i64, text| assert_eq!(timestamp(seconds * 1_000_000_000 + 7), text);
    check(0, "1970-01-01T00:00:00.000000007Z");
    check(951_782_399, "2000-02-28T23:59:59.000000007Z");
    check(951_782_400, "2000-02-29T00:00:00.000000007Z");
    check(1_709_251_200, "2024-03-01T00:00:00.000000007Z");
    check(1_795_210_984, "2026-11-20T21:43:04.000000007Z");
    check(4_107_542_400, "2100-03-01T00:00:00.000000007Z");
}

//! A watch's body in lines: one JSON document each.

use bytes::{Bytes, BytesMut};

/// An object in etcd has at most 1.5 MiB, and JSON may triple it.
const LONGEST: usize = 8 << 20;

/// A line that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {} MiB", LONGEST >> 20)]
pub(super) struct TooLong;

/// What came of a line that has not ended yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: BytesMut,
}

impl Lines {
    /// Takes a piece of the body; the lines that are whole now.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Vec<Bytes>, TooLong> {
        let mut lines = Vec::new();
        let mut left = piece;
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(&left[..end]);
            lines.push(self.rest.split().freeze());
            left = &left[end + 1..];
        }
        self.rest.extend_from_slice(left);
        let longest = lines.iter().map(Bytes::len).chain([self.rest.len()]).max();
        lines.retain(|line| !line.is_empty());
        if longest > Some(LONGEST) { Err(TooLong) } else { Ok(lines) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let body = b"{\"a\":1}\n\n{\"b\":2}\nrest";
        for size in 1..body.len() {
            let mut lines = Lines::default();
            let seen: Vec<Bytes> = body.chunks(size).flat_map(|piece| lines.push(piece).unwrap()).collect();
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}"], "in pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..20).take_while(|_| lines.push(&piece).is_ok()).count();
        assert_eq!(taken, LONGEST >> 20);
    }
}

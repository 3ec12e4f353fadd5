//! The short names of chains: a hash that kube-proxy computes in the same way.

use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The first `length` characters of the base32 (RFC 4648) form of the SHA-256 of all parts in a row.
/// `length` is at most 51, the number of whole characters in 256 bits.
pub(crate) fn base32_sha256(parts: &[&str], length: usize) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part.as_bytes()));
    let digest = hasher.finalize();
    (0..length).map(|index| character(&digest, index * 5)).collect()
}

fn character(digest: &[u8], bit: usize) -> char {
    let byte = |index: usize| u16::from(digest.get(index).copied().unwrap_or(0));
    let pair = byte(bit / 8) << 8 | byte(bit / 8 + 1);
    let index = pair >> (11 - bit % 8) & 31;
    char::from(ALPHABET[usize::from(index)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_kube_proxys() {
        let cases = [
            (["ns1/svc1:p80", "tcp", ""], "XPGD46QRK7WJZT7O"),
            (["ns1/svc1:p80", "tcp", "10.180.0.1:80"], "SXIVWICOYRO3J4NJ"),
            (["demo/sticky", "tcp", ""], "35QZC2DVY6N7HROU"),
            (["demo/web:http", "tcp", "[fd00:10:244::7]:8080"], "XJAYGHF4UL7WMD6N"),
        ];
        for (parts, hash) in cases {
            assert_eq!(base32_sha256(&parts, 16), hash, "{parts:?}");
        }
    }
}

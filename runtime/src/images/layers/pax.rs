//! PAX extended header records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.

/// What records override in the header that follows them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// GNU's three ways to describe a sparse file in records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseRecords {
    /// `GNU.sparse.major` = 1: the map stands before the data.
    pub(super) map_in_data: bool,
    /// `GNU.sparse.realsize` or, in the older forms, `GNU.sparse.size`.
    pub(super) real_size: Option<u64>,
    /// Offset, length, offset, length … from `GNU.sparse.map`, `.offset` and `.numbytes`.
    pub(super) map: Vec<u64>,
    /// `GNU.sparse.name`: the name, where `path` is a stand-in for old readers.
    pub(super) name: Option<Vec<u8>>,
}

impl Pax {
    /// `None` when a record is malformed.
    pub(super) fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut pax = Self::default();
        // Writers may pad the block with NULs.
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|&b| b == b' ')?;
            let length: usize = number(&bytes[..space])?.try_into().ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&b| b == b'=')?;
            pax.set(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Some(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number(value)?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(number(value)?),
            b"GNU.sparse.map" => {
                for part in value.split(|&b| b == b',').filter(|part| !part.is_empty()) {
                    self.sparse.map.push(number(part)?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// Decimal digits only.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional sign and fraction, as seconds (rounded down) and nanoseconds.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    let seconds = i64::try_from(number(whole)?).ok()?;
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.map(|b| b.is_ascii_digit().then(|| u32::from(b - b'0')));
    let nanos = nanos.collect::<Option<Vec<_>>>()?.into_iter().fold(0, |sum, digit| sum * 10 + digit);
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_override_what_they_name() {
        let pax = Pax::parse(b"10 path=a\n14 size=12345\n20 mtime=1.00000002\n25 SCHILY.xattr.user.a=\n\n\0").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a"[..]));
        assert_eq!((pax.size, pax.mtime), (Some(12345), Some((1, 20))));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\n".to_vec())]);
    }

    #[test]
    fn a_record_that_does_not_end_where_it_says_is_refused() {
        for bad in [
            &b"8 path=a\n"[..],
            b"11 path=a\n",
            b"x path=a\n",
            b"99999999999999999999 a=b\n",
            b"8 patha\n",
            b"13 size=-1\n\n",
        ] {
            assert_eq!(Pax::parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"7.1234567891"), Some((7, 123_456_789)));
        assert_eq!(time(b"7.x"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'='), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..80)) {
            let _ = Pax::parse(&bytes);
        }
    }
}

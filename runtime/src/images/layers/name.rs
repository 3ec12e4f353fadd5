//! What an entry's name means in a layer.

use super::{UnpackError, shown};

// Linux's own limits; longer names could not be used in a container either.
const MAX_NAME: usize = 4096;
const MAX_PART: usize = 255;

/// A checked name: parts without `.`, `..` and empty ones, so that it cannot climb. No parts: the layer's root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntryName<'a> {
    pub(super) parents: Vec<&'a [u8]>,
    pub(super) last: Option<&'a [u8]>,
}

/// What the layer asks for at a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// An ordinary entry.
    Entry,
    /// `.wh.NAME`: what lower layers have at NAME is hidden.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: everything that lower layers have in this folder is hidden.
    Opaque,
    /// Other `.wh..wh.` names were aufs' own bookkeeping: nothing to do.
    Bookkeeping,
}

impl<'a> EntryName<'a> {
    /// Leading slashes and `./` are dropped as every unpacker does; `..` is refused.
    pub(super) fn parse(name: &'a [u8]) -> Result<Self, UnpackError> {
        let refused = |why| Err(UnpackError::Refused { name: shown(name), why });
        if name.len() > MAX_NAME {
            return refused("its name is longer than 4096 bytes");
        }
        if name.contains(&0) {
            return refused("its name has a NUL byte");
        }
        let mut parts: Vec<&[u8]> =
            name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&&b".."[..]) {
            return refused("its name climbs with ..");
        }
        if parts.iter().any(|part| part.len() > MAX_PART) {
            return refused("a part of its name is longer than 255 bytes");
        }
        let last = parts.pop();
        Ok(Self { parents: parts, last })
    }

    pub(super) fn meaning(&self) -> Result<Meaning<'a>, UnpackError> {
        let refused = |name: &[u8], why| Err(UnpackError::Refused { name: shown(name), why });
        if let Some(parent) = self.parents.iter().find(|part| part.starts_with(b".wh.")) {
            return refused(parent, "it is a folder with the name of a whiteout");
        }
        let Some(hidden) = self.last.and_then(|last| last.strip_prefix(b".wh.")) else { return Ok(Meaning::Entry) };
        match hidden {
            b".wh..opq" => Ok(Meaning::Opaque),
            b"" | b"." | b".." => refused(b".wh.", "it is a whiteout of nothing"),
            _ if hidden.starts_with(b".wh.") => Ok(Meaning::Bookkeeping),
            _ => Ok(Meaning::Whiteout(hidden)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn meaning(name: &str) -> String {
        match EntryName::parse(name.as_bytes()).and_then(|name| name.meaning().map(|m| format!("{m:?}"))) {
            Ok(shown) => shown.replace("[120]", "x"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn whiteouts_hide_a_name_or_a_whole_folder() {
        assert_eq!(meaning("a/.wh.x"), "Whiteout(x)");
        assert_eq!(meaning("a/.wh..wh..opq"), "Opaque");
        assert_eq!(meaning(".wh..wh.plnk"), "Bookkeeping");
        assert_eq!(meaning("a/x"), "Entry");
        assert_eq!(meaning("./"), "Entry");
    }

    #[test]
    fn a_whiteout_cannot_name_anything_outside_its_folder() {
        for name in [".wh.", ".wh..", ".wh...", "a/.wh.../x", "a/.wh.x/y", "../.wh.x"] {
            assert!(meaning(name).contains("refused"), "{name}: {}", meaning(name));
        }
    }

    #[test]
    fn a_leading_slash_or_dot_is_dropped() {
        let name = EntryName::parse(b"/./a//b/./c").unwrap();
        assert_eq!((name.parents, name.last), (vec![&b"a"[..], b"b"], Some(&b"c"[..])));
        assert_eq!(EntryName::parse(b"./").unwrap().last, None);
    }

    proptest! {
        #[test]
        fn no_accepted_name_can_climb(name in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
            if let Ok(parsed) = EntryName::parse(&name) {
                for part in parsed.parents.iter().chain(&parsed.last) {
                    prop_assert!(!part.is_empty() && *part != b"." && *part != b".." && !part.contains(&b'/'));
                }
            }
        }
    }
}

//! What the rules of the older tables say, as one number.
//!
//! They count neither commits nor changes, and a rule that is replaced by another of its size leaves a table as large as it
//! was: only what it holds tells.

use crate::Family;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::ops::Range;

/// Where an entry's fields are: struct ipt_entry and struct ip6t_entry of linux/netfilter_ipv4/ip_tables.h and
/// linux/netfilter_ipv6/ip6_tables.h. Matches and target stand behind the counters.
struct Layout {
    next_offset: usize,
    counters: Range<usize>,
}

impl Layout {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { next_offset: 90, counters: 96..112 },
            Family::V6 => Self { next_offset: 142, counters: 152..168 },
        }
    }
}

/// A number that differs when rules differ; what they counted is left out. `None` for what is no table's entries.
pub(super) fn hash(mut entries: &[u8], family: Family) -> Option<u64> {
    let (layout, mut hasher) = (Layout::of(family), DefaultHasher::new());
    while !entries.is_empty() {
        let next = entries.get(layout.next_offset..layout.next_offset + 2)?;
        let length = usize::from(u16::from_ne_bytes(next.try_into().ok()?));
        let (entry, rest) = entries.split_at_checked(length)?;
        hasher.write(entry.get(..layout.counters.start)?);
        hasher.write(entry.get(layout.counters.end..)?);
        entries = rest;
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(target: u8, packets: u8) -> Vec<u8> {
        let mut entry = vec![0; 120];
        entry[90..92].copy_from_slice(&120_u16.to_ne_bytes());
        (entry[96], entry[119]) = (packets, target);
        entry
    }

    #[test]
    fn another_rule_of_the_same_size_is_seen_and_a_packet_is_not() {
        let of = |entries: &[Vec<u8>]| hash(&entries.concat(), Family::V4);
        let first = of(&[entry(1, 0), entry(2, 0)]);
        assert!(first.is_some());
        assert_eq!(of(&[entry(1, 9), entry(2, 7)]), first);
        assert_ne!(of(&[entry(1, 0), entry(3, 0)]), first);
        assert_ne!(of(&[entry(2, 0), entry(1, 0)]), first);
        assert_eq!(hash(&entry(1, 0)[..100], Family::V4), None);
    }

    proptest! {
        #[test]
        fn no_entries_make_it_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for family in [Family::V4, Family::V6] {
                let _ = hash(&bytes, family);
            }
        }
    }
}

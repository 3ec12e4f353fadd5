//! Walks over two maps at once. Both are in order of their keys, so one pass does what a look-up for each key would take
//! many times as long for: with thousands of services and one change, that is what a transaction costs us.

use std::collections::BTreeMap;
use std::collections::btree_map::Iter;
use std::iter::Peekable;
use std::sync::Arc;

/// What two maps have under one key.
pub(crate) struct Differing<'a, K, V> {
    pub(crate) key: &'a K,
    pub(crate) old: Option<&'a V>,
    pub(crate) new: Option<&'a V>,
}

/// What is not the same value in both maps, in order of keys.
pub(crate) fn differing<'a, K: Ord, V>(
    old: &'a BTreeMap<K, Arc<V>>,
    new: &'a BTreeMap<K, Arc<V>>,
) -> Vec<Differing<'a, K, V>> {
    let (mut olds, mut differing) = (old.iter().peekable(), Vec::new());
    for (key, new) in new {
        while let Some((key, old)) = olds.next_if(|(old, _)| *old < key) {
            differing.push(Differing { key, old: Some(&**old), new: None });
        }
        let old = olds.next_if(|(old, _)| *old == key).map(|(_, old)| old);
        if !old.is_some_and(|old| Arc::ptr_eq(old, new)) {
            differing.push(Differing { key, old: old.map(Arc::as_ref), new: Some(&**new) });
        }
    }
    differing.extend(olds.map(|(key, old)| Differing { key, old: Some(&**old), new: None }));
    differing
}

/// Finds keys of a map that are asked for in their order.
pub(crate) struct Finder<'a, K, V>(Peekable<Iter<'a, K, V>>);

impl<'a, K: Ord, V> Finder<'a, K, V> {
    pub(crate) fn new(map: &'a BTreeMap<K, V>) -> Self {
        Self(map.iter().peekable())
    }

    /// The value of `key`, which sorts behind every key that was asked for before.
    pub(crate) fn find(&mut self, key: &K) -> Option<&'a V> {
        while self.0.next_if(|(other, _)| *other < key).is_some() {}
        self.0.next_if(|(other, _)| *other == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_walk_finds_what_look_ups_find(
            old in proptest::collection::btree_map(0u8..20, 0u8..3, 0..12),
            new in proptest::collection::btree_map(0u8..20, 0u8..3, 0..12),
        ) {
            let values: Vec<_> = (0u8..3).map(Arc::new).collect();
            let shared = |map: &BTreeMap<u8, u8>| -> BTreeMap<u8, Arc<u8>> {
                map.iter().map(|(key, value)| (*key, values[usize::from(*value)].clone())).collect()
            };
            let found: Vec<_> = differing(&shared(&old), &shared(&new))
                .into_iter()
                .map(|d| (*d.key, d.old.copied(), d.new.copied()))
                .collect();
            let all = (0u8..20).map(|key| (key, old.get(&key).copied(), new.get(&key).copied()));
            let wanted: Vec<_> = all.filter(|(_, old, new)| old != new).collect();
            prop_assert_eq!(found, wanted);
            let mut finder = Finder::new(&old);
            for key in new.keys() {
                prop_assert_eq!(finder.find(key), old.get(key));
            }
        }
    }
}

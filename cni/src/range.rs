//! The pod range: which addresses can be given, and which one is next.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// A checked pod range. The first address after the network's own is the gateway (the bridge); the last is the broadcast
/// address; those between are for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodRange {
    net: Ipv4Net,
}

/// Why a range cannot hold pods.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// Host bits are set: most likely an address was written where a network was meant.
    #[error("pod range {0} has host bits set; write {network}", network = .0.trunc())]
    HostBits(Ipv4Net),
    /// Too small for a gateway and a pod, or larger than any network.
    #[error("pod range {0} must have a prefix of /8 to /30")]
    Size(Ipv4Net),
    /// Loopback, multicast, link-local or reserved addresses.
    #[error("pod range {0} is not made of ordinary unicast addresses")]
    NotUnicast(Ipv4Net),
}

impl PodRange {
    /// Checks a network.
    ///
    /// # Errors
    /// [`RangeError`] says what is wrong with it.
    pub(crate) fn new(net: Ipv4Net) -> Result<Self, RangeError> {
        let first = net.network();
        match () {
            () if net.addr() != first => Err(RangeError::HostBits(net)),
            () if !(8..=30).contains(&net.prefix_len()) => Err(RangeError::Size(net)),
            () if first.is_loopback()
                || first.is_link_local()
                || first.octets()[0] == 0
                || first.octets()[0] >= 224 =>
            {
                Err(RangeError::NotUnicast(net))
            }
            () => Ok(Self { net }),
        }
    }

    pub(crate) fn net(&self) -> Ipv4Net {
        self.net
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.first() - 1)
    }

    /// How many pods fit.
    pub(crate) fn capacity(&self) -> u32 {
        self.last() - self.first() + 1
    }

    /// Whether the address can be a pod's.
    pub(crate) fn holds(&self, address: Ipv4Addr) -> bool {
        (self.first()..=self.last()).contains(&u32::from(address))
    }

    /// The first free address after `last_given`, around the end of the range: a freed address rests as long as possible,
    /// so that nobody who still knows its former owner reaches the next one.
    pub(crate) fn next_free(&self, last_given: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let start = match last_given {
            Some(address) if self.holds(address) && u32::from(address) < self.last() => u32::from(address) + 1,
            _ => self.first(),
        };
        let mut candidates = (start..=self.last()).chain(self.first()..start).map(Ipv4Addr::from);
        candidates.find(|candidate| !taken.contains(candidate))
    }

    fn first(&self) -> u32 {
        u32::from(self.net.network()) + 2
    }

    fn last(&self) -> u32 {
        u32::from(self.net.broadcast()) - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Result<PodRange, RangeError> {
        PodRange::new(text.parse().unwrap())
    }

    #[test]
    fn a_slash_30_holds_one_pod() {
        let range = range("10.0.0.0/30").unwrap();
        assert_eq!((range.gateway(), range.capacity()), (Ipv4Addr::new(10, 0, 0, 1), 1));
        assert_eq!(range.next_free(None, &BTreeSet::new()), Some(Ipv4Addr::new(10, 0, 0, 2)));
    }

    #[test]
    fn a_range_that_cannot_hold_pods_is_refused() {
        for text in ["10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16"] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!(
            range("10.0.0.1/24").unwrap_err().to_string(),
            "pod range 10.0.0.1/24 has host bits set; write 10.0.0.0/24"
        );
    }

    /// Takes (`Some(())`) or gives back the `n`th taken address.
    fn steps() -> impl Strategy<Value = Vec<Option<prop::sample::Index>>> {
        prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 0..200)
    }

    proptest! {
        #[test]
        fn an_address_is_never_given_twice_and_never_refused_while_one_is_free(prefix in 26_u8..=30, steps in steps()) {
            let range = range(&format!("10.1.2.0/{prefix}")).unwrap();
            let (mut taken, mut last) = (BTreeSet::new(), None);
            for step in steps {
                match step {
                    Some(index) if !taken.is_empty() => {
                        let freed = *index.get(&taken.iter().copied().collect::<Vec<_>>());
                        taken.remove(&freed);
                    }
                    _ => match range.next_free(last, &taken) {
                        Some(address) => {
                            prop_assert!(range.holds(address) && address != range.gateway());
                            prop_assert!(taken.insert(address));
                            last = Some(address);
                        }
                        None => prop_assert_eq!(taken.len(), range.capacity() as usize),
                    },
                }
            }
        }

        #[test]
        fn a_freed_address_is_the_last_to_be_given_again(prefix in 24_u8..=29) {
            let range = range(&format!("10.1.2.0/{prefix}")).unwrap();
            let freed = range.next_free(None, &BTreeSet::new()).unwrap();
            let mut last = Some(freed);
            for _ in 1..range.capacity() {
                last = range.next_free(last, &BTreeSet::new());
                prop_assert_ne!(last, Some(freed));
            }
            prop_assert_eq!(range.next_free(last, &BTreeSet::new()), Some(freed));
        }
    }
}

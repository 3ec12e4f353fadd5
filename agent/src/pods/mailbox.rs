//! What a pod's worker is asked for: the newest wish wins, a stop is final and may only come sooner.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::sources::Desired;

/// The pod as it should be, with everything it may refer to.
#[derive(Clone, Debug)]
pub struct Want {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The set it came with.
    pub within: Arc<Desired>,
    /// Changes when the objects in it change.
    pub generation: u64,
}

/// Something that is wanted of a pod.
#[derive(Clone, Debug)]
pub enum Wish {
    /// It should run like this.
    Run(Want),
    /// It should end, and be gone by then.
    Stop {
        /// When its processes are killed if they have not ended.
        by: Timestamp,
    },
}

/// Holds what the worker has not seen yet.
#[derive(Clone, Debug)]
pub enum Mailbox {
    /// Wishes may still come.
    Open {
        /// The newest.
        newest: Option<Want>,
    },
    /// It ends.
    Closed {
        /// The soonest end that was asked for.
        by: Timestamp,
    },
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::Open { newest: None }
    }
}

impl Mailbox {
    /// Adds a wish.
    pub fn put(self, wish: Wish) -> Self {
        match (self, wish) {
            (Self::Open { .. }, Wish::Run(want)) => Self::Open { newest: Some(want) },
            (Self::Open { .. }, Wish::Stop { by }) => Self::Closed { by },
            (Self::Closed { by }, Wish::Stop { by: sooner }) => Self::Closed { by: by.min(sooner) },
            // Never reopened: containers may already be dying.
            (Self::Closed { by }, Wish::Run(_)) => Self::Closed { by },
        }
    }

    /// Takes the newest wish out; a stop stays, because it stays true.
    pub fn take(&mut self) -> Option<Wish> {
        match self {
            Self::Open { newest } => newest.take().map(Wish::Run),
            Self::Closed { by } => Some(Wish::Stop { by: *by }),
        }
    }

    /// A stop was asked for.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wish() -> impl Strategy<Value = Option<i64>> {
        prop_oneof![Just(None), (0i64..100).prop_map(Some)]
    }

    fn run() -> Wish {
        Wish::Run(Want { pod: Arc::default(), within: Arc::default(), generation: 0 })
    }

    proptest! {
        #[test]
        fn a_stop_is_final_and_only_comes_sooner(wishes in prop::collection::vec(wish(), 0..20)) {
            let stops: Vec<_> = wishes.iter().flatten().copied().collect();
            let mailbox = wishes.iter().fold(Mailbox::default(), |mailbox, wish| mailbox.put(match wish {
                None => run(),
                Some(second) => Wish::Stop { by: Timestamp::from_second(*second).unwrap() },
            }));
            match (stops.iter().min(), mailbox) {
                (None, Mailbox::Open { .. }) => {}
                (Some(soonest), Mailbox::Closed { by }) => prop_assert_eq!(by.as_second(), *soonest),
                (stops, mailbox) => prop_assert!(false, "{:?} {:?}", stops, mailbox),
            }
        }
    }
}

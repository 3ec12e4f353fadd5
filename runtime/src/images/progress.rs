//! How far a pull or an import is: counters that its steps write and anyone may read.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::digest::Digest;

/// A handle on one pull's progress; clones show the same pull.
///
/// A handle and not a call-back: whoever shows progress reads at its own pace, and the pull never waits for it.
#[derive(Clone, Debug, Default)]
pub struct PullProgress(Arc<Mutex<Vec<Arc<LayerCounter>>>>);

/// One layer at the moment of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// Digest of the blob, or of the layer's content where it came without one.
    pub digest: Digest,
    /// What is being done with it.
    pub phase: Phase,
    /// Bytes read so far, as they are transferred (compressed).
    pub done: u64,
    /// Bytes to read; 0 when not known.
    pub total: u64,
}

/// What is being done with a layer. Layers are unpacked while they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for its turn, or for another pull that fetches the same layer.
    Waiting,
    /// Read and unpacked.
    Reading,
    /// In the store.
    Done,
}

/// The counter that a layer's reader increases.
#[derive(Debug)]
pub(crate) struct LayerCounter {
    digest: Digest,
    total: u64,
    done: AtomicU64,
    phase: AtomicU8,
}

impl PullProgress {
    /// All layers known so far, lowest first; empty until the manifest is there.
    pub fn layers(&self) -> Vec<LayerProgress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|counter| counter.read()).collect()
    }

    /// Bytes read and bytes to read, over all layers known so far.
    pub fn bytes(&self) -> (u64, u64) {
        let layers = self.layers();
        let sum = |of: fn(&LayerProgress) -> u64| layers.iter().map(of).fold(0, u64::saturating_add);
        (sum(|layer| layer.done), sum(|layer| layer.total))
    }

    pub(crate) fn add(&self, digest: Digest, total: u64) -> Arc<LayerCounter> {
        let phase = AtomicU8::new(Phase::Waiting as u8);
        let counter = Arc::new(LayerCounter { digest, total, done: AtomicU64::new(0), phase });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(counter.clone());
        counter
    }
}

impl LayerCounter {
    pub(crate) fn advance(&self, bytes: u64) {
        self.phase.store(Phase::Reading as u8, Ordering::Relaxed);
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn finish(&self) {
        self.done.store(self.total, Ordering::Relaxed);
        self.phase.store(Phase::Done as u8, Ordering::Relaxed);
    }

    fn read(&self) -> LayerProgress {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Waiting,
            1 => Phase::Reading,
            _ => Phase::Done,
        };
        let done = self.done.load(Ordering::Relaxed);
        LayerProgress { digest: self.digest.clone(), phase, done, total: self.total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_a_layer_has_done() {
        let progress = PullProgress::default();
        let reader = progress.clone();
        let (first, second) = (progress.add(Digest::sha256_of(b"1"), 10), progress.add(Digest::sha256_of(b"2"), 30));
        first.advance(4);
        second.finish();
        assert_eq!(reader.bytes(), (34, 40));
        let phases: Vec<Phase> = reader.layers().iter().map(|layer| layer.phase).collect();
        assert_eq!(phases, [Phase::Reading, Phase::Done]);
    }
}

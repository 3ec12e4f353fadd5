//! Where things lie below the store's root.
//!
//! ```text
//! images/lock             held while a process has the store open
//! images/records/<id>     one image: configuration and layers; never changed
//! images/names.json       which tags and digests mean which image, and what is pinned; replaced by rename
//! images/layers/<diff id>/{fs, layer.json}
//! images/empty            the lower layer of an image that has none
//! images/tmp/             everything unfinished or half removed; emptied at open
//! snapshots/<container>/{snapshot.json, upper, work, root}
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::images::digest::{DiffId, ImageId};

#[derive(Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    next: AtomicU64,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), next: AtomicU64::new(0) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.images().join("lock")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.images().join("records")
    }

    pub(crate) fn record(&self, id: &ImageId) -> PathBuf {
        self.records().join(id.0.file_name())
    }

    pub(crate) fn names(&self) -> PathBuf {
        self.images().join("names.json")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.images().join("layers")
    }

    pub(crate) fn layer(&self, layer: &DiffId) -> PathBuf {
        self.layers().join(layer.0.file_name())
    }

    pub(crate) fn layer_content(&self, layer: &DiffId) -> PathBuf {
        self.layer(layer).join("fs")
    }

    pub(crate) fn empty(&self) -> PathBuf {
        self.images().join("empty")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.images().join("tmp")
    }

    /// A name in `tmp` that nobody else has.
    pub(crate) fn new_tmp(&self, kind: &str) -> PathBuf {
        // One process at a time has the store open, and it empties the folder first: a counter is enough.
        self.tmp().join(format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn snapshot(&self, id: &str) -> PathBuf {
        self.snapshots().join(id)
    }
}

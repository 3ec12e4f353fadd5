//! Layers: a tar stream of foreign bytes in, a folder for overlayfs out.
//!
//!   bytes -> `decode` (gzip, zstd; sizes and digests) -> `tar` (headers, PAX, GNU, sparse) -> `unpack`
//!   `name` decides what an entry's name means, whiteouts included; `tree` writes below one descriptor and nowhere else.
//!
//! Nothing here knows images, registries or where the folder lies.

pub(crate) mod decode;
mod name;
mod pax;
mod sparse;
pub(crate) mod tar;
pub(crate) mod tree;
pub(crate) mod unpack;

use std::io;

pub(crate) use unpack::unpack;

/// Why a layer was refused or could not be written. Names are the tar's own, shortened, never paths of this machine.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream broke off, or its compression is damaged.
    #[error("reading the layer's data")]
    Read(#[source] io::Error),
    /// The bytes are no tar.
    #[error("the layer's tar is damaged at byte {offset}: {what}")]
    Damaged {
        /// Position of the header in the uncompressed stream.
        offset: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A bound that keeps one image from filling the node.
    #[error("the layer has more than {limit} {what}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// An entry that would leave the layer, or that means nothing in one.
    #[error("the layer's entry {name:?} is refused: {why}")]
    Refused {
        /// The entry's name.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The node could not store an entry.
    #[error("writing the layer's entry {name:?}")]
    Write {
        /// The entry's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Bounds on one layer. Defaults: four million entries, 64 GiB of content.
#[derive(Clone, Copy, Debug)]
pub struct LayerLimits {
    /// Entries of the tar.
    pub entries: u64,
    /// Bytes of the uncompressed stream, and of the files it makes (sparse files count with their holes).
    pub bytes: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        // The largest public images (machine learning) have layers of some 20 GiB and half a million files.
        Self { entries: 4_000_000, bytes: 64 << 30 }
    }
}

/// Foreign bytes for an error message, bounded.
fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

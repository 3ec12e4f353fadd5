//! What can go wrong with images, and what a caller can do about it.

use std::io;
use std::path::PathBuf;

use super::digest::{DiffId, Digest};
use super::import::ImportError;
use super::layers::UnpackError;
use super::manifest::ManifestError;
use super::reference::ReferenceError;
use super::registry::RegistryError;

/// An operation on the image store failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name cannot be parsed.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Another process has this store open.
    #[error("the image store {0} is in use by another process")]
    Locked(PathBuf),
    /// The store's own files could not be read or written.
    #[error("{action} {path}")]
    Store {
        /// What was being done, such as `writing`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The registry did not give what was asked for.
    #[error("pulling {image}")]
    Registry {
        /// The full name.
        image: String,
        /// The request that failed.
        source: RegistryError,
    },
    /// What was pulled or imported is no image for this machine.
    #[error("image {image}")]
    Manifest {
        /// The full name, or the path it was imported from.
        image: String,
        /// What does not fit.
        source: ManifestError,
    },
    /// The configuration is not JSON as the specification wants it.
    #[error("the configuration {digest} is malformed")]
    Config {
        /// Digest of the configuration.
        digest: Digest,
        /// Where it breaks off.
        source: serde_json::Error,
    },
    /// The image is for another kind of machine.
    #[error("image {image} is built for {found}; this machine is {wanted}")]
    WrongPlatform {
        /// The full name, or the path it was imported from.
        image: String,
        /// What the configuration says.
        found: String,
        /// This machine.
        wanted: String,
    },
    /// Bytes arrived that are not those that were named.
    #[error("{what} should have digest {expected}, but has {found}")]
    Digest {
        /// `layer`, `configuration`, ….
        what: &'static str,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// More or fewer bytes arrived than the descriptor says.
    #[error("{what} {digest} should have {expected} bytes, but has {found}")]
    Size {
        /// `layer`, `configuration`, ….
        what: &'static str,
        /// Which.
        digest: Digest,
        /// What the descriptor says.
        expected: u64,
        /// What came; when more came, where reading stopped.
        found: u64,
    },
    /// A layer was refused or could not be written.
    #[error("unpacking layer {layer}")]
    Unpack {
        /// The layer's diff id.
        layer: DiffId,
        /// Which entry, and why.
        source: UnpackError,
    },
    /// A file or folder could not be imported.
    #[error("importing {path}")]
    Import {
        /// What was to be imported.
        path: PathBuf,
        /// Why not.
        source: ImportError,
    },
    /// No such image in the store.
    #[error("image {0} is not here")]
    NotFound(String),
    /// A container id that cannot be a folder's name.
    #[error("{0:?} cannot name a snapshot: 1 to 128 letters, digits, '_', '.' or '-' are wanted")]
    BadSnapshotId(String),
    /// The snapshot exists, for another image.
    #[error("snapshot {id} exists already, of other layers than those of image {image}")]
    SnapshotTaken {
        /// The container's id.
        id: String,
        /// The image asked for.
        image: String,
    },
    /// No such snapshot.
    #[error("there is no snapshot {0}")]
    NoSnapshot(String),
    /// The kernel refused the overlay.
    #[error(
        "mounting the root file system of {id}; overlayfs and a disk that can hold it (ext4, xfs, btrfs) are needed"
    )]
    Mount {
        /// The container's id.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not let go of the overlay.
    #[error("unmounting the root file system of {id}")]
    Unmount {
        /// The container's id.
        id: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A background step ended without an answer; it panicked, or the runtime is going down.
    #[error("{0} was broken off")]
    Interrupted(&'static str),
}

/// What a caller can do about an [`ImageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The name is not one: kubelet's `InvalidImageName`.
    InvalidName,
    /// There is no such image, here or in the registry.
    NotFound,
    /// The registry wants other credentials.
    Denied,
    /// The registry cannot be reached or is overloaded: kubelet's `RegistryUnavailable`. Trying again may help.
    Unavailable,
    /// The image is damaged, forged, or not for this machine. Trying again does not help.
    BadImage,
    /// The disk is full.
    NoSpace,
    /// The object is in a state that does not allow it.
    Conflict,
    /// Anything else.
    Internal,
}

impl ImageError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference(_) | Self::BadSnapshotId(_) => ErrorKind::InvalidName,
            Self::NotFound(_) | Self::NoSnapshot(_) => ErrorKind::NotFound,
            Self::Locked(_) | Self::SnapshotTaken { .. } => ErrorKind::Conflict,
            Self::Registry { source, .. } => source.kind(),
            Self::Unpack { source: UnpackError::Write { source, .. }, .. } | Self::Store { source, .. } => {
                io_kind(source)
            }
            Self::Import { source, .. } => source.kind(),
            Self::Manifest { .. }
            | Self::Config { .. }
            | Self::WrongPlatform { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::Unpack { .. } => ErrorKind::BadImage,
            Self::Mount { source, .. } | Self::Unmount { source, .. } => io_kind(source),
            Self::Interrupted(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn store(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Store { action, path, source }
    }
}

pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Internal,
    }
}

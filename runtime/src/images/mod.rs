//! Images: from registries, archives and folders into a store, and out of it as root file systems of containers.
//!
//! ```text
//! reference, digest, credentials   foreign text, parsed once
//! registry  ┐                      the distribution protocol; `pull` puts an image together from it
//! import    ┴> layers ─> store     bytes are checked and unpacked while they come; what is whole gets a name
//!                        snapshot  one overlay per container
//!                        users     who `USER` is, by the image's own files
//! ```
//!
//! [`ImageStore`] is the handle on all of it. Nothing here knows containers, pods, or the CRI wire format beyond
//! credentials.

mod config;
mod credentials;
mod digest;
mod error;
mod import;
mod layers;
mod manifest;
mod progress;
mod pull;
mod reference;
mod registry;
mod snapshot;
mod store;
pub mod users;

pub use config::{Image, ImageConfig, Layer};
pub use credentials::{BadAuth, Credentials};
pub use digest::{BadDigest, DiffId, Digest, ImageId};
pub use error::{ErrorKind, ImageError};
pub use import::ImportError;
pub use layers::{LayerLimits, UnpackError};
pub use manifest::{ManifestError, Platform};
pub use progress::{LayerProgress, Phase, PullProgress};
pub use reference::{ImageQuery, ImageRef, ReferenceError};
pub use registry::{RegistryConfig, RegistryError};
pub use snapshot::{Snapshot, SnapshotUsage};
pub use store::{FsInfo, ImageStore};

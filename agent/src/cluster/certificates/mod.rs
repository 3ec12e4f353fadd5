//! The node's certificates: asked for by certificate signing requests, kept as the kubelet keeps them, renewed in time.
//!
//! ```text
//! Purpose::csr(key)   what is asked for: subject, names, usages
//! request::ask        creates the request, waits for its approval
//! Store::keep         <cert-dir>/kubelet-<purpose>-<date>.pem and the link kubelet-<purpose>-current.pem
//! rotation            when the next one is due; asks for it then
//! ```

mod purpose;
mod request;
mod rotation;
mod store;

pub(super) use purpose::Purpose;
pub(super) use request::{Name, RequestError, ask, name_of};
pub use rotation::{Rotation, run as rotate};
pub(super) use store::Store;

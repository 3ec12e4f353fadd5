//! What the ports do.

use std::path::PathBuf;

use serde_json::Value;

use crate::config::kubelet::Server;

/// The configuration, as far as it is this room's.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Ports, TLS, who is believed and who may do what.
    pub server: Server,
    /// Where a certificate is made when none is given.
    pub cert_dir: PathBuf,
    /// The whole configuration, as `/configz` shows it.
    pub configz: Value,
}

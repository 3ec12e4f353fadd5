//! What an operator sets about registries.

use std::path::PathBuf;

use crate::images::manifest::Platform;

/// How images are pulled.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Folders with `HOST/hosts.toml` in them, as containerd has them; the first that knows a host decides. Read at
    /// each pull, so that a change needs no restart.
    pub config_folders: Vec<PathBuf>,
    /// The machine that images are chosen for.
    pub platform: Platform,
    /// Layers of one image that are fetched and unpacked at a time; at least one.
    pub layers_at_once: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            config_folders: vec!["/etc/longshore/certs.d".into(), "/etc/containerd/certs.d".into()],
            platform: Platform::host(),
            // containerd's default as well; more than three compete for the same disk.
            layers_at_once: 3,
        }
    }
}

//! The registry side: where a name leads to, who asks, and how bytes come.

mod config;
mod error;

pub use config::RegistryConfig;
pub use error::RegistryError;

/// All registries, as this node is configured to reach them.
#[derive(Debug)]
pub(crate) struct Registries {
    config: RegistryConfig,
}

impl Registries {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self { config }
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }
}

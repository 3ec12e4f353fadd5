//! The registry side: where a name leads to, who asks, and how bytes come. The OCI distribution protocol, pull only.
//!
//! `hosts` decides which servers are asked, `session` asks them in turn for manifests, `blob` for content with resumption;
//! `http` knows redirects and deadlines, `challenge` and `auth` who we are, `tls` whom we believe, `status` what went
//! wrong. A client of our own and not `oci-client`: mirrors, authorities per host, redirects that leave credentials
//! behind, bounds on every answer and token lifetimes would all have stood around it, and it brings reqwest.

mod auth;
mod blob;
mod challenge;
mod config;
mod error;
mod hosts;
mod http;
mod session;
mod status;
mod tls;

pub(crate) use blob::Piece;
pub use config::RegistryConfig;
pub use error::RegistryError;
pub(crate) use session::Session;

use super::credentials::Credentials;
use super::reference::ImageRef;

/// All registries, as this node is configured to reach them.
#[derive(Debug)]
pub(crate) struct Registries {
    config: RegistryConfig,
    tokens: auth::Tokens,
}

impl Registries {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self { config, tokens: auth::Tokens::default() }
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// A conversation about one repository. Reads the configuration of its host.
    pub(crate) fn session(
        &self,
        image: &ImageRef,
        credentials: Option<Credentials>,
    ) -> Result<Session<'_>, RegistryError> {
        let endpoints = hosts::endpoints(&self.config.config_folders, image.host())?;
        Ok(Session::new(&self.tokens, endpoints, image, credentials))
    }
}

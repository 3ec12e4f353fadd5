//! Whom we believe, and what we show, when a registry is reached over TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::error::RegistryError;
use super::hosts::TlsOptions;
use crate::tls::AnyCertificate;

/// Where distributions keep the authorities they trust: Debian, Fedora, Alpine.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// The system's authorities and those of `options`. Without a bundle on this machine, Mozilla's list as it was when
/// this program was built.
pub(super) fn client_config(options: &TlsOptions) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| refused("/".as_ref(), error))?;
    let builder = if options.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
    } else {
        match roots(&options.ca)? {
            Some(roots) => builder.with_root_certificates(roots),
            None => builder.with_webpki_roots(),
        }
    };
    let Some((certificate, key)) = &options.client else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| refused(key, error))?;
    builder.with_client_auth_cert(chain, secret).map_err(|error| refused(certificate, error))
}

fn roots(own: &[PathBuf]) -> Result<Option<RootCertStore>, RegistryError> {
    let mut roots = RootCertStore::empty();
    for path in own {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| refused(path, error))?;
        }
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let bundle = named.into_iter().chain(SYSTEM.map(PathBuf::from)).find_map(|path| fs::read(path).ok());
    // A bundle may hold certificates that nobody can use any more: they are passed over.
    let system = bundle.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem)).flatten();
    roots.add_parsable_certificates(system);
    Ok((!roots.is_empty()).then_some(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(refused(path, "it holds no certificate")),
        found => found.map_err(|error| refused(path, error)),
    }
}

fn refused(path: &Path, why: impl std::fmt::Display) -> RegistryError {
    RegistryError::Hosts { path: path.to_owned(), why: why.to_string() }
}

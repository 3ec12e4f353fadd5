//! Whom we believe and who we are, as TLS wants it; read anew when a file of it has changed.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::header::HeaderValue;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::kubeconfig::{Kubeconfig, Source};

/// Authorities of the system, where a kubeconfig names none: Debian, Fedora, Alpine.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A certificate, key or token that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the {what} in {place}: {problem}")]
pub struct CredentialsError {
    what: &'static str,
    place: String,
    problem: String,
}

/// What a connection is made with.
pub(super) struct Credentials {
    pub(super) tls: ClientConfig,
    pub(super) token: Option<HeaderValue>,
}

impl Credentials {
    /// Reads everything that `config` names.
    pub(super) fn read(config: &Kubeconfig) -> Result<Self, CredentialsError> {
        let token = config.user.token.as_ref().map(token).transpose()?;
        if config.unverified {
            let tls = runtime::tls::trusting().map_err(|error| bad("TLS versions", "this program", error))?;
            return Ok(Self { tls, token });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| bad("TLS versions", "this program", error))?;
        let builder = builder.with_root_certificates(roots(config.ca.as_ref())?);
        let tls = match &config.user.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate, "client certificate")?;
                let pem = read(key, "client key")?;
                let key =
                    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| bad("client key", &key.shown(), error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad("client certificate", &certificate.shown(), error))?
            }
        };
        Ok(Self { tls, token })
    }
}

fn bad(what: &'static str, place: &str, problem: impl std::fmt::Display) -> CredentialsError {
    CredentialsError { what, place: place.to_owned(), problem: problem.to_string() }
}

fn read(source: &Source, what: &'static str) -> Result<Vec<u8>, CredentialsError> {
    source.read().map_err(|error| bad(what, &source.shown(), error))
}

fn token(source: &Source) -> Result<HeaderValue, CredentialsError> {
    let text = String::from_utf8(read(source, "token")?).map_err(|_| bad("token", &source.shown(), "is not text"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(bad("token", &source.shown(), "is empty"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
        .map_err(|_| bad("token", &source.shown(), "cannot be part of an HTTP header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn certificates(source: &Source, what: &'static str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let pem = read(source, what)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(what, &source.shown(), "there is no certificate")),
        found => found.map_err(|error| bad(what, &source.shown(), error)),
    }
}

fn roots(ca: Option<&Source>) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            for certificate in certificates(ca, "certificate authority")? {
                roots.add(certificate).map_err(|error| bad("certificate authority", &ca.shown(), error))?;
            }
        }
        None => {
            let bundle = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
            // A bundle may hold certificates that nobody can use any more: they are passed over.
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).flatten());
            if roots.is_empty() {
                return Err(bad("certificate authority", "the system", "there is none; name the cluster's own"));
            }
        }
    }
    Ok(roots)
}

/// The files that hold credentials.
pub(super) fn files(config: &Kubeconfig) -> Vec<PathBuf> {
    let (certificate, key) = config.user.certificate.as_ref().map(|(c, k)| (c, k)).unzip();
    let all = [config.ca.as_ref(), certificate, key, config.user.token.as_ref()];
    let path = |source: &Source| match source {
        Source::File(path) => Some(path.clone()),
        Source::Data(_) => None,
    };
    all.into_iter().flatten().filter_map(path).collect()
}

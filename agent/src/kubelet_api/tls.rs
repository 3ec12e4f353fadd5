//! The serving side of TLS: certificate and key as configured or made by ourselves, read anew when they change.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCertUsingSni, WebPkiClientVerifier};
use rustls::{Error, RootCertStore, ServerConfig, SupportedProtocolVersion};

use runtime::tls::AnyCertificate;

use super::settings::Settings;
use crate::config::kubelet::{Server, ServingCertificate, TlsVersion};
use crate::reloaded::Reloaded;

/// A certificate, key or authority that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the {what} {}: {problem}", path.display())]
pub struct TlsError {
    what: &'static str,
    path: PathBuf,
    problem: String,
}

fn bad<E: Display>(what: &'static str, path: &Path) -> impl Fn(E) -> TlsError {
    move |problem| TlsError { what, path: path.to_owned(), problem: problem.to_string() }
}

/// What connections are answered with.
pub(super) type Serving = Reloaded<ServerConfig, TlsError>;

/// Reads certificate and key; makes them first where none are configured and none were made before.
pub(super) fn serving(settings: &Settings, node: &str) -> Result<Serving, TlsError> {
    let files = match &settings.server.certificate {
        ServingCertificate::Files { certificate, key } => {
            CertificateFiles { certificate: certificate.clone(), key: key.clone(), may_be_missing: false }
        }
        ServingCertificate::Requested => {
            let both = settings.cert_dir.join("kubelet-server-current.pem");
            CertificateFiles { certificate: both.clone(), key: both, may_be_missing: true }
        }
        ServingCertificate::SelfSigned => own_certificate(&settings.cert_dir, node)?,
    };
    let server = settings.server.clone();
    let watched = vec![files.certificate.clone(), files.key.clone()];
    Reloaded::new("the kubelet API's certificate", watched, move || server_config(&files, &server))
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
    /// Handshakes fail until it is there.
    may_be_missing: bool,
}

fn server_config(files: &CertificateFiles, server: &Server) -> Result<ServerConfig, TlsError> {
    let wrong = |error: Error| bad("serving certificate", &files.certificate)(error);
    let provider = Arc::new(provider(&server.tls_cipher_suites));
    let versions: &[&SupportedProtocolVersion] = match server.tls_min {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let builder = match server.authentication.client_ca {
        // Whether somebody vouches for it is judged with each request: a stranger is told 401 there, and one who also has
        // a good token is served.
        Some(_) => builder.map_err(wrong)?.with_client_cert_verifier(Arc::new(AnyCertificate::new(provider))),
        None => builder.map_err(wrong)?.with_no_client_auth(),
    };
    let mut config = match files.may_be_missing && !files.certificate.exists() {
        true => builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())),
        false => {
            let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad("serving key", &files.key))?;
            let chain = certificates("serving certificate", &files.certificate)?;
            builder.with_single_cert(chain, key).map_err(wrong)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// With the suites that are named, all where none are. As in Go, only those of TLS 1.2 can be chosen.
fn provider(suites: &[String]) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !suites.is_empty() {
        let named = |name: &str| suites.iter().any(|suite| suite == name || format!("{suite}_SHA256") == name);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || suite.suite().as_str().is_some_and(named));
    }
    provider
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).map_err(bad(what, path))?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(bad(what, path))?;
    if found.is_empty() {
        return Err(bad(what, path)("there is no certificate in it"));
    }
    Ok(found)
}

/// Who vouches for clients.
pub(super) type ClientAuthority = Reloaded<Arc<dyn ClientCertVerifier>, TlsError>;

pub(super) fn client_authority(path: &Path) -> Result<ClientAuthority, TlsError> {
    let from = path.to_owned();
    Reloaded::new("the authority of clients", vec![path.to_owned()], move || {
        let wrong = bad("authority of clients", &from);
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority of clients", &from)? {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        verifier.map_err(|error| wrong(error.to_string()))
    })
}

/// `kubelet.crt` and `kubelet.key`, made once.
fn own_certificate(dir: &Path, node: &str) -> Result<CertificateFiles, TlsError> {
    let (certificate, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    let files = CertificateFiles { certificate, key, may_be_missing: false };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let what = "certificate of our own";
    let (certificate, key) = make(node, Timestamp::now()).map_err(bad(what, &files.certificate))?;
    let kept = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| keep(&files.key, &key, 0o600))
        .and_then(|()| keep(&files.certificate, &certificate, 0o644));
    kept.map_err(bad(what, &files.certificate))?;
    Ok(files)
}

/// Whole or not at all.
fn keep(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let part = path.with_extension("part");
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)
}

/// A certificate for the node's name with the authority that was made for it, as the kubelet makes them: good for a year.
fn make(node: &str, now: Timestamp) -> Result<(String, String), rcgen::Error> {
    let stamp = now.as_second();
    let date = |days: i32| {
        let date = now.to_zoned(TimeZone::UTC).date().saturating_add(Span::new().days(days));
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let (from, to) = (date(-1), date(365));
    let params = |names: Vec<String>, name: String| -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (from, to);
        Ok(params)
    };
    let mut authority = params(Vec::new(), format!("{node}-ca@{stamp}"))?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    // A name that is an address becomes one: rcgen looks at it itself.
    let mut own = params(vec![node.to_owned()], format!("{node}@{stamp}"))?;
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let own_pem = own.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok((format!("{own_pem}{authority_pem}"), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kubelet::KubeletConfiguration;

    fn settings(dir: &Path, certificate: ServingCertificate) -> Settings {
        let server = Server { certificate, ..KubeletConfiguration::default().server };
        Settings { server, cert_dir: dir.join("pki"), configz: serde_json::Value::Null }
    }

    #[test]
    fn a_certificate_is_made_once_and_can_be_served() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), ServingCertificate::SelfSigned);
        let serving = serving(&settings, "n1").unwrap();
        let first = std::fs::read(settings.cert_dir.join("kubelet.crt")).unwrap();
        assert!(!serving.current().alpn_protocols.is_empty());
        own_certificate(&settings.cert_dir, "n1").unwrap();
        assert_eq!(std::fs::read(settings.cert_dir.join("kubelet.crt")).unwrap(), first);
        let chain = certificates("x", &settings.cert_dir.join("kubelet.crt")).unwrap();
        assert_eq!(chain.len(), 2, "the certificate and its authority");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        let missing = ServingCertificate::Files { certificate: certificate.clone(), key: key.clone() };
        let said = serving(&settings(dir.path(), missing), "n1").err().unwrap().to_string();
        assert!(said.starts_with(&format!("the serving key {}: ", key.display())), "{said}");
        std::fs::write(&certificate, "nothing").unwrap();
        let said = client_authority(&certificate).err().unwrap().to_string();
        assert!(said.ends_with("there is no certificate in it"), "{said}");
    }

    #[test]
    fn a_certificate_that_was_asked_for_may_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), ServingCertificate::Requested);
        let serving = serving(&settings, "n1").unwrap();
        let before = serving.current();
        let (certificate, key) = make("n1", Timestamp::now()).unwrap();
        std::fs::create_dir(&settings.cert_dir).unwrap();
        std::fs::write(settings.cert_dir.join("kubelet-server-current.pem"), certificate + &key).unwrap();
        assert!(!Arc::ptr_eq(&before, &serving.current()));
    }

    #[test]
    fn suites_are_known_by_gos_names() {
        let given = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_NONE"];
        let provider = provider(&given.map(str::to_owned));
        let old = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        let old: Vec<_> = old.filter_map(|suite| suite.suite().as_str()).collect();
        let whole = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"];
        assert!(old.len() == 2 && whole.iter().all(|name| old.contains(name)), "{old:?}");
        assert_eq!(provider.cipher_suites.len(), 2 + 3);
    }
}

//! A client certificate of our own, in exchange for a bootstrap token: asked for once, by a certificate signing request.
//!
//! Key first, then request, certificate, link, kubeconfig: each is on disk before the next begins, so that an agent that is
//! killed in between goes on with the same request.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::KeyPair;

use super::certificates::{Name, Purpose, RequestError, Store, ask, name_of};
use crate::api::{Client, CredentialsError, Kubeconfig, KubeconfigError, Source};
use crate::{der, files};

/// How long an approval may take; the kubelet's.
const APPROVAL: Duration = Duration::from_secs(3_600);

/// What is needed, and where the result goes.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The kubeconfig with the bootstrap token.
    pub from: PathBuf,
    /// The kubeconfig that is written.
    pub kubeconfig: PathBuf,
    /// Where key and certificate are kept.
    pub cert_dir: PathBuf,
    /// The node's name.
    pub node: String,
}

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The bootstrap kubeconfig cannot be used.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// What it names cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The request got no certificate.
    #[error("asking for a client certificate for the node {node}{}", help(source))]
    Request {
        /// The node.
        node: String,
        /// Why.
        source: RequestError,
    },
    /// A file could not be written or read.
    #[error("keeping {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What to look at first.
fn help(error: &RequestError) -> &'static str {
    match error {
        RequestError::Refused(_) => "; is the bootstrap token still valid?",
        RequestError::Denied { .. } => "; the next try asks anew",
        _ => "",
    }
}

/// What a kubeconfig has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// There is no kubeconfig, or its certificate is not there.
    Missing,
    /// Its certificate was good once.
    Ended,
    /// Nothing is known against it.
    Good,
}

impl Credentials {
    /// Looks at the client certificate of a kubeconfig.
    pub fn of(kubeconfig: &Path, now: Timestamp) -> Self {
        if !kubeconfig.exists() {
            return Self::Missing;
        }
        // One that cannot be read is not ours to replace: whoever uses it says what is wrong with it.
        let Ok(config) = Kubeconfig::load(kubeconfig) else { return Self::Good };
        let Some((certificate, _)) = config.user.certificate else { return Self::Good };
        match certificate.read() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Ok(pem) if der::validity_of_pem(&pem).is_some_and(|(_, until)| until <= now) => Self::Ended,
            _ => Self::Good,
        }
    }
}

/// Whether the kubeconfig uses the certificate that is kept in `cert_dir`: only that one is ours to renew.
pub fn keeps_client_certificate(kubeconfig: &Path, cert_dir: &Path) -> bool {
    let used = Kubeconfig::load(kubeconfig).ok().and_then(|config| config.user.certificate);
    used.is_some_and(|(certificate, _)| certificate == Source::File(Store::new(cert_dir, &Purpose::Client).current()))
}

impl Bootstrap {
    /// Gets a certificate and writes the kubeconfig that uses it.
    ///
    /// # Errors
    /// [`BootstrapError`]; a second try goes on where this one ended.
    pub async fn run(&self) -> Result<(), BootstrapError> {
        let from = Kubeconfig::load(&self.from)?;
        let client = Client::new(from.clone())?;
        files::make_dir(&self.cert_dir, 0o700).map_err(at(&self.cert_dir))?;
        let key = self.key()?;
        let asked = ask(&client, &Purpose::Client, (&self.node, &key), Name::OfKey, APPROVAL).await;
        let certificate = match asked {
            Ok(certificate) => certificate,
            Err(source) => {
                if matches!(source, RequestError::Denied { .. }) {
                    // Its request is answered for good, and is found by the key.
                    self.forget_key()?;
                }
                return Err(BootstrapError::Request { node: self.node.clone(), source });
            }
        };
        let current = self.keep(&certificate, &key)?;
        if let Some(folder) = self.kubeconfig.parent() {
            files::make_dir(folder, 0o755).map_err(at(folder))?;
        }
        files::write(&self.kubeconfig, kubeconfig(&from, &current).as_bytes(), 0o600).map_err(at(&self.kubeconfig))?;
        self.forget_key()
    }

    /// The name of the request that a certificate is awaited for, where one is.
    pub fn pending_in(cert_dir: &Path) -> Option<String> {
        let pem = files::read_text(&cert_dir.join(KEY)).ok()?;
        Some(name_of(&KeyPair::from_pem(&pem).ok()?))
    }

    /// The key of a former try, so that its request is found again.
    fn key(&self) -> Result<KeyPair, BootstrapError> {
        let path = self.cert_dir.join(KEY);
        let former = files::read_text(&path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        if let Some(key) = former {
            return Ok(key);
        }
        let failed = |source: rcgen::Error| BootstrapError::Request { node: self.node.clone(), source: source.into() };
        let key = KeyPair::generate().map_err(failed)?;
        files::write(&path, key.serialize_pem().as_bytes(), 0o600).map_err(at(&path))?;
        Ok(key)
    }

    fn forget_key(&self) -> Result<(), BootstrapError> {
        let path = self.cert_dir.join(KEY);
        files::remove(&path).map_err(at(&path))
    }

    fn keep(&self, certificate: &[u8], key: &KeyPair) -> Result<PathBuf, BootstrapError> {
        let kept = Store::new(&self.cert_dir, &Purpose::Client).keep(certificate, key);
        kept.map_err(|(path, source)| BootstrapError::File { path, source })
    }
}

/// The key of a request that has no certificate yet.
const KEY: &str = "kubelet-client.key.tmp";

fn at(path: &Path) -> impl FnOnce(io::Error) -> BootstrapError {
    let path = path.to_owned();
    |source| BootstrapError::File { path, source }
}

/// As kubeadm's nodes have it.
fn kubeconfig(from: &Kubeconfig, current: &Path) -> String {
    let ca = match &from.ca {
        Some(Source::File(path)) => format!("    certificate-authority: {}\n", path.display()),
        Some(Source::Data(data)) => format!("    certificate-authority-data: {}\n", STANDARD.encode(data)),
        None => String::new(),
    };
    let name = from.server_name.as_ref().map(|name| format!("    tls-server-name: {name}\n")).unwrap_or_default();
    let (server, current) = (&from.server, current.display());
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default-cluster\n  cluster:\n    server: {server}\n{ca}{name}\
         contexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    namespace: default\n    \
         user: default-auth\ncurrent-context: default-context\nusers:\n- name: default-auth\n  user:\n    \
         client-certificate: {current}\n    client-key: {current}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let bootstrap = Bootstrap {
            from: dir.path().join("bootstrap.conf"),
            kubeconfig: dir.path().join("kubelet.conf"),
            cert_dir: dir.path().join("pki"),
            node: "n1".into(),
        };
        files::make_dir(&bootstrap.cert_dir, 0o700).unwrap();
        let key = bootstrap.key().unwrap();
        assert_eq!(bootstrap.key().unwrap().serialize_pem(), key.serialize_pem(), "a second try has the same key");
        let current = bootstrap.keep(b"certificate", &key).unwrap();
        let current =
            bootstrap.keep(b"certificate 2", &key).map(|again| assert_eq!(again, current)).map(|()| current).unwrap();
        assert!(std::fs::read_to_string(&current).unwrap().starts_with("certificate 2\n-----BEGIN"));
        let from = Kubeconfig {
            server: "https://192.0.2.1:6443".into(),
            ca: Some(Source::Data(b"CA".to_vec())),
            server_name: None,
            user: crate::api::User::default(),
            namespace: "default".into(),
            unverified: false,
        };
        files::write(&bootstrap.kubeconfig, kubeconfig(&from, &current).as_bytes(), 0o600).unwrap();
        let read = Kubeconfig::load(&bootstrap.kubeconfig).unwrap();
        assert_eq!((read.server, read.ca), (from.server, from.ca));
        assert_eq!(read.user.certificate, Some((Source::File(current.clone()), Source::File(current))));
        assert!(keeps_client_certificate(&bootstrap.kubeconfig, &bootstrap.cert_dir));
        assert!(!keeps_client_certificate(&bootstrap.kubeconfig, dir.path()));
        assert_eq!(Bootstrap::pending_in(&bootstrap.cert_dir), Some(name_of(&key)));
        bootstrap.forget_key().unwrap();
        assert_eq!(Bootstrap::pending_in(&bootstrap.cert_dir), None);
    }

    #[test]
    fn a_certificate_is_missing_good_or_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let at = |year: i32| format!("{year}-06-01T00:00:00Z").parse::<Timestamp>().unwrap();
        let kubeconfig_path = dir.path().join("kubelet.conf");
        assert_eq!(Credentials::of(&kubeconfig_path, at(2026)), Credentials::Missing);
        let from = Kubeconfig {
            server: "https://192.0.2.1:6443".into(),
            ca: None,
            server_name: None,
            user: crate::api::User::default(),
            namespace: "default".into(),
            unverified: false,
        };
        let store = Store::new(dir.path(), &Purpose::Client);
        std::fs::write(&kubeconfig_path, kubeconfig(&from, &store.current())).unwrap();
        assert_eq!(Credentials::of(&kubeconfig_path, at(2026)), Credentials::Missing, "the link is not there yet");
        let key = KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        store.keep(params.self_signed(&key).unwrap().pem().as_bytes(), &key).unwrap();
        assert_eq!(Credentials::of(&kubeconfig_path, at(2029)), Credentials::Good);
        assert_eq!(Credentials::of(&kubeconfig_path, at(2031)), Credentials::Ended);
    }
}

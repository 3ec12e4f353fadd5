//! A client certificate of our own, in exchange for a bootstrap token: asked for once, by a certificate signing request.
//!
//! Key first, then request, certificate, link, kubeconfig: each is on disk before the next begins, so that an agent that is
//! killed in between goes on with the same request.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::pods::feed;
use crate::api::{ApiError, Client, CredentialsError, Kubeconfig, KubeconfigError, Set, Source, follow, path_of_all};
use crate::files;

/// Signs client certificates of nodes, where a controller approves them.
const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Servers before 1.27 insist on the second, which a key for elliptic curves has no use for; later ones allow it.
const USAGES: [&str; 3] = ["digital signature", "key encipherment", "client auth"];

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
    /// The API server does not take the request.
    #[error("asking for a client certificate for the node {node}; is the bootstrap token still valid?")]
    Refused {
        /// The node.
        node: String,
        /// What the API server says.
        source: ApiError,
    },
    /// Somebody said no.
    #[error("the certificate signing request {name} was {word}: {message}; delete it to ask again")]
    Denied {
        /// The request.
        name: String,
        /// `Denied` or `Failed`.
        word: String,
        /// Why.
        message: String,
    },
    /// A file could not be written or read.
    #[error("keeping {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The key or the request could not be made.
    #[error("making a key and a certificate signing request")]
    Key(#[from] rcgen::Error),
    /// The agent is stopping.
    #[error("the agent stopped before the certificate came")]
    Stopped,
}

impl Bootstrap {
    /// Gets a certificate and writes the kubeconfig that uses it. Waits for the approval for as long as it takes.
    ///
    /// # Errors
    /// [`BootstrapError`]; a second try goes on where this one ended.
    pub async fn run(&self) -> Result<(), BootstrapError> {
        let from = Kubeconfig::load(&self.from)?;
        let client = Client::new(from.clone())?;
        make_dir(&self.cert_dir)?;
        let key = self.key()?;
        let name = self.request(&client, &key).await?;
        info!("waiting for the certificate signing request {name} to be approved (kubectl certificate approve {name})");
        let certificate = issued(&client, &name).await?;
        let current = self.keep(&certificate, &key)?;
        write(&self.kubeconfig, kubeconfig(&from, &current).as_bytes())?;
        remove(&self.key_path())
    }

    fn key_path(&self) -> PathBuf {
        self.cert_dir.join("kubelet-client.key.tmp")
    }

    /// The key of a former try, so that its request is found again.
    fn key(&self) -> Result<KeyPair, BootstrapError> {
        let path = self.key_path();
        let former = std::fs::read_to_string(&path).ok().and_then(|pem| KeyPair::from_pem(&pem).ok());
        if let Some(key) = former {
            return Ok(key);
        }
        let key = KeyPair::generate()?;
        write(&path, key.serialize_pem().as_bytes())?;
        Ok(key)
    }

    async fn request(&self, client: &Client, key: &KeyPair) -> Result<String, BootstrapError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{}", self.node));
        let pem = params.serialize_request(key)?.pem()?;
        let hash = Sha256::digest(key.subject_public_key_info());
        let name = hash.iter().take(16).fold("node-csr-".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let request = CertificateSigningRequest {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: SIGNER.to_owned(),
                usages: Some(USAGES.map(str::to_owned).to_vec()),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        let path = path_of_all::<CertificateSigningRequest>(None);
        match client.create::<_, CertificateSigningRequest>(&path, &request).await {
            Ok(_) => Ok(name),
            // The name is that of the key: it is our own request of a former try.
            Err(error) if error.is_already_there() => Ok(name),
            Err(source) => Err(BootstrapError::Refused { node: self.node.clone(), source }),
        }
    }

    /// Certificate and key in one file, and a link that says which is in use.
    fn keep(&self, certificate: &[u8], key: &KeyPair) -> Result<PathBuf, BootstrapError> {
        let now = Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let file = format!("kubelet-client-{now}.pem");
        let both = [certificate, b"\n", key.serialize_pem().as_bytes()].concat();
        write(&self.cert_dir.join(&file), &both)?;
        let (link, fresh) = (self.cert_dir.join("kubelet-client-current.pem"), self.cert_dir.join(".current.tmp"));
        remove(&fresh)?;
        let made = std::os::unix::fs::symlink(&file, &fresh).and_then(|()| std::fs::rename(&fresh, &link));
        made.map_err(|source| BootstrapError::File { path: link.clone(), source })?;
        Ok(link)
    }
}

async fn issued(client: &Client, name: &str) -> Result<Vec<u8>, BootstrapError> {
    let stop = CancellationToken::new();
    let _ended = stop.clone().drop_guard();
    let mut sets =
        follow(client.clone(), feed::<CertificateSigningRequest>(Some(format!("metadata.name={name}"))), stop);
    let answer = sets.wait_for(|sets| decided(sets).is_some()).await.map(|sets| decided(&sets));
    answer.ok().flatten().unwrap_or(Err(BootstrapError::Stopped))
}

fn decided(sets: &Option<Arc<Set<CertificateSigningRequest>>>) -> Option<Result<Vec<u8>, BootstrapError>> {
    let request = sets.as_ref()?.values().next()?;
    let status = request.status.as_ref()?;
    if let Some(certificate) = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()) {
        return Some(Ok(certificate.0.clone()));
    }
    let no = status.conditions.iter().flatten().find(|one| matches!(one.type_.as_str(), "Denied" | "Failed"))?;
    Some(Err(BootstrapError::Denied {
        name: request.metadata.name.clone().unwrap_or_default(),
        word: no.type_.clone(),
        message: no.message.clone().or_else(|| no.reason.clone()).unwrap_or_default(),
    }))
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

fn make_dir(path: &Path) -> Result<(), BootstrapError> {
    files::make_dir(path, 0o700).map_err(|source| BootstrapError::File { path: path.to_owned(), source })
}

/// Whole or not at all, and for us alone.
fn write(path: &Path, bytes: &[u8]) -> Result<(), BootstrapError> {
    files::write(path, bytes, 0o600).map_err(|source| BootstrapError::File { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), BootstrapError> {
    files::remove(path).map_err(|source| BootstrapError::File { path: path.to_owned(), source })
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
        make_dir(&bootstrap.cert_dir).unwrap();
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
        };
        write(&bootstrap.kubeconfig, kubeconfig(&from, &current).as_bytes()).unwrap();
        let read = Kubeconfig::load(&bootstrap.kubeconfig).unwrap();
        assert_eq!((read.server, read.ca), (from.server, from.ca));
        assert_eq!(read.user.certificate, Some((Source::File(current.clone()), Source::File(current))));
    }
}

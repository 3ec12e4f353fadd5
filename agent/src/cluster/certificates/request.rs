use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::pods::feed;
use super::purpose::Purpose;
use crate::api::{ApiError, Client, Set, follow, path_of_all};

/// How a request is called.
pub(crate) enum Name {
    /// By its key: a second try finds it again.
    OfKey,
    /// As the API server likes.
    Any,
}

/// There is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server does not take the request.
    #[error("sending a certificate signing request")]
    Refused(#[source] ApiError),
    /// Somebody said no.
    #[error("the certificate signing request {name} was {word}: {message}")]
    Denied {
        /// The request.
        name: String,
        /// `Denied` or `Failed`.
        word: String,
        /// Why.
        message: String,
    },
    /// Nobody said anything.
    #[error("the certificate signing request {name} was not approved within {} s (kubectl certificate approve {name})", within.as_secs())]
    NotApproved {
        /// The request.
        name: String,
        /// How long was waited.
        within: Duration,
    },
    /// The request could not be made.
    #[error("making a key and a certificate signing request")]
    Key(#[from] rcgen::Error),
    /// The agent is stopping.
    #[error("the agent stopped before the certificate came")]
    Stopped,
}

/// `node-csr-<hash>`, always the same of one key.
pub(crate) fn name_of(key: &KeyPair) -> String {
    let hash = Sha256::digest(key.subject_public_key_info());
    hash.iter().take(16).fold("node-csr-".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Sends a request and waits for its certificate, PEM.
pub(crate) async fn ask(
    client: &Client,
    purpose: &Purpose,
    (node, key): (&str, &KeyPair),
    name: Name,
    within: Duration,
) -> Result<Vec<u8>, RequestError> {
    let own = matches!(name, Name::OfKey).then(|| name_of(key));
    let request = CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: own.is_none().then(|| "csr-".to_owned()),
            name: own.clone(),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(purpose.csr(node, key)?.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(purpose.usages().map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let path = path_of_all::<CertificateSigningRequest>(None);
    let name = match (client.create::<_, CertificateSigningRequest>(&path, &request).await, own) {
        (Ok(created), _) => created.metadata.name.unwrap_or_default(),
        // The name is that of the key: it is our own request of a former try.
        (Err(error), Some(name)) if error.is_already_there() => name,
        (Err(error), _) => return Err(RequestError::Refused(error)),
    };
    info!("waiting for the certificate signing request {name} to be approved (kubectl certificate approve {name})");
    let answer = timeout(within, issued(client, &name)).await;
    answer.unwrap_or(Err(RequestError::NotApproved { name, within }))
}

async fn issued(client: &Client, name: &str) -> Result<Vec<u8>, RequestError> {
    let stop = CancellationToken::new();
    let _ended = stop.clone().drop_guard();
    let mut sets =
        follow(client.clone(), feed::<CertificateSigningRequest>(Some(format!("metadata.name={name}"))), stop);
    let answer = sets.wait_for(|sets| decided(sets).is_some()).await.map(|sets| decided(&sets));
    answer.ok().flatten().unwrap_or(Err(RequestError::Stopped))
}

fn decided(sets: &Option<Arc<Set<CertificateSigningRequest>>>) -> Option<Result<Vec<u8>, RequestError>> {
    let request = sets.as_ref()?.values().next()?;
    let status = request.status.as_ref()?;
    if let Some(certificate) = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty()) {
        return Some(Ok(certificate.0.clone()));
    }
    let no = status.conditions.iter().flatten().find(|one| matches!(one.type_.as_str(), "Denied" | "Failed"))?;
    Some(Err(RequestError::Denied {
        name: request.metadata.name.clone().unwrap_or_default(),
        word: no.type_.clone(),
        message: no.message.clone().or_else(|| no.reason.clone()).unwrap_or_default(),
    }))
}

//! Tokens of service accounts: which of them a pod's volumes hold, and the seam to whoever issues them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};

use super::SetUpError;
use super::payload::{File, Payload, check_path, plain};
use super::readers::access;
use crate::names::{ObjectName, PodUid};

/// One token: two volumes that ask for the same are given the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenWanted {
    /// The pod that it is bound to: when that is deleted, it is no longer valid.
    pub pod: ObjectName,
    /// The pod's uid; another pod of this name is another one.
    pub uid: PodUid,
    /// The service account, in the pod's namespace.
    pub account: String,
    /// Who accepts it; the API server itself where it is empty.
    pub audience: String,
    /// How long it should be valid, in seconds. The issuer may say otherwise.
    pub seconds: i64,
}

/// A secret that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    /// Never the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Issues tokens, and keeps them for as long as they are fresh. A node of its own has nobody who does.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A token that is valid; a new one where the last is due. Answers within a bound of its own.
    ///
    /// # Errors
    /// Why there is none, in the kubelet's words.
    async fn token(&self, wanted: &TokenWanted) -> Result<Token, String>;
}

/// What was issued, or why not; nothing where nobody issues.
pub(super) type Issued = BTreeMap<TokenWanted, Result<Token, String>>;

/// Asks for every token that the pod's volumes hold.
pub(super) async fn issue(tokens: Option<&dyn Tokens>, pod: &Pod, uid: &PodUid) -> Issued {
    let mut issued = Issued::new();
    let (Some(tokens), Some(spec)) = (tokens, &pod.spec) else { return issued };
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = volumes.flat_map(|projected| projected.sources.iter().flatten());
    let sources = sources.filter_map(|source| source.service_account_token.as_ref());
    let all: BTreeSet<_> = sources.map(|source| wanted(source, pod, uid)).collect();
    for wanted in all {
        let token = tokens.token(&wanted).await;
        issued.insert(wanted, token);
    }
    issued
}

fn wanted(source: &ServiceAccountTokenProjection, pod: &Pod, uid: &PodUid) -> TokenWanted {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    TokenWanted {
        pod: ObjectName::new(namespace, pod.metadata.name.as_deref().unwrap_or_default()),
        uid: uid.clone(),
        account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
        audience: source.audience.clone().unwrap_or_default(),
        seconds: source.expiration_seconds.unwrap_or(3_600),
    }
}

/// The file of one token.
pub(super) fn payload(
    source: &ServiceAccountTokenProjection,
    default_mode: Option<i32>,
    pod: &Pod,
    issued: &Issued,
) -> Result<Payload, SetUpError> {
    let nobody = || SetUpError::Unsupported("a serviceAccountToken needs an API server to issue it".to_owned());
    let uid = pod.metadata.uid.clone().and_then(|uid| PodUid::try_from(uid).ok()).ok_or_else(nobody)?;
    let token = issued.get(&wanted(source, pod, &uid)).ok_or_else(nobody)?;
    let Token(token) = token.as_ref().map_err(|why| SetUpError::Token(why.clone()))?;
    check_path(&source.path)?;
    let (mode, owner) = access(default_mode, pod.spec.as_ref());
    Ok(Payload::from([(plain(&source.path), File { mode, owner, bytes: token.clone().into_bytes() })]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        assert_eq!(format!("{:?}", Token("eyJ.secret".into())), "Token(…)");
    }
}

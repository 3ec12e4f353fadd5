//! `kube-public/cluster-info`: where the cluster is and which authority it has, signed with the secrets of its tokens.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;

use super::pin::Pins;
use super::token::Token;
use crate::api::{Kubeconfig, Source};

/// The key of the ConfigMap that is signed.
const KUBECONFIG: &str = "kubeconfig";
/// Before the id of the token that a signature was made with.
const SIGNATURE: &str = "jws-kubeconfig-";

/// A cluster that is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// `https://host:port`.
    pub server: String,
    /// Its authority, PEM.
    pub ca: Vec<u8>,
}

/// How the answer is proved.
#[derive(Clone, Copy, Debug)]
pub struct SignedBy<'a> {
    /// It is signed with this token's secret.
    pub token: &'a Token,
    /// Its authority is one of these.
    pub pins: &'a Pins,
}

/// Why what was answered is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterInfoError {
    /// No signature with this token: it is new, expired, or not for this.
    #[error(
        "cluster-info is not signed with the token {id}; it is signed with: {known}. Has the token expired, or does it lack \
         usage-bootstrap-signing? (kubeadm token list; kubeadm token create makes another one)"
    )]
    NotSigned {
        /// The token's id.
        id: String,
        /// Ids that there are signatures of.
        known: String,
    },
    /// The signature is somebody else's.
    #[error(
        "the signature of cluster-info is not that of the token {id}: the second half of the token is wrong, or somebody else answered"
    )]
    WrongSignature {
        /// The token's id.
        id: String,
    },
    /// Not an authority that was pinned.
    #[error(
        "the cluster's CA is {found}, which is none of the given hashes: this is another cluster, its CA was replaced, or somebody is in between"
    )]
    WrongAuthority {
        /// The pins of what was found.
        found: String,
    },
    /// It says nothing that can be used.
    #[error("cluster-info cannot be used: {problem}")]
    Unusable {
        /// What is wrong.
        problem: String,
    },
}

impl ClusterInfoError {
    /// Whether it may be otherwise in a moment: signatures of new tokens come within seconds.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NotSigned { .. })
    }
}

/// The cluster of a ConfigMap's data that anybody may have sent.
///
/// # Errors
/// [`ClusterInfoError`] when it is not proved to be the right one.
pub fn verify(data: &BTreeMap<String, String>, by: SignedBy<'_>) -> Result<Cluster, ClusterInfoError> {
    let kubeconfig = data.get(KUBECONFIG).ok_or_else(|| unusable(format!("it has no {KUBECONFIG}")))?;
    check_signature(data, kubeconfig, by.token)?;
    let cluster = cluster(kubeconfig)?;
    let authorities = certificates(&cluster.ca)?;
    by.pins.check(&authorities).map_err(|found| ClusterInfoError::WrongAuthority { found: found.join(", ") })?;
    Ok(cluster)
}

fn unusable(problem: impl Into<String>) -> ClusterInfoError {
    ClusterInfoError::Unusable { problem: problem.into() }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// A detached JWS (RFC 7515, appendix F): `<header>..<signature>`, HS256 with the token's secret.
fn check_signature(data: &BTreeMap<String, String>, content: &str, token: &Token) -> Result<(), ClusterInfoError> {
    let Some(signature) = data.get(&format!("{SIGNATURE}{}", token.id())) else {
        let known: Vec<_> = data.keys().filter_map(|key| key.strip_prefix(SIGNATURE)).collect();
        let known = if known.is_empty() { "no token at all".to_owned() } else { known.join(", ") };
        return Err(ClusterInfoError::NotSigned { id: token.id().to_owned(), known });
    };
    let wrong = || ClusterInfoError::WrongSignature { id: token.id().to_owned() };
    let (header, mac) = signature.split_once("..").ok_or_else(wrong)?;
    let decoded = URL_SAFE_NO_PAD.decode(header).map_err(|_| wrong())?;
    let said: Header = serde_json::from_slice(&decoded).map_err(|_| wrong())?;
    if said.alg != "HS256" || said.kid != token.id() {
        return Err(wrong());
    }
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| wrong())?;
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret().as_bytes());
    hmac::verify(&key, signed.as_bytes(), &mac).map_err(|_| wrong())
}

/// The one cluster of a kubeconfig that has neither users nor contexts.
fn cluster(kubeconfig: &str) -> Result<Cluster, ClusterInfoError> {
    let config = Kubeconfig::parse_cluster(kubeconfig, Path::new("/")).map_err(unusable)?;
    match config.ca {
        Some(Source::Data(ca)) => Ok(Cluster { server: config.server, ca }),
        _ => Err(unusable("it has no certificate-authority-data")),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClusterInfoError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(unusable("its certificate authority cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::super::pin::Pin;
    use super::*;

    /// A kubeconfig as kubeadm puts it there, and its pin.
    fn info() -> (String, Pin) {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let text = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://192.0.2.1:6443\n  name: \"\"\ncontexts: null\nkind: Config\nusers: null\n",
            STANDARD.encode(ca.pem())
        );
        (text, Pin::of(ca.der()).unwrap())
    }

    fn sign(content: &str, header: &str, secret: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(header);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mac = hmac::sign(&key, format!("{header}.{}", URL_SAFE_NO_PAD.encode(content)).as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(mac))
    }

    fn data(content: &str, signature: String) -> BTreeMap<String, String> {
        BTreeMap::from([("kubeconfig".into(), content.into()), ("jws-kubeconfig-abcdef".into(), signature)])
    }

    const HEADER: &str = r#"{"alg":"HS256","kid":"abcdef"}"#;
    const SECRET: &str = "0123456789abcdef";

    #[test]
    fn the_signature_is_the_one_that_the_cluster_makes() {
        // As kube-controller-manager signs the text «foo» with this token.
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        let signature = sign("foo", HEADER, SECRET);
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        let data = BTreeMap::from([("jws-kubeconfig-abcdef".to_owned(), signature)]);
        assert_eq!(check_signature(&data, "foo", &token), Ok(()));
        assert!(check_signature(&data, "fop", &token).is_err());
    }

    #[test]
    fn a_cluster_is_believed_by_signature_and_pin_together() {
        let (content, pin) = info();
        let token: Token = format!("abcdef.{SECRET}").parse().unwrap();
        let pins = Pins::OneOf(vec![pin]);
        let by = SignedBy { token: &token, pins: &pins };
        let good = data(&content, sign(&content, HEADER, SECRET));
        assert_eq!(verify(&good, by).unwrap().server, "https://192.0.2.1:6443");

        let stranger: Token = "aaaaaa.0123456789abcdef".parse().unwrap();
        let said = verify(&good, SignedBy { token: &stranger, pins: &pins }).unwrap_err();
        assert!(said.may_pass() && said.to_string().contains("it is signed with: abcdef"), "{said}");

        for (header, secret) in [
            (HEADER, "fedcba9876543210"),
            (r#"{"alg":"none","kid":"abcdef"}"#, SECRET),
            (r#"{"alg":"HS256","kid":"bbbbbb"}"#, SECRET),
            ("{}", SECRET),
        ] {
            let said = verify(&data(&content, sign(&content, header, secret)), by).unwrap_err();
            assert_eq!(said, ClusterInfoError::WrongSignature { id: "abcdef".into() }, "{header}");
            assert!(!said.to_string().contains(secret));
        }
        let cut = data(&content, "..".into());
        assert!(matches!(verify(&cut, by), Err(ClusterInfoError::WrongSignature { .. })));

        let other = Pins::OneOf(vec![format!("sha256:{}", "1".repeat(64)).parse().unwrap()]);
        let said = verify(&good, SignedBy { token: &token, pins: &other }).unwrap_err();
        assert!(matches!(said, ClusterInfoError::WrongAuthority { .. }), "{said}");
        assert!(verify(&good, SignedBy { token: &token, pins: &Pins::Any }).is_ok());
        assert!(matches!(verify(&BTreeMap::new(), by), Err(ClusterInfoError::Unusable { .. })));
    }
}

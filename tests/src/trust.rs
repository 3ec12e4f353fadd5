//! Certificates and tokens that a test's registry believes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// An authority and a certificate of it for `localhost`, in files.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn make(folder: &Path) -> Result<Self> {
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate()?;
        let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| -> Result<PathBuf> {
            std::fs::write(folder.join(name), text)?;
            Ok(folder.join(name))
        };
        Ok(Self {
            ca: write("ca.pem", authority_certificate.pem())?,
            certificate: write("server.pem", server.pem())?,
            key: write("server.key", key.serialize_pem())?,
        })
    }
}

/// Signs tokens as a registry's token server does.
pub struct TokenSigner {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}

impl TokenSigner {
    /// With a fresh key.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new() -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["token.test".to_owned()])?.self_signed(&key)?;
        Ok(Self { key, certificate })
    }

    /// The certificate that a registry must trust.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// A token that allows to pull one repository.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn token(&self, service: &str, repository: &str) -> Result<String> {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        use rcgen::SigningKey as _;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.certificate.der())]});
        let claims = json!({"iss": "longshore test", "sub": "ann", "aud": service, "exp": now + 300, "nbf": now - 10,
            "iat": now, "jti": "1", "access": [{"type": "repository", "name": repository, "actions": ["pull"]}]});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = raw_signature(&self.key.sign(signed.as_bytes())?).context("a signature of another form")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The two numbers of a DER signature, 32 bytes each.
fn raw_signature(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.get(2..)?;
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + length)?;
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        raw.extend(std::iter::repeat_n(0, 32usize.checked_sub(digits.len())?));
        raw.extend_from_slice(digits);
        rest = &rest[2 + length..];
    }
    Some(raw)
}

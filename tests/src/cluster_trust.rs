//! The certificates and keys of a control plane under test.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};

/// The cluster's authority, its files in one folder: `ca.crt`, `ca.key`, `server.crt`, `server.key`, `sa.pub`, `sa.key`.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// `sha256:…` of its public key.
    pub pin: String,
}

impl Authority {
    /// Makes everything in `folder`.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn make(folder: &Path) -> Result<Self> {
        let mut params = params("kubernetes", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        std::fs::write(folder.join("ca.crt"), certificate.pem())?;
        std::fs::write(folder.join("ca.key"), key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        std::fs::write(folder.join("sa.key"), accounts.serialize_pem())?;
        std::fs::write(folder.join("sa.pub"), accounts.public_key_pem())?;
        let pin = pin(&key.subject_public_key_info());
        let made = Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), pin };
        made.renew_server()?;
        Ok(made)
    }

    /// Another certificate for the API server.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn renew_server(&self) -> Result<()> {
        let names = ["192.0.2.1", "10.96.0.1", "127.0.0.1", "localhost", "kubernetes.default.svc"];
        let (certificate, key) = self.server("kube-apiserver", &names)?;
        std::fs::write(self.folder.join("server.crt"), certificate)?;
        Ok(std::fs::write(self.folder.join("server.key"), key)?)
    }

    /// Certificate and key of a server that is reached by these names and addresses.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn server(&self, name: &str, names: &[&str]) -> Result<(String, String)> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// Certificate and key of a user.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<(String, String)> {
        self.client_with(params(user, group)?)
    }

    /// The same, good until the year 2020.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn ended_client(&self, user: &str, group: &str) -> Result<(String, String)> {
        let mut params = params(user, Some(group))?;
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.client_with(params)
    }

    fn client_with(&self, mut params: CertificateParams) -> Result<(String, String)> {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// The authority's certificate as kubeconfigs hold it.
    #[must_use]
    pub fn certificate_base64(&self) -> String {
        STANDARD.encode(std::fs::read(self.folder.join("ca.crt")).unwrap_or_default())
    }
}

fn params(user: &str, group: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new()).context("parameters of a certificate")?;
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    Ok(params)
}

fn pin(public_key: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(public_key);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

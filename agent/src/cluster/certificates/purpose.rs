use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The node towards the API server.
    Client,
    /// The node towards whoever calls its own API, at these addresses.
    Serving(Vec<IpAddr>),
}

impl Purpose {
    /// How its files are called.
    pub(super) fn file(&self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Serving(_) => "kubelet-server",
        }
    }

    /// Who signs it.
    pub(super) fn signer(&self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving(_) => "kubernetes.io/kubelet-serving",
        }
    }

    /// Servers before 1.27 insist on the second, which a key for elliptic curves has no use for; later ones allow it.
    pub(super) fn usages(&self) -> [&'static str; 3] {
        let last = match self {
            Self::Client => "client auth",
            Self::Serving(_) => "server auth",
        };
        ["digital signature", "key encipherment", last]
    }

    /// The request for `node`, PEM.
    pub(super) fn csr(&self, node: &str, key: &KeyPair) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        if let Self::Serving(addresses) = self {
            let mut addresses = addresses.clone();
            addresses.sort();
            params.subject_alt_names = vec![SanType::DnsName(node.try_into()?)];
            params.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        }
        params.serialize_request(key)?.pem()
    }
}

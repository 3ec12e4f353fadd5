//! Who asks, and the names in a client's certificate.

use std::collections::BTreeMap;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::der::{SEQUENCE, take};

/// A user as the API server knows users.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

const AUTHENTICATED: &str = "system:authenticated";

impl User {
    pub(super) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    /// The common name is the user, organisations are groups. `None` when the certificate names nobody.
    pub(super) fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let subject = Subject::parse(parsed.subject())?;
        let name = subject.common_name.filter(|name| !name.is_empty())?;
        let hash = Sha256::digest(certificate);
        let hash = hash.iter().fold("X509SHA256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let extra = BTreeMap::from([("authentication.kubernetes.io/credential-id".to_owned(), vec![hash])]);
        Some(Self { name, uid: String::new(), groups: subject.organisations, extra }.authenticated())
    }

    /// With the group of everybody who is known.
    pub(super) fn authenticated(mut self) -> Self {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// What counts of a distinguished name. With several common names the last one does, as in Go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Subject {
    common_name: Option<String>,
    organisations: Vec<String>,
}

/// id-at-commonName and id-at-organizationName: 2.5.4.3 and 2.5.4.10.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

const OID: u8 = 0x06;
const UTF8: u8 = 0x0c;
const PRINTABLE: u8 = 0x13;
const IA5: u8 = 0x16;
const SET: u8 = 0x31;

impl Subject {
    /// The inside of an X.501 Name (RFC 5280, 4.1.2.4), which webpki hands out as it is. A name that cannot be read whole
    /// is nobody's: half of the groups could be more than all of them.
    fn parse(mut name: &[u8]) -> Option<Self> {
        let mut subject = Self::default();
        while !name.is_empty() {
            let mut attributes = take(&mut name, SET)?;
            while !attributes.is_empty() {
                let mut attribute = take(&mut attributes, SEQUENCE)?;
                let kind = take(&mut attribute, OID)?;
                match kind {
                    COMMON_NAME => subject.common_name = Some(text(attribute)?),
                    ORGANISATION => subject.organisations.push(text(attribute)?),
                    _ => {}
                }
            }
        }
        Some(subject)
    }
}

fn text(mut value: &[u8]) -> Option<String> {
    let tag = *value.first().filter(|tag| [UTF8, PRINTABLE, IA5].contains(*tag))?;
    let text = std::str::from_utf8(take(&mut value, tag)?).ok()?;
    (value.is_empty() && !text.contains('\0') && (tag == UTF8 || text.is_ascii())).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_its_user_and_groups() {
        let long = "x".repeat(300);
        let given = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "system:masters"),
            (DnType::CommonName, long.as_str()),
        ];
        let user = User::of_certificate(&certificate(&given)).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            (&*long, &["system:masters".to_owned(), AUTHENTICATED.to_owned()][..])
        );
        assert!(user.extra.values().flatten().all(|id| id.starts_with("X509SHA256=") && id.len() == 11 + 64));
        assert_eq!(User::of_certificate(&certificate(&[(DnType::OrganizationName, "system:masters")])), None);
    }

    #[test]
    fn a_name_that_cannot_be_read_whole_is_nobodys() {
        let attribute = |kind: &[u8], tag: u8, value: &[u8]| {
            let short = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
            let inner = [&[OID, short(kind)], kind, &[tag, short(value)], value].concat();
            let sequence = [&[SEQUENCE, short(&inner)], inner.as_slice()].concat();
            [&[SET, short(&sequence)], sequence.as_slice()].concat()
        };
        let root = attribute(COMMON_NAME, UTF8, b"root");
        let both = [attribute(COMMON_NAME, UTF8, b"a"), attribute(COMMON_NAME, PRINTABLE, b"b")].concat();
        assert_eq!(Subject::parse(&both).unwrap().common_name.as_deref(), Some("b"));
        for cut in 1..root.len() {
            assert_eq!(Subject::parse(&root[..cut]), None, "{cut}");
        }
        for bad in [
            attribute(COMMON_NAME, UTF8, b"ro\0ot"),
            attribute(COMMON_NAME, UTF8, b"\xff"),
            attribute(COMMON_NAME, PRINTABLE, "ö".as_bytes()),
            attribute(COMMON_NAME, 0x1e, b"\0r\0o"),
            vec![SET, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Subject::parse(&[root.clone(), bad].concat()), None);
        }
    }
}

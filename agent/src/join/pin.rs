use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::der;

/// What an authority's public key must hash to: `sha256:<hex>` of its SubjectPublicKeyInfo.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Text that is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the hash of a CA's public key: sha256: and 64 hexadecimal digits")]
pub struct BadPin(String);

impl Pin {
    /// That of a certificate; `None` for what is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        Some(Self(Sha256::digest(der::public_key(certificate)?).into()))
    }
}

impl FromStr for Pin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let bad = || BadPin(text.to_owned());
        let hex =
            text.trim().strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.is_ascii()).ok_or_else(bad)?;
        let mut hash = [0; 32];
        for (index, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which authorities are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    /// One of these.
    OneOf(Vec<Pin>),
    /// Any: who knows the token's secret can be anybody.
    Any,
}

impl Pins {
    /// Whether each of these authorities is one that is pinned.
    ///
    /// # Errors
    /// The pins of those that are not.
    pub(super) fn check(&self, authorities: &[CertificateDer<'_>]) -> Result<(), Vec<String>> {
        let Self::OneOf(pins) = self else { return Ok(()) };
        let strange = |authority: &CertificateDer<'_>| match Pin::of(authority) {
            Some(pin) if pins.contains(&pin) => None,
            Some(pin) => Some(pin.to_string()),
            None => Some("a certificate that cannot be read".to_owned()),
        };
        let strangers: Vec<_> = authorities.iter().filter_map(strange).collect();
        if strangers.is_empty() { Ok(()) } else { Err(strangers) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_hash_of_the_public_key_info() {
        use rcgen::PublicKeyData;
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let pin = Pin::of(certificate.der()).unwrap();
        let expected: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
        assert_eq!(pin, Pin(expected));
        assert_eq!(pin.to_string().parse::<Pin>(), Ok(pin.clone()));
        let other: Pin = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let all = [certificate.der().clone()];
        assert_eq!(Pins::OneOf(vec![other.clone(), pin.clone()]).check(&all), Ok(()));
        assert_eq!(Pins::OneOf(vec![other]).check(&all), Err(vec![pin.to_string()]));
        assert_eq!(Pins::Any.check(&all), Ok(()));
        assert!(Pin::of(&CertificateDer::from(&[0x30, 0x82][..])).is_none());
    }

    #[test]
    fn what_is_no_pin_is_refused() {
        for text in ["", "sha256:", "sha256:00", "md5:00", &format!("sha256:{}", "g".repeat(64)), &"0".repeat(64)] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}

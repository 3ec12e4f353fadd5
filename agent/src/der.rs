//! As much of DER as a certificate's dates, key and names need; signatures are checked by rustls.
//!
//! `Certificate ::= SEQUENCE { tbs SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject, key, … }, … }`
//! (RFC 5280, 4.1).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The tag of a SEQUENCE.
pub(crate) const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The next element, its content apart: tag, content, and the whole of it.
fn next<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8], &'a [u8])> {
    let all: &'a [u8] = input;
    let (&tag, rest) = all.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A certificate's parts are never longer than three bytes can count.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((tag, content, &all[..all.len() - rest.len()]))
}

/// The content of the next element, which must have this tag.
pub(crate) fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(input).filter(|(found, ..)| *found == tag).map(|(_, content, _)| content)
}

/// What follows the issuer in a certificate: validity, subject, key.
fn behind_issuer(certificate: &[u8]) -> Option<&[u8]> {
    let mut input = certificate;
    let mut whole = take(&mut input, SEQUENCE)?;
    let mut tbs = take(&mut whole, SEQUENCE)?;
    if tbs.first() == Some(&VERSION) {
        take(&mut tbs, VERSION)?;
    }
    take(&mut tbs, INTEGER)?;
    take(&mut tbs, SEQUENCE)?;
    take(&mut tbs, SEQUENCE)?;
    Some(tbs)
}

/// SubjectPublicKeyInfo, as it stands in the certificate.
pub(crate) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let mut input = behind_issuer(certificate)?;
    take(&mut input, SEQUENCE)?;
    take(&mut input, SEQUENCE)?;
    next(&mut input).filter(|(tag, ..)| *tag == SEQUENCE).map(|(.., whole)| whole)
}

/// From when to when a certificate is good.
fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let mut input = behind_issuer(certificate)?;
    let mut dates = take(&mut input, SEQUENCE)?;
    Some((time(&mut dates)?, time(&mut dates)?))
}

/// That of the first certificate of a PEM text.
pub(crate) fn validity_of_pem(pem: &[u8]) -> Option<(Timestamp, Timestamp)> {
    validity(&CertificateDer::from_pem_slice(pem).ok()?)
}

/// `YYMMDDhhmmssZ` of 1950 to 2049, or `YYYYMMDDhhmmssZ`.
fn time(input: &mut &[u8]) -> Option<Timestamp> {
    let (tag, content, _) = next(input)?;
    let digits = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let (century, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (if digits < "5" { 2000 } else { 1900 }, digits),
        (GENERALIZED_TIME, 14) => (digits.get(..2)?.parse::<i16>().ok()? * 100, digits.get(2..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let year = century + i16::from(part(0)?);
    let date = DateTime::new(year, part(2)?, part(4)?, part(6)?, part(8)?, part(10)?, 0).ok()?;
    date.to_zoned(TimeZone::UTC).ok().map(|date| date.timestamp())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, date_time_ymd};

    use super::*;

    #[test]
    fn dates_and_key_of_a_certificate_are_found() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["n1".to_owned()]).unwrap();
        for (last, shown) in [(2049, "2049-12-31T00:00:00Z"), (2050, "2050-12-31T00:00:00Z")] {
            (params.not_before, params.not_after) = (date_time_ymd(2026, 11, 21), date_time_ymd(last, 12, 31));
            let certificate = params.self_signed(&key).unwrap();
            let (from, until) = validity(certificate.der()).unwrap();
            assert_eq!((from.to_string().as_str(), until.to_string().as_str()), ("2026-11-21T00:00:00Z", shown));
            assert_eq!(public_key(certificate.der()), Some(&*key.subject_public_key_info()));
            for cut in 0..certificate.der().len() {
                let _ = validity(&certificate.der()[..cut]);
                let _ = public_key(&certificate.der()[..cut]);
            }
        }
    }
}

use std::collections::HashSet;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};

use super::{Report, names, volume};

/// The API's limit for the text of one bundle.
const LARGEST: usize = 1 << 20;

pub(super) fn cluster_trust_bundle(bundle: &ClusterTrustBundle, report: &mut Report) {
    names::described(&bundle.metadata, report);
    let name = bundle.metadata.name.as_deref().unwrap_or_default();
    match bundle.spec.signer_name.as_deref().filter(|signer| !signer.is_empty()) {
        Some(signer) => {
            let prefix = format!("{}:", signer.replace('/', ":"));
            let rest = name.strip_prefix(&prefix).is_some_and(names::is_subdomain);
            report.check(rest, "metadata.name", || format!("{name:?} must be {prefix} and a name: it is {signer}'s"));
            report.check(names::is_signer(signer), "spec.signerName", || {
                format!("{signer:?} must be a domain and a name, such as example.com/internal")
            });
        }
        None => names::subdomain(name, "metadata.name", report),
    }
    text(&bundle.spec.trust_bundle, report);
}

/// Certificates and nothing else, each of them once.
fn text(text: &str, report: &mut Report) {
    let field = "spec.trustBundle";
    report.check(text.len() <= LARGEST, field, || "is larger than 1 MiB".to_owned());
    let mut seen = HashSet::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match section {
            Ok(section) => certificate(section, &mut seen, report),
            // The library's words quote bytes as numbers.
            Err(_) => return report.add(field, "is not PEM: a part is cut off, or is not base64"),
        }
    }
    report.check(!seen.is_empty(), field, || "holds no certificate".to_owned());
}

fn certificate((kind, bytes): (SectionKind, Vec<u8>), seen: &mut HashSet<Vec<u8>>, report: &mut Report) {
    let field = "spec.trustBundle";
    let number = seen.len() + 1;
    if kind != SectionKind::Certificate {
        return report.add(field, format!("holds something else than certificates after number {}", seen.len()));
    }
    let reads = RootCertStore::empty().add(CertificateDer::from(bytes.as_slice())).is_ok();
    report.check(reads, field, || format!("certificate {number} cannot be read"));
    report.check(seen.insert(bytes), field, || format!("certificate {number} is there already"));
}

/// Which bundles a projected volume takes.
pub(super) fn projection(source: &ClusterTrustBundleProjection, at: &str, report: &mut Report) {
    volume::path(&source.path, at, report);
    match (source.name.as_deref(), source.signer_name.as_deref()) {
        (Some(""), _) | (None, Some("")) | (None, None) => report.add(at, "needs a name, or a signerName"),
        (Some(_), Some(_)) => report.add(at, "has name and signerName; only one of them may be given"),
        (Some(_), None) => report.check(source.label_selector.is_none(), format!("{at}.labelSelector"), || {
            "is for signerName; a name is one bundle".to_owned()
        }),
        (None, Some(_)) => {}
    }
}

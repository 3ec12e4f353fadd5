//! Trust anchors of ClusterTrustBundles, as one file. Pure; the rules are the kubelet's (`pkg/kubelet/clustertrustbundle`).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::{ClusterTrustBundleProjection, PodSpec};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::SetUpError;
use super::payload::{File, Payload, check_path, plain};
use super::readers::access;
use crate::selectors::takes;
use crate::sources::Objects;

/// What all bundles of one source may come to. The API takes 1 MiB for one of them; whoever has several signers'
/// bundles stays far below this, and a tmpfs in the node's memory holds the file.
const LARGEST: usize = 16 << 20;
/// Of a line of PEM.
const COLUMNS: usize = 64;

/// The file of one source.
pub(super) fn payload(
    source: &ClusterTrustBundleProjection,
    default_mode: Option<i32>,
    spec: Option<&PodSpec>,
    objects: &Objects,
) -> Result<Payload, SetUpError> {
    check_path(&source.path)?;
    let (mode, owner) = access(default_mode, spec);
    let bytes = anchors(&chosen(source, objects)?)?;
    Ok(Payload::from([(plain(&source.path), File { mode, owner, bytes })]))
}

/// The bundles that a source means; none only where that is optional.
fn chosen<'a>(
    source: &ClusterTrustBundleProjection,
    objects: &'a Objects,
) -> Result<Vec<&'a ClusterTrustBundle>, SetUpError> {
    let all = &objects.cluster_trust_bundles;
    let (found, missing) = match (source.name.as_deref(), source.signer_name.as_deref()) {
        (Some(name), _) => {
            let missing = format!(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"{name}\" not found"
            );
            (all.get(name).map(AsRef::as_ref).into_iter().collect(), missing)
        }
        (None, Some(signer)) => {
            let missing = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
            let found = all.values().map(AsRef::as_ref).filter(|bundle| is_meant(source, signer, bundle));
            (found.collect::<Vec<_>>(), missing.to_owned())
        }
        (None, None) => {
            let message = "ClusterTrustBundle projection requires either name or signerName to be set";
            return Err(SetUpError::TrustBundle(message.to_owned()));
        }
    };
    match found.is_empty() && source.optional != Some(true) {
        true => Err(SetUpError::TrustBundle(missing)),
        false => Ok(found),
    }
}

/// Of that signer, with those labels. Without a selector none is, with an empty one all are.
fn is_meant(source: &ClusterTrustBundleProjection, signer: &str, bundle: &ClusterTrustBundle) -> bool {
    let labels = bundle.metadata.labels.clone().unwrap_or_default();
    bundle.spec.signer_name.as_deref() == Some(signer)
        && source.label_selector.as_ref().is_some_and(|selector| takes(selector, &labels))
}

/// Each certificate once, as plain PEM. Their order means nothing, and so that nobody relies on it, it is that of their
/// hashes: the same each time, and not the one they were written in.
fn anchors(bundles: &[&ClusterTrustBundle]) -> Result<Vec<u8>, SetUpError> {
    let size: usize = bundles.iter().map(|bundle| bundle.spec.trust_bundle.len()).sum();
    if size > LARGEST {
        return Err(SetUpError::TrustBundle(format!("the trust bundles are larger than {LARGEST} bytes together")));
    }
    let mut found = BTreeSet::new();
    for bundle in bundles {
        for certificate in CertificateDer::pem_slice_iter(bundle.spec.trust_bundle.as_bytes()) {
            let certificate = certificate.map_err(|error| unreadable(bundle, &error.to_string()))?;
            found.insert((hash(&certificate), certificate.to_vec()));
        }
    }
    Ok(found.iter().flat_map(|(_, certificate)| pem(certificate)).collect())
}

fn unreadable(bundle: &ClusterTrustBundle, error: &str) -> SetUpError {
    let name = bundle.metadata.name.as_deref().unwrap_or_default();
    SetUpError::TrustBundle(format!("while normalizing trust anchors: ClusterTrustBundle {name:?}: {error}"))
}

fn hash(certificate: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    certificate.hash(&mut hasher);
    hasher.finish()
}

fn pem(certificate: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(COLUMNS).flat_map(|line| [line, b"\n"].concat());
    let begin = b"-----BEGIN CERTIFICATE-----\n".iter().copied();
    begin.chain(lines).chain(b"-----END CERTIFICATE-----\n".iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    /// Nobody looks into a certificate here: any bytes are one.
    fn text(bytes: &[u8]) -> String {
        String::from_utf8(pem(bytes)).unwrap()
    }

    fn objects() -> Objects {
        let bundle = |name: &str, signer: &str, tier: &str, text: String| {
            let bundle = json!({"metadata": {"name": name, "labels": {"tier": tier}},
                "spec": {"signerName": signer, "trustBundle": text}});
            (name.to_owned(), Arc::new(serde_json::from_value(bundle).unwrap()))
        };
        let with_notes = format!("made by hand\n{}between\n{}", text(b"one"), text(b"two"));
        let bundles = [
            bundle("s:a", "s/x", "live", with_notes),
            bundle("s:b", "s/x", "live", text(b"two") + &text(b"three")),
            bundle("s:c", "s/x", "test", text(b"four")),
            bundle("broken", "s/y", "live", text(b"five").replace("Zm", "%%")),
        ];
        Objects { cluster_trust_bundles: bundles.into(), ..Objects::default() }
    }

    /// What the file holds: which of the bytes above, in alphabetical order.
    fn check(mut source: Value) -> String {
        source["path"] = json!("ca.pem");
        let source = serde_json::from_value(source).unwrap();
        match payload(&source, None, None, &objects()) {
            Ok(files) => {
                let bytes = &files["ca.pem"].bytes;
                let mut found: Vec<_> = CertificateDer::pem_slice_iter(bytes)
                    .map(|one| String::from_utf8(one.unwrap().to_vec()).unwrap())
                    .collect();
                found.sort();
                found.join(" ")
            }
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn anchors_are_those_of_a_name_or_of_a_signer_and_labels_each_once() {
        assert_eq!(check(json!({"name": "s:a"})), "one two");
        let labels = json!({"matchLabels": {"tier": "live"}});
        assert_eq!(check(json!({"signerName": "s/x", "labelSelector": labels})), "one three two");
        assert_eq!(check(json!({"signerName": "s/x", "labelSelector": {}})), "four one three two");
        let none = "! combination of signerName and labelSelector matched zero ClusterTrustBundles";
        assert_eq!(check(json!({"signerName": "s/x"})), none, "without a selector");
        assert_eq!(check(json!({"signerName": "s/z", "labelSelector": {}})), none);
        assert_eq!(check(json!({"signerName": "s/z", "labelSelector": {}, "optional": true})), "");
        assert_eq!(
            check(json!({"name": "s:z"})),
            "! while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"s:z\" not found"
        );
        assert_eq!(check(json!({"name": "s:z", "optional": true})), "");
        assert!(check(json!({"name": "broken"})).starts_with("! while normalizing trust anchors: ClusterTrustBundle"));
    }

    #[test]
    fn the_order_is_always_the_same_and_not_the_one_they_were_written_in() {
        let many: Vec<String> = (0..20).map(|n| text(format!("certificate {n}").as_bytes())).collect();
        let bundle = |text: String| -> ClusterTrustBundle {
            serde_json::from_value(json!({"metadata": {}, "spec": {"trustBundle": text}})).unwrap()
        };
        let (forth, back) = (bundle(many.concat()), bundle(many.iter().rev().cloned().collect()));
        let written = anchors(&[&forth]).unwrap();
        assert_eq!(written, anchors(&[&back, &forth]).unwrap());
        assert_ne!(written, many.concat().into_bytes());
        assert_eq!(written.len(), many.concat().len());
    }
}

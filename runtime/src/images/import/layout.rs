//! The OCI image layout: `index.json` names manifests, everything lies in `blobs/` by digest.

use std::collections::BTreeMap;

use super::files::Files;
use super::{Found, ImportError, Problem, blob_path, read_small};
use crate::images::digest::{Digest, Hasher};
use crate::images::manifest::{Descriptor, Document, MAX_CONFIG, MAX_MANIFEST, ManifestError, Platform, choose};
use crate::images::reference::ImageRef;
use crate::images::store::NewNames;

// An index in an index is an image for several platforms; one more for what nobody has thought of.
const MAX_DEPTH: u8 = 3;

pub(super) fn find(files: &Files, name: Option<&ImageRef>, platform: &Platform) -> Result<Vec<Found>, Problem> {
    let index = read_small(files, "index.json", MAX_MANIFEST)?;
    let Document::Index(entries) = Document::parse(&index)? else {
        return Err(ManifestError::Json(serde::de::Error::missing_field("manifests")).into());
    };
    // Entries of one name are one image for several platforms.
    let mut by_name: BTreeMap<Option<String>, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        by_name.entry(tag_of(&entry, name)).or_default().push(entry);
    }
    by_name.into_iter().map(|(tag, entries)| read_image(files, tag, &entries, name, platform)).collect()
}

/// The full name that the layout has for an entry. A bare tag, as skopeo writes it, needs the repository from `name`.
fn tag_of(entry: &Descriptor, name: Option<&ImageRef>) -> Option<String> {
    let full = entry.annotation("io.containerd.image.name");
    let short = entry.annotation("org.opencontainers.image.ref.name");
    let whole = |text: &str| text.parse::<ImageRef>().ok().map(|name| name.to_string());
    match (full, short, name) {
        (Some(full), _, _) => whole(full),
        (None, Some(short), _) if short.contains(['/', ':']) => whole(short),
        (None, Some(tag), Some(name)) => name.at_tag(tag).ok().map(|name| name.to_string()),
        _ => None,
    }
}

fn read_image(
    files: &Files,
    tag: Option<String>,
    entries: &[Descriptor],
    name: Option<&ImageRef>,
    platform: &Platform,
) -> Result<Found, Problem> {
    let mut names = NewNames::default();
    let repository = tag.as_ref().and_then(|tag| tag.parse::<ImageRef>().ok());
    if let (Some(reference), [only]) = (repository.as_ref().or(name), entries) {
        names.digests.insert(reference.at_digest(only.digest.clone()).to_string());
    }
    names.tags.extend(tag);
    let mut chosen = choose(entries, platform)?.clone();
    for _ in 0..MAX_DEPTH {
        match Document::parse(&read_blob(files, &chosen, MAX_MANIFEST)?)? {
            Document::Index(entries) => chosen = choose(&entries, platform)?.clone(),
            Document::Manifest { config, layers } => {
                let config = read_blob(files, &config, MAX_CONFIG)?;
                let layers = layers.into_iter().map(|l| (blob_path(&l.digest), Some((l.digest, l.size)))).collect();
                return Ok(Found { config, layers, names });
            }
        }
    }
    Err(ManifestError::TooDeep.into())
}

/// A small blob, checked against its digest.
fn read_blob(files: &Files, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, ImportError> {
    let path = blob_path(&descriptor.digest);
    let bytes = read_small(files, &path, limit)?;
    let found = digest_like(&descriptor.digest, &bytes);
    if found == descriptor.digest && bytes.len() as u64 == descriptor.size {
        return Ok(bytes);
    }
    let what = format!("its {} bytes have digest {found}; the layout says {} bytes", bytes.len(), descriptor.size);
    Err(ImportError::Read { name: path, source: std::io::Error::new(std::io::ErrorKind::InvalidData, what) })
}

fn digest_like(expected: &Digest, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::like(expected);
    hasher.update(bytes);
    hasher.finish()
}

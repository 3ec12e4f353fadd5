//! `docker save`'s own archive: `manifest.json` lists images with their configuration and layer files.

use serde::Deserialize;

use super::files::Files;
use super::{Found, ImportError, Problem, read_config, read_small};
use crate::images::manifest::MAX_MANIFEST;
use crate::images::reference::ImageRef;
use crate::images::store::NewNames;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn find(files: &Files) -> Result<Vec<Found>, Problem> {
    let name = "manifest.json";
    let json = read_small(files, name, MAX_MANIFEST)?;
    let entries: Vec<Entry> =
        serde_json::from_slice(&json).map_err(|source| ImportError::Json { name: name.to_owned(), source })?;
    if entries.is_empty() {
        return Err(ImportError::NotAnImage.into());
    }
    entries.into_iter().map(|entry| read_image(files, entry)).collect()
}

fn read_image(files: &Files, entry: Entry) -> Result<Found, Problem> {
    let config = read_config(files, &entry.config)?;
    let mut names = NewNames::default();
    for tag in entry.repo_tags.unwrap_or_default() {
        // A name that Docker itself would not take is left out: the image is still found by its id.
        names.tags.extend(tag.parse::<ImageRef>().ok().map(|name| name.to_string()));
    }
    let layers = entry.layers.into_iter().map(|layer| (layer, None)).collect();
    Ok(Found { config, layers, names })
}

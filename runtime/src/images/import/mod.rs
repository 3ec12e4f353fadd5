//! Images from files: an OCI layout or archive, `docker save`'s archive, or a plain root file system.
//!
//! The kind is found by looking: `layout` and `docker` read descriptions, `rootfs` makes a layer from a folder, and
//! `files` hides whether what they read lies in a folder or inside an archive. Archives are read in place.

mod docker;
mod files;
mod layout;
mod rootfs;
mod tar_writer;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::Path;

use self::files::Files;
use super::config::Image;
use super::digest::{DiffId, Digest};
use super::error::{ErrorKind, ImageError, io_kind};
use super::layers::UnpackError;
use super::manifest::{MAX_CONFIG, MAX_LAYERS, Platform};
use super::progress::PullProgress;
use super::reference::ImageRef;
use super::store::{Hold, ImageStore, Inner, LayerSource, NewNames, parse_config};

/// Why a file or folder could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be opened or read.
    #[error("reading {name}")]
    Read {
        /// The file, inside the archive or folder where it is one.
        name: String,
        /// What the kernel or the decompressor said.
        source: io::Error,
    },
    /// The archive is no tar.
    #[error("it is neither a folder nor a tar archive, plain or compressed with gzip or zstd")]
    Archive(#[source] UnpackError),
    /// Nothing in it says that it is an image.
    #[error("it is no image: an OCI layout has oci-layout and index.json, a docker archive has manifest.json")]
    NotAnImage,
    /// A part that its description names is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// A file that should be small is not.
    #[error("{name} is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        name: String,
        /// The bound.
        limit: u64,
    },
    /// A description is not the JSON it should be.
    #[error("{name} is malformed")]
    Json {
        /// The file.
        name: String,
        /// Where it breaks off.
        source: serde_json::Error,
    },
    /// A root file system folder says nothing about its own name.
    #[error("a root file system folder needs a name for its image")]
    NameNeeded,
    /// One name cannot be given to several images.
    #[error("it holds {0} images, which cannot all have one name")]
    SeveralImages(usize),
    /// The folder holds nothing.
    #[error("the folder is empty")]
    Empty,
}

impl ImportError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => io_kind(source),
            },
            Self::NameNeeded | Self::SeveralImages(_) => ErrorKind::InvalidName,
            _ => ErrorKind::BadImage,
        }
    }
}

/// One image in what is imported: its configuration, and where its layers are.
struct Found {
    config: Vec<u8>,
    /// Name of each layer's file, and what is promised about it; lowest first.
    layers: Vec<(String, Option<(Digest, u64)>)>,
    names: NewNames,
}

impl ImageStore {
    /// Imports all images of an OCI layout folder, an OCI archive or a docker archive (`.tar`, also compressed with
    /// gzip or zstd), or one image from a root file system folder. Of an image for several platforms, this machine's.
    ///
    /// `name` names the image in place of the names that the archive has; a root file system folder needs it. An image
    /// that is here already only gets its names.
    pub async fn import(&self, path: &Path, name: Option<&ImageRef>) -> Result<Vec<Image>, ImageError> {
        let (path, name) = (path.to_owned(), name.cloned());
        let platform = self.0.registries.config().platform.clone();
        let opened = {
            let (path, name, platform) = (path.clone(), name.clone(), platform.clone());
            self.blocking("opening an image", move |inner| {
                open(inner, &path, name.as_ref(), &platform).map_err(|source| failed(&path, source))
            })
            .await?
        };
        match opened {
            Opened::Images(files, found) => self.store_all(&path, files, found, name, &platform).await,
            Opened::Rootfs(name) => rootfs::import(self, &path, &name, &platform).await,
        }
    }

    async fn store_all(
        &self,
        path: &Path,
        files: Files,
        found: Vec<Found>,
        name: Option<ImageRef>,
        platform: &Platform,
    ) -> Result<Vec<Image>, ImageError> {
        if name.is_some() && found.len() > 1 {
            return Err(failed(path, Problem::Import(ImportError::SeveralImages(found.len()))));
        }
        let mut images = Vec::new();
        for mut image in found {
            if let Some(name) = &name {
                image.names.tags = BTreeSet::from([name.to_string()]);
            }
            images.push(self.store_one(path, &files, image, platform).await?);
        }
        Ok(images)
    }

    async fn store_one(
        &self,
        path: &Path,
        files: &Files,
        found: Found,
        platform: &Platform,
    ) -> Result<Image, ImageError> {
        let diff_ids = self.checked_layers(&path.display().to_string(), &found.config, found.layers.len(), platform)?;
        let hold = Hold::new(&self.0, &diff_ids);
        let progress = PullProgress::default();
        for (diff_id, (file, blob)) in diff_ids.iter().zip(found.layers) {
            let digest = blob.as_ref().map_or(&diff_id.0, |(digest, _)| digest).clone();
            let progress = progress.add(digest, blob.as_ref().map_or(0, |(_, size)| *size));
            let source = LayerSource { diff_id: diff_id.clone(), blob, progress };
            let (files, path) = (files.clone(), path.to_owned());
            let lock = self.0.layer_locks.lock(diff_id).await;
            self.blocking("unpacking a layer", move |inner| {
                let _lock = lock;
                let bytes = files.open(&file).map_err(|error| failed(&path, Problem::Import(error)))?;
                Self::put_layer(inner, &source, bytes)
            })
            .await?;
        }
        self.put(found.config, diff_ids, found.names, hold).await
    }

    /// The layers that a configuration lists, after checks that it is for this machine and fits its manifest.
    pub(crate) fn checked_layers(
        &self,
        image: &str,
        config: &[u8],
        layers: usize,
        wanted: &Platform,
    ) -> Result<Vec<DiffId>, ImageError> {
        let parsed = parse_config(config)?;
        let found = Platform { os: parsed.os, architecture: parsed.architecture, variant: String::new() };
        // Images made by hand may say nothing.
        let fits = |wanted: &str, found: &str| found.is_empty() || wanted == found;
        if !fits(&wanted.os, &found.os) || !fits(&wanted.architecture, &found.architecture) {
            let (found, wanted) = (found.to_string(), wanted.to_string());
            return Err(ImageError::WrongPlatform { image: image.to_owned(), found, wanted });
        }
        let diff_ids = parsed.rootfs.diff_ids;
        let problem = if diff_ids.len() > MAX_LAYERS {
            super::manifest::ManifestError::TooManyLayers(diff_ids.len())
        } else if diff_ids.len() != layers {
            super::manifest::ManifestError::LayerCount { manifest: layers, config: diff_ids.len() }
        } else {
            return Ok(diff_ids);
        };
        Err(ImageError::Manifest { image: image.to_owned(), source: problem })
    }

    /// Records an image whose layers are here.
    pub(crate) async fn put(
        &self,
        config: Vec<u8>,
        layers: Vec<DiffId>,
        names: NewNames,
        hold: Hold,
    ) -> Result<Image, ImageError> {
        self.blocking("recording an image", move |inner| {
            let malformed = |error| ImageError::Config {
                digest: Digest::sha256_of(&config),
                source: serde::de::Error::custom(error),
            };
            let text = std::str::from_utf8(&config).map_err(malformed)?;
            inner.put_image(text, layers, names, &hold)
        })
        .await
    }
}

enum Opened {
    Images(Files, Vec<Found>),
    Rootfs(ImageRef),
}

/// Both kinds of reasons that a source has: its files, or what they say.
enum Problem {
    Import(ImportError),
    Manifest(super::manifest::ManifestError),
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        Self::Import(error)
    }
}

impl From<super::manifest::ManifestError> for Problem {
    fn from(error: super::manifest::ManifestError) -> Self {
        Self::Manifest(error)
    }
}

fn failed(path: &Path, problem: Problem) -> ImageError {
    match problem {
        Problem::Import(source) => ImageError::Import { path: path.to_owned(), source },
        Problem::Manifest(source) => ImageError::Manifest { image: path.display().to_string(), source },
    }
}

fn open(inner: &Inner, path: &Path, name: Option<&ImageRef>, platform: &Platform) -> Result<Opened, Problem> {
    let files = Files::open_source(path, || inner.paths.new_tmp("archive"))?;
    if files.has("oci-layout") && files.has("index.json") {
        let found = layout::find(&files, name, platform)?;
        return Ok(Opened::Images(files, found));
    }
    if files.is_archive() && files.has("manifest.json") {
        let found = docker::find(&files)?;
        return Ok(Opened::Images(files, found));
    }
    if files.is_archive() {
        return Err(ImportError::NotAnImage.into());
    }
    match name {
        Some(name) => Ok(Opened::Rootfs(name.clone())),
        None => Err(ImportError::NameNeeded.into()),
    }
}

/// A small file as a whole.
fn read_small(files: &Files, name: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
    let mut bytes = Vec::new();
    let read = files.open(name)?.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| ImportError::Read { name: name.to_owned(), source })?;
    if bytes.len() as u64 > limit { Err(ImportError::TooLarge { name: name.to_owned(), limit }) } else { Ok(bytes) }
}

fn read_config(files: &Files, name: &str) -> Result<Vec<u8>, ImportError> {
    read_small(files, name, MAX_CONFIG)
}

/// Where a layout keeps a blob.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

#[cfg(test)]
mod tests;

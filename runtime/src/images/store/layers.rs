//! Layers come into the store: each once, checked, whole or not at all.

use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

use super::disk::{self, LayerRecord};
use super::{ImageStore, Inner};
use crate::images::digest::{DiffId, Digest};
use crate::images::error::ImageError;
use crate::images::layers::decode::{Decoder, HashReader};
use crate::images::layers::{LayerLimits, UnpackError, tree, unpack};
use crate::images::progress::LayerCounter;

/// Keeps layers from being collected while an image is put together. Dropped when its record is written.
#[derive(Debug)]
pub(crate) struct Hold {
    inner: Arc<Inner>,
    layers: Vec<DiffId>,
}

impl Hold {
    pub(crate) fn new(inner: &Arc<Inner>, layers: &[DiffId]) -> Self {
        let mut state = inner.state();
        for layer in layers {
            *state.held.entry(layer.clone()).or_default() += 1;
        }
        Self { inner: inner.clone(), layers: layers.to_vec() }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for layer in &self.layers {
            if let Some(count) = state.held.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(layer);
                }
            }
        }
    }
}

/// The bytes of one layer, compressed or not, and what is promised about them.
pub(crate) struct LayerSource {
    pub(crate) diff_id: DiffId,
    /// Digest and size of the bytes as they are transferred; docker archives do not tell.
    pub(crate) blob: Option<(Digest, u64)>,
    pub(crate) progress: Arc<LayerCounter>,
}

impl ImageStore {
    /// Unpacks a layer, unless it is here. The caller holds it, and its lock.
    pub(crate) fn put_layer(inner: &Inner, source: &LayerSource, bytes: impl Read) -> Result<(), ImageError> {
        if inner.state().layers.contains_key(&source.diff_id) {
            return Ok(());
        }
        let tmp = inner.paths.new_tmp("layer");
        let result = unpack_checked(inner, source, bytes, &tmp);
        if result.is_err() {
            // What cannot be removed now is removed at the next open.
            let _ = tree::remove_path(&tmp);
        }
        result
    }
}

fn unpack_checked(
    inner: &Inner,
    source: &LayerSource,
    bytes: impl Read,
    tmp: &std::path::Path,
) -> Result<(), ImageError> {
    let content = tmp.join("fs");
    DirBuilder::new().mode(0o700).create(tmp).map_err(ImageError::store("making", tmp))?;
    // The mode that the root has where the layer says nothing.
    let root = make_root(&content).map_err(ImageError::store("making", &content))?;
    let record = read_layer(source, bytes, root)?;
    disk::write_unsynced(&tmp.join("layer.json"), &record).map_err(ImageError::store("writing", tmp))?;
    inner.name_layer(tmp, &source.diff_id, record)?;
    source.progress.finish();
    Ok(())
}

fn make_root(path: &std::path::Path) -> io::Result<std::os::fd::OwnedFd> {
    std::fs::create_dir(path)?;
    let root = tree::open_folder(path)?;
    rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755))?;
    Ok(root)
}

fn read_layer(source: &LayerSource, bytes: impl Read, root: std::os::fd::OwnedFd) -> Result<LayerRecord, ImageError> {
    let failed = |error: UnpackError| ImageError::Unpack { layer: source.diff_id.clone(), source: error };
    let io_failed = |error: io::Error| failed(UnpackError::Read(error));
    // One byte more than promised is enough to know.
    let most = source.blob.as_ref().map_or(u64::MAX, |(_, size)| size.saturating_add(1));
    let like = source.blob.as_ref().map_or(&source.diff_id.0, |(digest, _)| digest);
    let blob = HashReader::new(bytes.take(most), like).showing(source.progress.clone());
    let decoder = Decoder::new(blob).map_err(io_failed)?;
    let plain = HashReader::new(decoder, &source.diff_id.0);
    let unpacked = unpack(plain, root, LayerLimits::default());
    let (unpacked, plain) = unpacked.map_err(failed)?;
    let (decoder, found, _) = plain.finish();
    let mut blob = decoder.into_inner();
    io::copy(&mut blob, &mut io::sink()).map_err(io_failed)?;
    let (_, blob_digest, blob_size) = blob.finish();
    if let Some((digest, size)) = &source.blob {
        check("layer", digest, *size, &blob_digest, blob_size)?;
    }
    if found != source.diff_id.0 {
        return Err(ImageError::Digest { what: "unpacked layer", expected: source.diff_id.0.clone(), found });
    }
    Ok(LayerRecord { bytes: unpacked.bytes, inodes: unpacked.inodes, implied: unpacked.implied })
}

/// Compares what came with what was promised.
pub(crate) fn check(
    what: &'static str,
    expected: &Digest,
    size: u64,
    found: &Digest,
    found_size: u64,
) -> Result<(), ImageError> {
    if found_size != size {
        let digest = expected.clone();
        return Err(ImageError::Size { what, digest, expected: size, found: found_size });
    }
    if found == expected {
        Ok(())
    } else {
        Err(ImageError::Digest { what, expected: expected.clone(), found: found.clone() })
    }
}

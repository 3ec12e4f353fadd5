//! What the store knows in memory: a copy of what is on disk, and who needs which layer right now.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::disk::{LayerRecord, Names, SnapshotRecord};
use crate::images::config::{Image, ImageConfig, Layer};
use crate::images::digest::{DiffId, ImageId};
use crate::images::reference::ImageQuery;

/// An image without its names.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) config: ImageConfig,
    pub(crate) raw_config: String,
    pub(crate) layers: Vec<DiffId>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: BTreeMap<ImageId, Known>,
    pub(crate) names: Names,
    pub(crate) layers: BTreeMap<DiffId, LayerRecord>,
    pub(crate) snapshots: BTreeMap<String, SnapshotRecord>,
    /// How many pulls and imports count on a layer that no record names yet.
    pub(crate) held: HashMap<DiffId, usize>,
}

impl State {
    pub(crate) fn image(&self, id: &ImageId) -> Option<Image> {
        let known = self.images.get(id)?;
        let layers: Vec<Layer> = known
            .layers
            .iter()
            .map(|diff_id| {
                let (size, inodes) = self.layers.get(diff_id).map_or((0, 0), |layer| (layer.bytes, layer.inodes));
                Layer { diff_id: diff_id.clone(), size, inodes }
            })
            .collect();
        let of = |names: &BTreeMap<String, ImageId>| {
            names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
        };
        Some(Image {
            id: id.clone(),
            tags: of(&self.names.tags),
            digests: of(&self.names.digests),
            // A layer may stand in an image twice; it is on disk once.
            size: layers.iter().map(|layer| (&layer.diff_id, layer.size)).collect::<BTreeMap<_, _>>().values().sum(),
            config: known.config.clone(),
            raw_config: known.raw_config.clone(),
            layers,
            pinned: self.names.pinned.contains(id),
        })
    }

    /// The image that a query means. A digest decides over a tag.
    pub(crate) fn lookup(&self, query: &ImageQuery) -> Option<&ImageId> {
        let name = match query {
            ImageQuery::Id(id) => return self.images.get_key_value(id).map(|(id, _)| id),
            ImageQuery::Name(name) => name,
        };
        match name.digest() {
            Some(digest) => self.names.digests.get(&format!("{}@{digest}", name.repository())),
            None => self.names.tags.get(&name.to_string()),
        }
    }

    /// Layers that no image, no snapshot and no pull needs.
    pub(crate) fn garbage(&self) -> Vec<DiffId> {
        let images = self.images.values().flat_map(|known| &known.layers);
        let needed: BTreeSet<&DiffId> =
            images.chain(self.snapshots.values().flat_map(|s| &s.layers)).chain(self.held.keys()).collect();
        self.layers.keys().filter(|layer| !needed.contains(layer)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::digest::Digest;

    fn layer(name: &str) -> DiffId {
        DiffId(Digest::sha256_of(name.as_bytes()))
    }

    #[test]
    fn a_layer_is_garbage_when_neither_image_nor_snapshot_nor_pull_needs_it() {
        let mut state = State::default();
        for name in ["image", "snapshot", "pull", "nobody"] {
            state.layers.insert(layer(name), LayerRecord { bytes: 1, inodes: 1, implied: BTreeSet::new() });
        }
        let id = ImageId(Digest::sha256_of(b"id"));
        let known = |of| Known { config: ImageConfig::default(), raw_config: String::new(), layers: vec![layer(of)] };
        state.images.insert(id.clone(), known("image"));
        let snapshot = SnapshotRecord { image: id, layers: vec![layer("snapshot")], boot: String::new() };
        state.snapshots.insert("c".into(), snapshot);
        state.held.insert(layer("pull"), 1);
        assert_eq!(state.garbage(), [layer("nobody")]);
    }
}

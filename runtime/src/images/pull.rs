//! An image from a registry: manifest, configuration, layers.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use hyper::body::{Buf, Bytes};
use tokio::sync::mpsc;

use super::config::Image;
use super::credentials::Credentials;
use super::digest::{DiffId, Digest};
use super::error::ImageError;
use super::manifest::{Descriptor, Document, MAX_CONFIG, ManifestError, choose};
use super::progress::{LayerCounter, PullProgress};
use super::reference::ImageRef;
use super::registry::{Piece, RegistryError, Session};
use super::store::{Hold, ImageStore, LayerSource, NewNames};

// An index in an index is an image for several platforms; one more for what nobody has thought of.
const MAX_DEPTH: u8 = 3;
// Pieces of at most 64 KiB that wait between network and disk.
const PIECES: usize = 16;

impl ImageStore {
    /// Brings an image here, or finds that the newest is here already. Layers are fetched a few at a time and unpacked
    /// while they come; two pulls of one layer at the same time fetch it once. Dropping the future breaks the pull off
    /// and leaves nothing but whole layers, which go when nobody needs them.
    ///
    /// A tag is always looked up at the registry: whether to pull at all is the caller's policy.
    pub async fn pull(
        &self,
        image: &ImageRef,
        credentials: Option<Credentials>,
        progress: &PullProgress,
    ) -> Result<Image, ImageError> {
        let pull = Pull { store: self, image, progress, session: self.session(image, credentials)? };
        if let Some(here) = pull.unchanged().await? {
            return Ok(here);
        }
        pull.run().await
    }

    fn session(&self, image: &ImageRef, credentials: Option<Credentials>) -> Result<Session<'_>, ImageError> {
        let session = self.0.registries.session(image, credentials);
        session.map_err(|source| ImageError::Registry { image: image.to_string(), source })
    }
}

struct Pull<'a> {
    store: &'a ImageStore,
    image: &'a ImageRef,
    progress: &'a PullProgress,
    session: Session<'a>,
}

impl Pull<'_> {
    /// The image that is here, if its tag still means the same digest: one small question instead of a pull.
    async fn unchanged(&self) -> Result<Option<Image>, ImageError> {
        let (Some(here), Some(tag), None) =
            (self.store.find(&self.image.to_string()), self.image.tag(), self.image.digest())
        else {
            return Ok(None);
        };
        let Some(digest) = self.session.head(tag).await else { return Ok(None) };
        let name = self.image.at_digest(digest).to_string();
        Ok(here.digests.contains(&name).then_some(here))
    }

    async fn run(&self) -> Result<Image, ImageError> {
        let (digest, config, layers) = self.manifest().await?;
        if config.size > MAX_CONFIG {
            let why = format!("its configuration of {} bytes is too large", config.size);
            return Err(self.failed(RegistryError::BadAnswer { address: self.image.to_string(), why }));
        }
        let raw = self.session.small_blob(&config.digest, MAX_CONFIG).await.map_err(|error| self.failed(error))?;
        let platform = &self.store.0.registries.config().platform;
        let diff_ids = self.store.checked_layers(&self.image.to_string(), &raw, layers.len(), platform)?;
        let hold = Hold::new(&self.store.0, &diff_ids);
        self.layers(&diff_ids, &layers).await?;
        let mut names = NewNames::default();
        names.digests.insert(self.image.at_digest(digest).to_string());
        if self.image.digest().is_none() {
            names.tags = BTreeSet::from([self.image.to_string()]);
        }
        self.store.put(raw, diff_ids, names, hold).await
    }

    /// Digest of what the name means, and of that the part for this machine.
    async fn manifest(&self) -> Result<(Digest, Descriptor, Vec<Descriptor>), ImageError> {
        let unfit = |source: ManifestError| ImageError::Manifest { image: self.image.to_string(), source };
        let (mut bytes, top) = self.fetch(self.image.selector()).await?;
        for _ in 0..MAX_DEPTH {
            match Document::parse(&bytes).map_err(unfit)? {
                Document::Manifest { config, layers } => return Ok((top, config, layers)),
                Document::Index(entries) => {
                    let platform = &self.store.0.registries.config().platform;
                    let chosen = choose(&entries, platform).map_err(unfit)?;
                    bytes = self.fetch(chosen.digest.as_str()).await?.0;
                }
            }
        }
        Err(unfit(ManifestError::TooDeep))
    }

    async fn fetch(&self, selector: &str) -> Result<(Vec<u8>, Digest), ImageError> {
        self.session.manifest(selector).await.map_err(|error| self.failed(error))
    }

    async fn layers(&self, diff_ids: &[DiffId], blobs: &[Descriptor]) -> Result<(), ImageError> {
        // Boxed: the compiler cannot see that a stream of these by a closure may move between threads.
        let mut fetches: Vec<BoxFuture<'_, Result<(), ImageError>>> = Vec::new();
        let mut seen = BTreeSet::new();
        for (diff_id, blob) in diff_ids.iter().zip(blobs) {
            // An image may have a layer twice, an empty one say.
            if seen.insert(diff_id) {
                let counter = self.progress.add(blob.digest.clone(), blob.size);
                fetches.push(self.layer(diff_id, blob, counter).boxed());
            }
        }
        let at_once = self.store.0.registries.config().layers_at_once.max(1);
        futures::stream::iter(fetches).buffer_unordered(at_once).try_collect().await
    }

    async fn layer(&self, diff_id: &DiffId, blob: &Descriptor, progress: Arc<LayerCounter>) -> Result<(), ImageError> {
        let lock = self.store.0.layer_locks.lock(diff_id).await;
        if self.store.0.state().layers.contains_key(diff_id) {
            progress.finish();
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let source = LayerSource { diff_id: diff_id.clone(), blob: Some((blob.digest.clone(), blob.size)), progress };
        let unpacking = self.store.blocking("unpacking a layer", move |inner| {
            // Held to the end even if this pull is given up: nobody else starts on it before the rest is away.
            let _lock = lock;
            ImageStore::put_layer(inner, &source, PieceReader::new(receiver))
        });
        let fetching = async {
            // Moved in, so that the reader sees an end whatever happens here.
            let sender = sender;
            self.session.stream_blob(&blob.digest, blob.size, &sender).await
        };
        match tokio::join!(unpacking, fetching) {
            // A transfer that broke off is the cause of whatever the unpacker says.
            (_, Err(error)) => Err(self.failed(error)),
            (result, Ok(())) => result,
        }
    }

    fn failed(&self, source: RegistryError) -> ImageError {
        ImageError::Registry { image: self.image.to_string(), source }
    }
}

/// The blocking end of a transfer.
struct PieceReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl PieceReader {
    fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { pieces, current: Bytes::new(), ended: false }
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the transfer broke off")),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_move_between_threads<T: Send>(_: &T) {}

    #[test]
    fn a_pull_may_move_between_threads() {
        // Never run: that it compiles is the test.
        let _ = |store: &ImageStore, image: &ImageRef, progress: &PullProgress| {
            may_move_between_threads(&store.pull(image, None, progress));
            may_move_between_threads(&store.import("".as_ref(), None));
        };
    }
}

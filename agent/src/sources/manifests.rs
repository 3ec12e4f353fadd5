//! The source of `longshore run FILE|DIR…`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use inotify::{EventStream, Inotify};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Desired;
use super::files::{self, Held, Look, Pending, Root, Watching};
use super::manifest::{self, Content};
use super::set::Set;

/// The largest batch of events read at once; more simply takes another read.
const EVENTS: usize = 16 << 10;

/// Why manifests cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// A path that was given does not exist or cannot be looked at.
    #[error("looking for manifests in {}", path.display())]
    Root {
        /// As given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel will not watch (any more): often `fs.inotify.max_user_instances` or `max_user_watches`.
    #[error("watching manifests for changes (the limits are fs.inotify.max_user_instances and max_user_watches)")]
    Watch(#[source] io::Error),
}

/// Manifest files and folders, watched.
pub struct Manifests {
    roots: Vec<Root>,
    node: String,
    set: Set,
    watching: Watching,
    events: EventStream<Vec<u8>>,
    wanted: watch::Sender<Arc<Desired>>,
}

impl Manifests {
    /// Reads everything once, so that the first value is already whole, and prepares to watch. `node` is this node's
    /// name. Blocks for as long as reading takes: meant for the start.
    ///
    /// # Errors
    /// A path that does not exist, or inotify that is exhausted. What is wrong inside of files is part of [`Desired`].
    pub fn open(paths: &[PathBuf], node: &str) -> Result<(Self, watch::Receiver<Arc<Desired>>), ManifestsError> {
        let root =
            |path: &PathBuf| Root::of(path).map_err(|source| ManifestsError::Root { path: path.clone(), source });
        let roots = paths.iter().map(root).collect::<Result<Vec<_>, _>>()?;
        let inotify = Inotify::init().map_err(ManifestsError::Watch)?;
        let watching = Watching::new(inotify.watches(), roots.clone());
        let events = inotify.into_event_stream(vec![0; EVENTS]).map_err(ManifestsError::Watch)?;
        let wanted = watch::Sender::new(Arc::default());
        let mut manifests = Self { roots, node: node.to_owned(), set: Set::default(), watching, events, wanted };
        // Watched before it is read: what changes in between is read again.
        manifests.watch()?;
        let read = read_all(&manifests.roots, &manifests.node);
        manifests.apply(read);
        manifests.watch()?;
        manifests.publish();
        let seen = manifests.wanted.subscribe();
        Ok((manifests, seen))
    }

    /// Follows the files until `stop`. Each change is published as a whole set, within a second.
    ///
    /// # Errors
    /// When the kernel stops telling of changes. What was published stays.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ManifestsError> {
        let mut pending = Pending::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = self.events.next() => {
                    let Some(event) = event else { return Ok(()) };
                    let event = event.map_err(ManifestsError::Watch)?;
                    let event = inotify::Event { wd: event.wd, mask: event.mask, cookie: event.cookie, name: event.name.as_deref() };
                    for (look, wait) in self.watching.look(&event) {
                        pending.add(look, wait, Instant::now());
                    }
                }
                () = due(&pending) => self.look(pending.take(Instant::now())).await?,
            }
        }
    }

    async fn look(&mut self, looks: Vec<Look>) -> Result<(), ManifestsError> {
        let (roots, node) = (self.roots.clone(), self.node.clone());
        let read = tokio::task::spawn_blocking(move || read(&looks, &roots, &node)).await;
        // Reading panics only if a parser does: then the files stay as they were, and the next change tries again.
        if let Ok(read) = read {
            self.apply(read);
        }
        self.watch()?;
        self.publish();
        Ok(())
    }

    fn apply(&mut self, read: Read) {
        if let Some(present) = &read.all {
            let gone = self.set.files().into_iter().filter(|file| !present.contains(file));
            gone.for_each(|file| self.set.remove(&file));
        }
        for (file, found) in read.files {
            match found {
                Found::Content(content) => self.set.put(&file, content),
                Found::Gone => self.set.remove(&file),
                Found::Unreadable(message) => self.set.unreadable(&file, message),
            }
        }
    }

    fn watch(&mut self) -> Result<(), ManifestsError> {
        self.watching.follow(&self.set.files()).map_err(ManifestsError::Watch)
    }

    fn publish(&mut self) {
        let desired = self.set.desired(Timestamp::now());
        self.wanted.send_if_modified(|last| {
            let changed = **last != desired;
            if changed {
                *last = Arc::new(desired);
            }
            changed
        });
    }
}

async fn due(pending: &Pending) {
    match pending.next() {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// What a look at the files found.
struct Read {
    files: Vec<(PathBuf, Found)>,
    /// All files there are, when all were looked at.
    all: Option<Vec<PathBuf>>,
}

enum Found {
    Content(Content),
    Gone,
    Unreadable(String),
}

fn read(looks: &[Look], roots: &[Root], node: &str) -> Read {
    if looks.contains(&Look::All) {
        return read_all(roots, node);
    }
    let paths = looks.iter().filter_map(|look| match look {
        Look::At(path) => Some(path.clone()),
        Look::All => None,
    });
    Read { files: paths.map(|path| read_one(path, node)).collect(), all: None }
}

fn read_all(roots: &[Root], node: &str) -> Read {
    let mut files = Vec::new();
    let mut all = Vec::new();
    for root in roots {
        match root.files() {
            Ok(found) => {
                files.extend(found.iter().cloned().map(|path| read_one(path, node)));
                all.extend(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.push((root.path.clone(), Found::Unreadable("is gone; its pods are stopped".to_owned())));
                all.push(root.path.clone());
            }
            Err(error) => {
                files.push((root.path.clone(), Found::Unreadable(format!("cannot be listed: {error}"))));
                return Read { files, all: None };
            }
        }
    }
    Read { files, all: Some(all) }
}

fn read_one(path: PathBuf, node: &str) -> (PathBuf, Found) {
    let found = match files::read(&path) {
        Held::Bytes(bytes) => Found::Content(manifest::read(&path, &bytes, node)),
        Held::Gone => Found::Gone,
        Held::Unreadable(message) => Found::Unreadable(message),
    };
    (path, found)
}

#[cfg(test)]
mod tests;

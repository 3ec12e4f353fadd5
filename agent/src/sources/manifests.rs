//! The source of `longshore run FILE|DIR…`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use inotify::{EventStream, Inotify};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Desired;
use super::files::{self, Held, Look, Pending, Root, Watching};
use super::manifest::{self, Content, Origin};
use super::set::Set;
use super::url::ManifestUrl;

/// The largest batch of events read at once; more simply takes another read.
const EVENTS: usize = 16 << 10;

/// How often static pods are listed although nothing was heard of their folder: the kubelet's `fileCheckFrequency`.
const RELIST: Duration = Duration::from_secs(20);

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
    url: Option<ManifestUrl>,
    set: Set,
    watching: Watching,
    events: EventStream<Vec<u8>>,
    wanted: watch::Sender<Arc<Desired>>,
}

/// Where manifests are.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Files and folders with all kinds.
    pub paths: Vec<PathBuf>,
    /// A file or folder with static pods.
    pub static_pods: Option<PathBuf>,
    /// What standard input held.
    pub input: Option<Vec<u8>>,
    /// Where static pods are asked for.
    pub url: Option<ManifestUrl>,
}

impl Manifests {
    /// Reads everything once, so that the first value is already whole, and prepares to watch. `node` is this node's
    /// name. Blocks for as long as reading takes: meant for the start.
    ///
    /// # Errors
    /// A path that does not exist, or inotify that is exhausted. What is wrong inside of files is part of [`Desired`].
    pub fn open(places: Places, node: &str) -> Result<(Self, watch::Receiver<Arc<Desired>>), ManifestsError> {
        let root = |(path, is_static): (&PathBuf, bool)| {
            Root::of(path, is_static).map_err(|source| ManifestsError::Root { path: path.clone(), source })
        };
        // Static pods first: a file that both claim is one.
        let statics = places.static_pods.iter().map(|path| (path, true));
        let roots = statics.chain(places.paths.iter().map(|path| (path, false)));
        let roots = roots.map(root).collect::<Result<Vec<_>, _>>()?;
        let inotify = Inotify::init().map_err(ManifestsError::Watch)?;
        let watching = Watching::new(inotify.watches(), roots.clone());
        let events = inotify.into_event_stream(vec![0; EVENTS]).map_err(ManifestsError::Watch)?;
        let wanted = watch::Sender::new(Arc::default());
        let (node, url) = (node.to_owned(), places.url);
        let mut manifests = Self { roots, node, url, set: Set::default(), watching, events, wanted };
        if let Some(bytes) = &places.input {
            let name = Path::new("standard input");
            manifests.set.put(name, manifest::read(name, bytes, &manifests.node));
        }
        if let Some(bytes) = manifests.url.as_ref().and_then(ManifestUrl::last_good) {
            manifests.answered(Ok(bytes));
        }
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
        let has_statics = self.roots.iter().any(|root| root.is_static);
        let mut relist = tokio::time::interval_at(tokio::time::Instant::now() + RELIST, RELIST);
        // One answer at a time.
        let (answers, mut answered) = mpsc::channel(1);
        if let Some(url) = self.url.clone() {
            tokio::spawn(url.poll(answers, stop.clone()));
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(answer) = answered.recv() => {
                    self.answered(answer);
                    self.publish();
                }
                _ = relist.tick(), if has_statics => pending.add(Look::All, Duration::ZERO, Instant::now()),
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

    /// The URL of static pods has answered, or has not.
    fn answered(&mut self, answer: Result<Vec<u8>, String>) {
        let Some(url) = &self.url else { return };
        let name = Path::new(&url.url).to_owned();
        match answer {
            Err(message) => self.set.unreadable(&name, message),
            Ok(bytes) => {
                let content = manifest::read_from(&name, &bytes, &self.node, Origin::StaticUrl);
                if content.problems.is_empty() {
                    url.remember(&bytes);
                }
                self.set.put(&name, content);
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
            let gone = self.files().into_iter().filter(|file| !present.contains(file));
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

    /// What is known of files: the URL and standard input are none.
    fn files(&self) -> Vec<PathBuf> {
        self.set.files().into_iter().filter(|file| file.is_absolute()).collect()
    }

    fn watch(&mut self) -> Result<(), ManifestsError> {
        self.watching.follow(&self.files()).map_err(ManifestsError::Watch)
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
    Read { files: paths.map(|path| read_one(path, roots, node)).collect(), all: None }
}

fn read_all(roots: &[Root], node: &str) -> Read {
    let mut files = Vec::new();
    let mut all = Vec::new();
    for root in roots {
        match root.files() {
            Ok(found) => {
                files.extend(found.iter().cloned().map(|path| read_one(path, roots, node)));
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

fn read_one(path: PathBuf, roots: &[Root], node: &str) -> (PathBuf, Found) {
    let is_static = roots.iter().find(|root| root.claims(&path)).is_some_and(|root| root.is_static);
    let origin = if is_static { Origin::StaticFile } else { Origin::Manifests };
    let found = match files::read(&path) {
        Held::Bytes(bytes) => Found::Content(manifest::read_from(&path, &bytes, node, origin)),
        Held::Gone => Found::Gone,
        Held::Unreadable(message) => Found::Unreadable(message),
    };
    (path, found)
}

#[cfg(test)]
mod tests;

//! Finding, reading and watching manifest files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{EventMask, WatchDescriptor, WatchMask, Watches};

use super::manifest::LARGEST_FILE;

/// Links that name links: more is a loop.
const DEEPEST_LINK: usize = 16;

/// What a file held.
#[derive(Debug)]
pub(crate) enum Held {
    Bytes(Vec<u8>),
    /// There is no such file (any more).
    Gone,
    Unreadable(String),
}

/// Reads one file, with the size limit; never waits for a writer of a pipe.
pub(crate) fn read(path: &Path) -> Held {
    match try_read(path) {
        Ok(held) => held,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Held::Gone,
        Err(error) => Held::Unreadable(format!("cannot be read: {error}")),
    }
}

fn try_read(path: &Path) -> io::Result<Held> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(Held::Unreadable("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Ok(Held::Unreadable("is larger than 10 MiB, the limit for one manifest file".to_owned()));
    }
    Ok(Held::Bytes(bytes))
}

/// One path as given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// Absolute.
    pub path: PathBuf,
    /// Given as a folder: its manifests count, not it.
    pub is_dir: bool,
    /// Static pods: every visible file is one, whatever its name ends with.
    pub is_static: bool,
}

impl Root {
    /// Looks at a path as it is now.
    pub(crate) fn of(path: &Path, is_static: bool) -> io::Result<Self> {
        let is_dir = fs::metadata(path)?.is_dir();
        Ok(Self { path: std::path::absolute(path)?, is_dir, is_static })
    }

    fn takes(&self, name: &OsStr) -> bool {
        match self.is_static {
            true => !name.as_encoded_bytes().starts_with(b"."),
            false => is_manifest_name(name),
        }
    }

    /// The manifest files of this root, sorted. Folders are not searched deeper; hidden files are not manifests.
    pub(crate) fn files(&self) -> io::Result<Vec<PathBuf>> {
        if !self.is_dir {
            return Ok(vec![self.path.clone()]);
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if self.takes(&entry.file_name()) && !entry.path().is_dir() {
                files.push(entry.path());
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whether a path is, or could become, one of its files.
    pub(super) fn claims(&self, path: &Path) -> bool {
        match self.is_dir {
            true => path.parent() == Some(&self.path) && path.file_name().is_some_and(|name| self.takes(name)),
            false => path == self.path,
        }
    }
}

fn is_manifest_name(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let ends = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
    ends && !name.starts_with('.')
}

/// The folders whose entries decide what the roots hold: a root itself, the folder it is in, and the folders on the
/// way of every link (a mounted ConfigMap changes by a link in the middle).
fn folders(roots: &[Root], files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    for root in roots {
        if root.is_dir {
            folders.insert(root.path.clone());
        }
        follow(&root.path, &mut folders);
    }
    files.iter().for_each(|file| follow(file, &mut folders));
    folders
}

fn follow(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut at = path.to_owned();
    for _ in 0..DEEPEST_LINK {
        let Some(parent) = at.parent().map(Path::to_owned) else { return };
        let target = fs::read_link(&at);
        folders.insert(parent.clone());
        match target {
            Ok(target) => at = parent.join(target),
            Err(_) => return,
        }
    }
}

/// What an event asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// Everything again: a folder or a link on the way has changed.
    All,
    /// One file.
    At(PathBuf),
}

/// The folders being watched.
pub(super) struct Watching {
    watches: Watches,
    roots: Vec<Root>,
    by_folder: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Watching {
    pub(super) fn new(watches: Watches, roots: Vec<Root>) -> Self {
        Self { watches, roots, by_folder: BTreeMap::new() }
    }

    /// Watches what decides about these files, and no more. Folders that are missing are left out: the folder around
    /// them is watched too.
    pub(super) fn follow(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let wanted = folders(&self.roots, files);
        let gone: Vec<_> = self.by_folder.keys().filter(|folder| !wanted.contains(*folder)).cloned().collect();
        for folder in gone {
            let Some(watch) = self.by_folder.remove(&folder) else { continue };
            if !self.by_folder.values().any(|other| *other == watch) {
                // It may have gone with its folder.
                let _ = self.watches.remove(watch);
            }
        }
        let events = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for folder in wanted {
            // Always anew: a folder that was replaced under the same name has a new inode.
            match self.watches.add(&folder, events) {
                Ok(watch) => drop(self.by_folder.insert(folder, watch)),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What one event asks for, and how long to wait for what usually follows it. A folder may be known by several
    /// paths: the event counts for each.
    pub(super) fn look(&self, event: &inotify::Event<&OsStr>) -> Vec<(Look, Duration)> {
        if event.mask.intersects(EventMask::Q_OVERFLOW | EventMask::DELETE_SELF | EventMask::MOVE_SELF) {
            return vec![(Look::All, SOON)];
        }
        let Some(name) = event.name else { return Vec::new() };
        let folders = self.by_folder.iter().filter(|(_, watch)| **watch == event.wd).map(|(folder, _)| folder);
        folders.filter_map(|folder| self.look_in(folder, name, event.mask)).collect()
    }

    fn look_in(&self, folder: &Path, name: &OsStr, mask: EventMask) -> Option<(Look, Duration)> {
        let path = folder.join(name);
        // Who creates writes next, and who removes often puts something else in its place.
        let unfinished = mask.intersects(EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_FROM);
        let wait = if unfinished { LATER } else { SOON };
        if self.roots.iter().any(|root| root.claims(&path)) {
            return Some((Look::At(path), wait));
        }
        let is_root = self.roots.iter().any(|root| root.is_dir && root.path == folder);
        let hidden = name.as_encoded_bytes().starts_with(b"..");
        // Besides manifests, only the links of a mounted ConfigMap matter in a root's own folder.
        let matters = if is_root { hidden } else { self.is_on_the_way(&path) || hidden };
        matters.then_some((Look::All, SOON))
    }

    /// A root that was given as a folder, or something a link goes through.
    fn is_on_the_way(&self, path: &Path) -> bool {
        let mut links = BTreeSet::new();
        let roots = self.roots.iter();
        let files = roots.flat_map(|root| root.files().unwrap_or_default().into_iter().chain([root.path.clone()]));
        for file in files {
            let mut at = file;
            for _ in 0..DEEPEST_LINK {
                links.insert(at.clone());
                match (at.parent().map(Path::to_owned), fs::read_link(&at)) {
                    (Some(parent), Ok(target)) => at = parent.join(target),
                    _ => break,
                }
            }
        }
        links.contains(path)
    }
}

/// After the last event of a file that is whole: it was closed or renamed into place. Long enough to gather what one
/// command writes together; what an editor does later is read again.
const SOON: Duration = Duration::from_millis(5);
/// After an event that is usually followed by another.
const LATER: Duration = Duration::from_millis(250);
/// A file that changes all the time is read this often.
const AT_MOST: Duration = Duration::from_millis(500);

/// What is to be looked at, and when: events of one file are joined.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: BTreeMap<Look, (Instant, Instant)>,
}

impl Pending {
    pub(super) fn add(&mut self, look: Look, wait: Duration, now: Instant) {
        let (first, due) = self.waiting.entry(look).or_insert((now, now));
        *due = (now + wait).min(*first + AT_MOST);
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, due)| *due).min()
    }

    /// Takes what is due.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Look> {
        let due: Vec<_> =
            self.waiting.iter().filter(|(_, (_, due))| *due <= now).map(|(look, _)| look.clone()).collect();
        for look in &due {
            self.waiting.remove(look);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_file_are_joined_but_not_for_ever() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let look = Look::At(PathBuf::from("/a"));
        let mut pending = Pending::default();
        pending.add(look.clone(), LATER, at(0));
        pending.add(look.clone(), SOON, at(10));
        assert_eq!(pending.next(), Some(at(15)));
        assert_eq!(pending.take(at(14)), []);
        for millis in (15..600).step_by(20) {
            pending.add(look.clone(), SOON, at(millis));
        }
        assert_eq!(pending.take(at(500)), [look]);
        assert_eq!(pending.next(), None);
    }

    #[test]
    fn only_visible_yaml_and_json_are_manifests() {
        for (name, want) in [
            ("a.yaml", true),
            ("a.yml", true),
            ("a.json", true),
            ("a.md", false),
            (".a.yaml", false),
            ("a.yaml~", false),
            ("..data", false),
            ("a.yaml.swp", false),
        ] {
            assert_eq!(is_manifest_name(OsStr::new(name)), want, "{name}");
        }
    }

    #[test]
    fn a_pipe_a_folder_and_a_huge_file_are_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yaml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let huge = dir.path().join("huge.yaml");
        fs::File::create(&huge).unwrap().set_len(LARGEST_FILE + 1).unwrap();
        assert!(matches!(read(&pipe), Held::Unreadable(_)));
        assert!(matches!(read(dir.path()), Held::Unreadable(_)));
        assert!(matches!(read(&huge), Held::Unreadable(text) if text.contains("10 MiB")));
        assert!(matches!(read(&dir.path().join("none")), Held::Gone));
    }
}

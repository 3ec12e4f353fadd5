//! Wakes followers when a folder of logs changes. All of them share one inotify instance: a user has 128 of those, and
//! a node may have more followers than that.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::sync::watch;

/// One follower's ear.
pub(super) struct Growth {
    hub: Arc<Hub>,
    folder: WatchDescriptor,
    changes: watch::Receiver<()>,
}

struct Hub {
    watches: Mutex<Watches>,
    folders: Mutex<HashMap<WatchDescriptor, Folder>>,
}

struct Folder {
    changes: watch::Sender<()>,
    followers: usize,
}

impl Growth {
    /// Hears of everything in the folder of `log` from now on. A watch on the file would go with the file when it is renamed.
    pub(super) fn of(log: &Path) -> io::Result<Self> {
        let hub = hub()?;
        let folder = log.parent().unwrap_or(log);
        let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
        // Held from adding to counting: nobody may take the watch away in between.
        let mut folders = hub.folders();
        let folder = hub.watches.lock().unwrap_or_else(PoisonError::into_inner).add(folder, mask)?;
        let known = folders.entry(folder.clone());
        let known = known.or_insert_with(|| Folder { changes: watch::channel(()).0, followers: 0 });
        known.followers += 1;
        let changes = known.changes.subscribe();
        drop(folders);
        Ok(Self { hub, folder, changes })
    }

    /// Returns when something has changed since the last time.
    pub(super) async fn wait(&mut self) {
        // The sender lives as long as this follower is counted.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let mut folders = self.hub.folders();
        let Some(folder) = folders.get_mut(&self.folder) else { return };
        folder.followers -= 1;
        if folder.followers == 0 {
            folders.remove(&self.folder);
            let mut watches = self.hub.watches.lock().unwrap_or_else(PoisonError::into_inner);
            // The kernel has taken it away itself where the folder is gone.
            let _ = watches.remove(self.folder.clone());
        }
    }
}

impl Hub {
    fn folders(&self) -> MutexGuard<'_, HashMap<WatchDescriptor, Folder>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one hub of this process, made with the first follower.
fn hub() -> io::Result<Arc<Hub>> {
    static HUB: OnceLock<Arc<Hub>> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hub) = HUB.get() {
        return Ok(Arc::clone(hub));
    }
    let inotify = Inotify::init()?;
    let hub = Arc::new(Hub { watches: Mutex::new(inotify.watches()), folders: Mutex::default() });
    let listening = Arc::clone(&hub);
    // A thread and not a task: it outlives whatever runtime its first follower ran on, which matters to tests.
    std::thread::Builder::new().name("log-growth".to_owned()).spawn(move || listen(inotify, &listening))?;
    Ok(Arc::clone(HUB.get_or_init(|| hub)))
}

fn listen(mut inotify: Inotify, hub: &Hub) {
    let mut buffer = [0; 16 << 10];
    loop {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!("followers of logs will not hear of new lines: {error}");
                return;
            }
        };
        let folders = hub.folders();
        for event in events {
            match folders.get(&event.wd) {
                Some(folder) => folder.changes.send_replace(()),
                // Nobody knows what was missed: everybody looks.
                None if event.mask.contains(EventMask::Q_OVERFLOW) => {
                    folders.values().for_each(|folder| folder.changes.send_replace(()));
                }
                None => {}
            }
        }
    }
}

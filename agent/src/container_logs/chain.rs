//! The files of one log in the order in which they were written: a reader goes from one to the next over rotations.
//!
//! Rotation renames the log to `<log>.<stamp>` and begins a new one; at the next rotation the renamed one becomes
//! `<log>.<stamp>.gz`. A reader knows its file by its inode until it has seen the new name.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::log_rotation::rotated;

/// Blocks of a compressed file that are unpacked ahead of their reader.
const AHEAD: usize = 2;

/// Where text comes from.
pub(super) enum Source {
    /// A file that may grow.
    Plain(File),
    /// One that does not, unpacked on its way.
    Packed(mpsc::Receiver<io::Result<Vec<u8>>>),
}

impl Source {
    /// The next bytes; `None` at the end of what there is.
    pub(super) async fn read(&mut self, most: usize) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Plain(file) => {
                let mut block = vec![0; most];
                let count = file.read(&mut block).await?;
                block.truncate(count);
                Ok((count > 0).then_some(block))
            }
            Self::Packed(blocks) => blocks.recv().await.transpose(),
        }
    }
}

/// Which file of the log is being read.
pub(super) struct Chain {
    log: PathBuf,
    name: String,
    /// The file's inode; none is given twice as long as it is open.
    inode: u64,
    /// What it was renamed to.
    now_called: Option<String>,
}

impl Chain {
    /// Begins with the file that is written now.
    pub(super) async fn open(log: &Path) -> io::Result<(Self, File)> {
        let file = File::open(log).await?;
        let inode = file.metadata().await?.ino();
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((Self { log: log.to_owned(), name, inode, now_called: None }, file))
    }

    /// Remembers the name that the file was given, while it still has it.
    pub(super) fn note(&mut self) -> io::Result<()> {
        let at_the_log = std::fs::metadata(&self.log).is_ok_and(|found| found.ino() == self.inode);
        if self.now_called.is_none() && !at_the_log {
            let inode =
                |file: &String| std::fs::metadata(self.dir().join(file)).is_ok_and(|found| found.ino() == self.inode);
            self.now_called = self.rotated()?.into_iter().find(inode);
        }
        Ok(())
    }

    /// The file after the one that was read to its end; `None` while that one may still grow, or its successor is not
    /// there yet.
    pub(super) async fn next(&mut self) -> io::Result<Option<Source>> {
        loop {
            self.note()?;
            let current = match File::open(&self.log).await {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let inode = current.metadata().await?.ino();
            if inode == self.inode {
                // Never rotated, or the rotation was taken back.
                self.now_called = None;
                return Ok(None);
            }
            // Asked after the log was opened: a rotation between the two shows here.
            let next = match &self.now_called {
                Some(name) => self.rotated()?.into_iter().find(|file| file > name),
                // It is gone under every name: what was between is gone with it.
                None => None,
            };
            let Some(next) = next else {
                (self.inode, self.now_called) = (inode, None);
                return Ok(Some(Source::Plain(current)));
            };
            if let Some(source) = self.open_rotated(&next).await? {
                return Ok(Some(source));
            }
            // Deleted in this moment: the one after it is next.
            self.now_called = Some(next);
        }
    }

    async fn open_rotated(&mut self, name: &str) -> io::Result<Option<Source>> {
        let path = self.dir().join(name);
        let packed = self.dir().join(format!("{name}.gz"));
        self.now_called = Some(name.to_owned());
        match File::open(path).await {
            Ok(file) => {
                self.inode = file.metadata().await?.ino();
                return Ok(Some(Source::Plain(file)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        match std::fs::File::open(packed) {
            Ok(file) => {
                // No file of the chain has it.
                self.inode = 0;
                Ok(Some(unpack(file)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn dir(&self) -> &Path {
        self.log.parent().unwrap_or(&self.log)
    }

    /// Names without `.gz`, oldest first.
    fn rotated(&self) -> io::Result<BTreeSet<String>> {
        let entries = match std::fs::read_dir(self.dir()) {
            // The pod is gone with its logs: whoever follows has read them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other?,
        };
        let files = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(files.filter_map(|file| rotated(&self.name, &file).map(str::to_owned)).collect())
    }
}

fn unpack(file: std::fs::File) -> Source {
    let (blocks, received) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut unpacked = MultiGzDecoder::new(file);
        loop {
            let mut block = vec![0; 64 << 10];
            let read = unpacked.read(&mut block).map(|count| {
                block.truncate(count);
                block
            });
            let over = !matches!(&read, Ok(block) if !block.is_empty());
            let told = match read {
                Ok(block) if block.is_empty() => return,
                other => blocks.blocking_send(other),
            };
            if over || told.is_err() {
                return;
            }
        }
    });
    Source::Packed(received)
}

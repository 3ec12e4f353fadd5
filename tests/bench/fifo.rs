//! The line by which a container says that it runs.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Longest wait for one container; more is a failed run, not a figure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A FIFO in a folder that pods mount at `/bench`; each line that arrives is kept with its time.
pub(crate) struct Lines {
    folder: PathBuf,
    arrived: Receiver<(String, Instant)>,
}

impl Lines {
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("fifo");
        mkfifo(&path, Mode::from_bits_truncate(0o666)).context("making the FIFO")?;
        // Read and write: it never ends while writers come and go.
        let file: File = OpenOptions::new().read(true).write(true).open(path)?;
        let (tell, arrived) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                if tell.send((line, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(Self { folder: folder.into(), arrived })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// When the line `name` arrived.
    pub(crate) fn wait(&self, name: &str) -> Result<Instant> {
        loop {
            let (line, at) = self.arrived.recv_timeout(PATIENCE).with_context(|| format!("no line from {name}"))?;
            if line == name {
                return Ok(at);
            }
        }
    }

    /// When the last of `count` lines arrived.
    pub(crate) fn wait_for(&self, count: usize) -> Result<Instant> {
        let mut last = Instant::now();
        for seen in 0..count {
            last = self.arrived.recv_timeout(PATIENCE).with_context(|| format!("only {seen} of {count} lines"))?.1;
        }
        Ok(last)
    }
}

/// What a container of the bench runs: it says its name and waits.
pub(crate) fn command(name: &str) -> Vec<String> {
    let script = format!("echo {name} > /bench/fifo; trap 'exit 0' TERM; sleep 1000000 & wait");
    ["sh", "-c", &script].map(str::to_owned).into()
}

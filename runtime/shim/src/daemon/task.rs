//! A container's init or an exec, from the request to start it until it is forgotten.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use shim::wire::ExitRecord;

use super::files;
use super::process::{self, Process};
use super::stdio::{Stdio, Wanted};
use crate::launch::{self, Doing, Failure, Given};

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Container,
    Exec,
}

impl Kind {
    /// Name of the directory that has a directory for each.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Container => "c",
            Self::Exec => "x",
        }
    }
}

/// A child that has not come to its exec yet, and who waits for that.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) child: launch::Child,
    /// Key of the connection that asked.
    pub(super) asker: u64,
    /// Master of an exec's terminal, for the asker.
    pub(super) master: Option<OwnedFd>,
}

/// Where a task is in its life.
#[derive(Debug)]
pub(super) enum Life {
    Starting(Starting),
    Running,
    Ended(ExitRecord),
}

/// One container or exec.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: u32,
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) directory: PathBuf,
    pub(super) process: Process,
    pub(super) life: Life,
    /// A container's; an exec's streams are with whoever asked for it.
    pub(super) stdio: Option<Stdio>,
}

impl Task {
    /// Starts a container's init.
    pub(super) fn container(sandbox: &Path, id: &str, key: u32, asker: u64) -> Result<Self, Failure> {
        let directory = sandbox.join(Kind::Container.folder()).join(id);
        let launch = files::launch(&directory.join("launch"))?;
        let doing = || format!("preparing the streams of {id}");
        let wanted = Wanted::read(&directory).doing(doing)?;
        let (stdio, inner) = match launch.terminal {
            Some(_) => (Stdio::for_terminal(wanted).doing(doing)?, None),
            None => Stdio::make(&directory, wanted).doing(doing).map(|(stdio, inner)| (stdio, Some(inner)))?,
        };
        let given = Given { stdio: inner.as_ref().map(|inner| inner.each_ref().map(AsFd::as_fd)), executable: None };
        let child = launch::start(&launch, &given)?;
        Self::started(Kind::Container, id, directory, Starting { child, asker, master: None }, Some(stdio), key)
    }

    /// Starts an exec with the streams its asker gave, or a terminal.
    pub(super) fn exec(sandbox: &Path, id: &str, key: u32, asker: u64, streams: &[OwnedFd]) -> Result<Self, Failure> {
        let directory = sandbox.join(Kind::Exec.folder()).join(id);
        let launch = files::launch(&directory.join("launch"))?;
        let stdio = match (launch.terminal, streams) {
            (Some(_), []) => None,
            (None, [stdin, stdout, stderr]) => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
            _ => return Err(Failure::plain("an exec needs three descriptors or a terminal".into(), libc::EINVAL)),
        };
        let child = launch::start(&launch, &Given { stdio, executable: None })?;
        Self::started(Kind::Exec, id, directory, Starting { child, asker, master: None }, None, key)
    }

    /// Puts the child on record, then lets it run.
    fn started(
        kind: Kind,
        id: &str,
        directory: PathBuf,
        starting: Starting,
        stdio: Option<Stdio>,
        key: u32,
    ) -> Result<Self, Failure> {
        let pid = starting.child.pid;
        // On failure the gate stays closed, and the child ends when its socket is dropped here.
        files::replace(&directory.join("pid"), &process::record(pid).to_string())
            .doing(|| format!("writing the pid file of {id}"))?;
        starting.child.open_gate();
        let process = Process::child(pid);
        Ok(Self { key, id: id.to_owned(), kind, directory, process, life: Life::Starting(starting), stdio })
    }

    /// One that another shim has started: running, or ended with its exit on disk.
    pub(super) fn adopt(sandbox: &Path, kind: Kind, id: &str, key: u32) -> Option<Self> {
        let directory = sandbox.join(kind.folder()).join(id);
        let record = files::record(&directory.join("pid"))?;
        let ended = files::record(&directory.join("exit"));
        let process = if ended.is_none() { Process::adopt(record) } else { None };
        let stdio = match (&process, kind) {
            (Some(_), Kind::Container) => Stdio::adopt(&directory).ok(),
            _ => None,
        };
        let life = match (&process, ended) {
            (_, Some(exit)) => Life::Ended(exit),
            (Some(_), None) => Life::Running,
            (None, None) => {
                let note = "it ended while no shim was there to see it".to_owned();
                let exit = ExitRecord { code: 255, at: crate::sys::now(), note: Some(note) };
                // Told all the same if it can't be written: the next shim will come to the same.
                let _ = files::replace(&directory.join("exit"), &exit.to_string());
                Life::Ended(exit)
            }
        };
        let process = process.unwrap_or(Process { pid: record.pid, adopted: None });
        Some(Self { key, id: id.to_owned(), kind, directory, process, life, stdio })
    }

    pub(super) fn runs(&self) -> bool {
        !matches!(self.life, Life::Ended(_))
    }

    /// Takes back what a start has left behind that came to nothing.
    pub(super) fn undo(&self) {
        files::remove(&self.directory, &["pid", "out", "err", "in"]);
    }
}

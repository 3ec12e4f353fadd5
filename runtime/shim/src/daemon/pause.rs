//! The process that holds a pod's namespaces.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use shim::wire::ExitRecord;

use super::files;
use super::process::{self, Process};
use crate::launch::{self, Doing, Failure, Given, News};
use crate::sys;

/// How long its start may take, milliseconds.
const PATIENCE: i32 = 10_000;

/// The pause of this sandbox.
#[derive(Debug)]
pub(super) enum Pause {
    Running(Process),
    Ended(ExitRecord),
}

impl Pause {
    /// Starts it and waits until it runs.
    pub(super) fn start(sandbox: &Path) -> Result<Self, Failure> {
        let launch = files::launch(&sandbox.join("pause.launch"))?;
        let null = sys::open(Path::new("/dev/null"), libc::O_RDWR).doing(|| "opening /dev/null".into())?;
        let program =
            if launch.args.is_empty() { Some(program().doing(|| "preparing the pause".into())?) } else { None };
        let given = Given { stdio: Some([null.as_fd(); 3]), executable: program.as_ref().map(AsFd::as_fd) };
        let child = launch::start(&launch, &given)?;
        files::replace(&sandbox.join("pause.pid"), &process::record(child.pid).to_string())
            .doing(|| "writing the pause's pid file".into())?;
        child.open_gate();
        wait(&child).inspect_err(|_| {
            let _ = sys::process::kill(child.pid, libc::SIGKILL);
            files::remove(sandbox, &["pause.pid"]);
        })?;
        Ok(Self::Running(Process::child(child.pid)))
    }

    /// The one that another shim has started, if one has.
    pub(super) fn adopt(sandbox: &Path) -> Option<Self> {
        let record = files::record(&sandbox.join("pause.pid"))?;
        if let Some(exit) = files::record(&sandbox.join("pause.exit")) {
            return Some(Self::Ended(exit));
        }
        Some(Process::adopt(record).map_or_else(|| Self::end(sandbox, lost()), Self::Running))
    }

    /// Records its end.
    pub(super) fn end(sandbox: &Path, exit: ExitRecord) -> Self {
        // Told all the same if it can't be written: the next shim will find it dead.
        let _ = files::replace(&sandbox.join("pause.exit"), &exit.to_string());
        Self::Ended(exit)
    }

    pub(super) fn adopted(&self) -> Option<&OwnedFd> {
        match self {
            Self::Running(process) => process.adopted.as_ref(),
            Self::Ended(_) => None,
        }
    }
}

fn lost() -> ExitRecord {
    let note = "it ended while no shim was there to see it".to_owned();
    ExitRecord { code: 255, at: sys::now(), note: Some(note) }
}

fn wait(child: &launch::Child) -> Result<(), Failure> {
    let mut ready = [libc::pollfd { fd: child.control.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    sys::poll(&mut ready, PATIENCE).doing(|| "waiting for the pause".into())?;
    match child.news() {
        News::Running => Ok(()),
        News::Failed(failure) => Err(failure),
        News::Terminal(_) => Err(Failure::plain("a pause has no terminal".into(), libc::EINVAL)),
        News::Nothing => Err(Failure::new("starting the pause".into(), libc::ETIMEDOUT)),
    }
}

/// In memory and sealed: nobody in the pod can write to it through `/proc/<pid>/exe`.
fn program() -> io::Result<OwnedFd> {
    use std::io::Write;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_EXEC (0x10), later ones may insist on it.
    let made = memfd(flags | 0x10).or_else(|_| memfd(flags))?;
    let mut file = File::from(made);
    file.write_all(shim::PAUSE)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: only numbers.
    sys::check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

fn memfd(flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let number = sys::check(unsafe { libc::memfd_create(c"pause".as_ptr(), flags) })?;
    // SAFETY: freshly returned by the kernel.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

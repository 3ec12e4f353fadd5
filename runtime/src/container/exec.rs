//! A command beside a container's first process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::Kind;
use nix::fcntl::OFlag;
use shim::plan::Launch;
use shim::wire::{Reply, Request};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Container;
use crate::blocking::blocking;
use crate::cgroups::CgroupPath;
use crate::containers::{ExecRequest, LaunchError, LaunchFacts, launch};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::ids::ExecId;
use crate::sandbox::Sandbox;
use crate::signals::SIGKILL;
use crate::state::files::{make_dir, read, remove_dir, replace};

/// A spec with every environment variable a pod may have.
const LARGEST_SPEC: u64 = 4 << 20;

/// A killed process may take this long to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// Program and arguments.
    pub(crate) args: Vec<String>,
    /// On a terminal of its own.
    pub(crate) terminal: bool,
}

/// A command that runs. Dropped, it runs on, and its files are cleaned up when it ends.
#[derive(Debug)]
pub(crate) struct Running {
    id: ExecId,
    sandbox: Arc<Sandbox>,
    /// Its exit code.
    pub(crate) ended: oneshot::Receiver<i32>,
    /// The master of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

/// Starts `command` with these as its stdin, stdout and stderr, or on a terminal.
///
/// # Errors
/// The container does not run, or the command cannot be started.
pub(crate) async fn start(
    core: &Arc<Core>,
    container: &Arc<Container>,
    command: Command,
    stdio: Option<[OwnedFd; 3]>,
) -> Result<Running, LifeError> {
    let doing = || format!("executing {:?} in container {} ({})", command.args.join(" "), container.id, container.name);
    let sandbox = core.sandbox_of(container)?;
    let id = ExecId::random().doing(|| "choosing an id".into())?;
    prepare(core, &sandbox, container, &id, command.clone()).await.doing(doing)?;
    let ended = sandbox.execs.expect(id.as_str());
    let descriptors: Vec<BorrowedFd<'_>> = stdio.iter().flatten().map(AsFd::as_fd).collect();
    let asked = sandbox.link.ask(&Request::Exec { id: id.to_string() }, &descriptors).await;
    drop(stdio);
    let terminal = match asked {
        Ok((Reply::Started { .. }, mut received)) => received.pop(),
        Ok(_) => None,
        Err(error) => {
            sandbox.execs.forget(id.as_str());
            clean(&sandbox, &id).await;
            return Err(error).doing(doing);
        }
    };
    let (tell, wait) = oneshot::channel();
    let (work, stop) = (see_off(sandbox.clone(), id.clone(), ended, tell), core.stop.clone());
    // Left behind, it is forgotten by whoever opens the runtime next.
    core.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    Ok(Running { id, sandbox, ended: wait, terminal })
}

/// Waits for the end, hands it on, and removes what is left, whether or not anybody still waits.
async fn see_off(sandbox: Arc<Sandbox>, id: ExecId, ended: oneshot::Receiver<i32>, tell: oneshot::Sender<i32>) {
    if let Ok(code) = ended.await {
        let _ = tell.send(code);
    }
    if let Err(error) = sandbox.link.ask(&Request::Forget { id: id.to_string() }, &[]).await {
        debug!(exec = %id, error = chain(&error), "its shim does not forget an exec");
    }
    clean(&sandbox, &id).await;
}

async fn prepare(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    container: &Arc<Container>,
    id: &ExecId,
    command: Command,
) -> Result<(), LifeError> {
    let not_running = || LifeError::new(Kind::FailedPrecondition, "it does not run");
    let running = container.running().ok_or_else(not_running)?;
    let (core, container, dir) = (core.clone(), container.clone(), sandbox.dir.exec(id));
    blocking(move || {
        let alike = match container.beside.get() {
            Some(alike) => alike,
            None => {
                let made = alike(&core, &container, running.pid)?;
                container.beside.get_or_init(|| made)
            }
        };
        let request = ExecRequest { command: &command.args, terminal: command.terminal.then_some((0, 0)) };
        let launch = launch::exec(alike, &request).map_err(not_understood)?;
        make_dir(&dir).doing(|| "making its directory".into())?;
        replace(&dir.join("launch"), &launch.encode()).doing(|| "writing what to start".into())
    })
    .await
}

/// What every exec in a running container has alike. Blocks for one file.
fn alike(core: &Core, container: &Container, init: i32) -> Result<Launch, LifeError> {
    let path = container.dir.spec();
    let text = read(&path, LARGEST_SPEC).doing(|| "reading its OCI spec".into())?;
    let text = text.ok_or_else(|| LifeError::new(Kind::Internal, format!("{} is gone", path.display())))?;
    let spec = serde_json::from_slice(&text).doing(|| "understanding its OCI spec".into())?;
    let cgroup = CgroupPath::new(&container.record().cgroup).doing(|| "naming its cgroup".into())?;
    let cgroups = core.cgroups.entry_files(&cgroup);
    let facts = LaunchFacts { cgroups, cgroup_binds: Vec::new(), programs: &core.programs };
    launch::beside(&spec, init, &facts).map_err(not_understood)
}

fn not_understood(error: LaunchError) -> LifeError {
    LifeError::new(Kind::InvalidArgument, chain(&error))
}

async fn clean(sandbox: &Sandbox, id: &ExecId) {
    let dir = sandbox.dir.exec(id);
    if let Err(error) = blocking(move || remove_dir(&dir)).await {
        warn!(exec = %id, error = chain(&error), "removing what an exec left");
    }
}

impl Running {
    /// What can signal it without holding it.
    pub(crate) fn signaller(&self) -> Signaller {
        Signaller { id: self.id.clone(), sandbox: self.sandbox.clone() }
    }

    /// Kills it with its children, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.signaller().send(SIGKILL).await;
        if timeout(PATIENCE, &mut self.ended).await.is_err() {
            warn!(exec = %self.id, "an exec does not end after SIGKILL");
        }
    }
}

/// Sends signals to an exec.
#[derive(Debug)]
pub(crate) struct Signaller {
    id: ExecId,
    sandbox: Arc<Sandbox>,
}

impl Signaller {
    /// Sends `signal` to it, its group and its session. One that has ended already is fine.
    pub(crate) async fn send(&self, signal: i32) {
        let request = Request::Signal { id: self.id.to_string(), signal, whole_session: true };
        if let Err(error) = self.sandbox.link.ask(&request, &[]).await {
            debug!(exec = %self.id, error = chain(&error), "signalling an exec");
        }
    }
}

nix::ioctl_write_ptr_bad!(tiocswinsz, libc::TIOCSWINSZ, libc::winsize);

pub(crate) fn set_size(terminal: &OwnedFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one `winsize`, which outlives the call; the descriptor is open.
    unsafe { tiocswinsz(std::os::fd::AsRawFd::as_raw_fd(terminal), &size) }?;
    Ok(())
}

/// A pipe whose ends no child of ours inherits by accident.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

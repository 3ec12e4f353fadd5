//! Starting a shim, and with it the pause, or a successor for one that was killed.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::Kind;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tracing::warn;

use super::Sandbox;
use crate::binaries;
use crate::blocking::blocking;
use crate::cgroups::CgroupPath;
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};

/// A shim is there within milliseconds; this is for a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest reason a shim gives for not starting, bytes.
const LONGEST_REASON: u64 = 4096;

/// Starts it and waits until it answers and the pause runs. It outlives us: it makes a session of its own, and moves to
/// the pod's cgroup.
pub(crate) async fn start(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    let mut child = spawn(sandbox).doing(|| "starting its shim".into())?;
    let pid = child.id();
    let stdout = child.stdout.take();
    // Reaped when it ends; that it has ended is seen on its socket. It outlives our other tasks, and nobody waits for it.
    tokio::spawn(async move { child.wait().await });
    if let Some(pid) = pid {
        move_to_pod(core, sandbox, pid);
    }
    match timeout(PATIENCE, reason(stdout)).await {
        Ok(reason) if reason.is_empty() => Ok(()),
        Ok(reason) => Err(LifeError::new(Kind::Internal, format!("its shim: {reason}"))),
        Err(_) => Err(LifeError::new(Kind::DeadlineExceeded, "its shim does not answer")),
    }
}

fn spawn(sandbox: &Sandbox) -> std::io::Result<Child> {
    Command::new(binaries::executable_path(binaries::shim()?))
        .arg(sandbox.dir.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Beside everything else: the kernel takes a grace period of 10 ms for moving another process, and the shim's own work
/// does not depend on it. One that we were killed before moving is moved when it is found again.
pub(crate) fn move_to_pod(core: &Arc<Core>, sandbox: &Arc<Sandbox>, pid: u32) {
    let (of_core, sandbox) = (core.clone(), sandbox.clone());
    core.tasks.spawn(blocking(move || {
        let moved = CgroupPath::new(&sandbox.record().cgroup()).doing(|| "naming its cgroup".into()).and_then(|path| {
            let files = of_core.cgroups.procs_files(&path);
            files.iter().try_for_each(|file| enter(file, pid)).doing(|| format!("moving it to {path}"))
        });
        if let Err(error) = moved {
            warn!(sandbox = %sandbox.id, shim = pid, error = chain(&error), "a shim stays in our own cgroup");
        }
    }));
}

fn enter(file: &Path, pid: u32) -> std::io::Result<()> {
    match std::fs::write(file, pid.to_string()) {
        // It has ended already, with its pod.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Ok(()),
        written => written,
    }
}

/// What it says before it closes its output: nothing when all is well.
async fn reason(stdout: Option<ChildStdout>) -> String {
    let Some(stdout) = stdout else { return String::new() };
    let mut text = Vec::new();
    // A broken pipe is the end as well: then its socket tells whether it is there.
    let _ = stdout.take(LONGEST_REASON).read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

//! Starting a shim, and with it the pause, or a successor for one that was killed.

use std::process::Stdio;
use std::time::Duration;

use cri_proto::Kind;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::Sandbox;
use crate::binaries;
use crate::error::{Doing, LifeError};

/// A shim is there within milliseconds; this is for a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest reason a shim gives for not starting, bytes.
const LONGEST_REASON: u64 = 4096;

/// Starts it and waits until it answers and the pause runs. It outlives us: it makes a session of its own, in the pod's
/// cgroup.
pub(crate) async fn start(sandbox: &Sandbox) -> Result<(), LifeError> {
    let mut child = spawn(sandbox).doing(|| "starting its shim".into())?;
    let stdout = child.stdout.take();
    // It goes on as a child of its own; what we started ends at once and wants to be reaped.
    tokio::spawn(async move { child.wait().await });
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

/// What it says before it closes its output: nothing when all is well.
async fn reason(stdout: Option<ChildStdout>) -> String {
    let Some(stdout) = stdout else { return String::new() };
    let mut text = Vec::new();
    // A broken pipe is the end as well: then its socket tells whether it is there.
    let _ = stdout.take(LONGEST_REASON).read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

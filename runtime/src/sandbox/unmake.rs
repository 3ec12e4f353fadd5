//! Giving back what a sandbox holds. Every step can be repeated, and each is tried whatever became of the others.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::ContainerEventType;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shim::wire::{PidRecord, Request};
use tracing::warn;

use super::{Sandbox, files};
use crate::blocking::blocking;
use crate::cgroups::CgroupPath;
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::state::records::SandboxPhase;
use crate::state::{facts, files as disk};
use crate::{container, process};

/// How long killed processes may take to be gone: the kernel frees their memory first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends everything that runs in the sandbox and gives its network, namespaces and mounts back. Its record stays.
///
/// # Errors
/// The first step that failed, after all were tried; the call can be repeated.
pub(crate) async fn stop(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    let _alone = sandbox.changes.write().await;
    if sandbox.phase() == SandboxPhase::Stopped {
        return Ok(());
    }
    let was_ready = sandbox.phase() == SandboxPhase::Ready;
    sandbox.advance(SandboxPhase::Stopping);
    kill_containers(core, sandbox).await.doing(|| doing(sandbox))?;
    release(core, sandbox).await.doing(|| doing(sandbox))?;
    sandbox.advance(SandboxPhase::Stopped);
    if was_ready {
        core.tell_sandbox(ContainerEventType::ContainerStoppedEvent, sandbox);
    }
    Ok(())
}

fn doing(sandbox: &Sandbox) -> String {
    format!("stopping sandbox {} of {}", sandbox.id, sandbox.name)
}

async fn kill_containers(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    let kills = sandbox.containers().into_iter().map(|container| {
        let core = core.clone();
        async move { container::stop::kill(&core, &container, PATIENCE).await }
    });
    futures::future::join_all(kills).await.into_iter().collect()
}

/// Network, shim and pause, mounts, cgroup: what a sandbox holds besides its containers.
pub(super) async fn release(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    let (network, processes) = tokio::join!(detach(core, sandbox), end_shim(sandbox));
    sandbox.execs.give_up();
    let rest = {
        let (core, sandbox) = (core.clone(), sandbox.clone());
        blocking(move || release_files(&core, &sandbox)).await
    };
    // All were tried; the first is the one to tell, the others come again with the next try.
    for (error, later) in [(network.as_ref().err(), &processes), (processes.as_ref().err(), &rest)] {
        if let (Some(_), Err(later)) = (error, later) {
            warn!(sandbox = %sandbox.id, error = chain(later), "another step of giving a sandbox back failed");
        }
    }
    network.and(processes).and(rest)
}

async fn detach(core: &Core, sandbox: &Sandbox) -> Result<(), LifeError> {
    if !sandbox.record().own_network {
        return Ok(());
    }
    let id = super::network::id_of(&sandbox.id)?;
    core.network.detach(&id).await.doing(|| "taking its network back".into())
}

/// Asks the shim to end, and sees to it when it does not.
async fn end_shim(sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    if let Err(error) = sandbox.link.ask(&Request::Shutdown, &[]).await
        && !error.is_gone()
    {
        warn!(sandbox = %sandbox.id, error = chain(&error), "its shim does not shut down when asked");
    }
    let sandbox = sandbox.clone();
    blocking(move || {
        let (pause, shim) = (facts::process(&sandbox.dir.pause_pid()), facts::process(&sandbox.dir.shim_pid()));
        let notes = [pause, shim].into_iter().filter_map(|note| note.ok().flatten());
        notes.for_each(|note| end_process(&note));
    })
    .await;
    Ok(())
}

/// Waits for a process to be gone, and kills it when it takes too long. One that is gone already is fine.
fn end_process(note: &PidRecord) {
    // A shim that was asked to ends in a millisecond or two.
    if process::wait_gone(note, Duration::from_secs(1)) {
        return;
    }
    if process::is_alive(note) {
        let _ = kill(Pid::from_raw(note.pid), Signal::SIGKILL);
        process::wait_gone(note, PATIENCE);
    }
}

fn release_files(core: &Core, sandbox: &Sandbox) -> Result<(), LifeError> {
    let record = sandbox.record();
    let shm = files::unmount_all(&sandbox.dir.shm()).doing(|| "giving its shared memory back".into());
    let net = files::unmount_all(&sandbox.dir.netns()).doing(|| "giving its network namespace back".into());
    let users = files::unmount_all(&sandbox.dir.users()).doing(|| "giving its user namespace back".into());
    let own = CgroupPath::new(&record.cgroup()).and_then(|path| core.cgroups.remove(&path, PATIENCE));
    shm.and(net).and(users).and(own.doing(|| "removing its cgroup".into()))
}

/// Removes what is left of a stopped sandbox and its containers.
///
/// # Errors
/// The first step that failed; the call can be repeated.
pub(crate) async fn remove(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    stop(core, sandbox).await?;
    let doing = || format!("removing sandbox {} of {}", sandbox.id, sandbox.name);
    let removals = sandbox
        .containers()
        .into_iter()
        .map(|container| async move { container::remove::remove(core, &container).await });
    futures::future::join_all(removals).await.into_iter().collect::<Result<(), _>>().doing(doing)?;
    let _alone = sandbox.changes.write().await;
    if core.sandbox(sandbox.id.as_str()).is_err() {
        // Somebody else removed it while we waited.
        return Ok(());
    }
    let (of_core, of_sandbox) = (core.clone(), sandbox.clone());
    blocking(move || remove_rest(&of_core, &of_sandbox)).await.doing(doing)?;
    core.forget_sandbox(sandbox);
    core.tell_sandbox(ContainerEventType::ContainerDeletedEvent, sandbox);
    Ok(())
}

/// The record goes last: as long as it is there, a restart finds the rest.
pub(super) fn remove_rest(core: &Core, sandbox: &Sandbox) -> Result<(), LifeError> {
    let record = sandbox.record();
    if record.owns_cgroup_parent {
        let parent = CgroupPath::new(&record.cgroup_parent).and_then(|path| core.cgroups.remove(&path, PATIENCE));
        parent.doing(|| "removing its cgroup".into())?;
    }
    for part in [sandbox.dir.execs(), sandbox.dir.containers(), sandbox.dir.shm()] {
        disk::remove_dir(&part).doing(|| "removing its files".into())?;
    }
    disk::remove_dir(sandbox.dir.path()).doing(|| "removing its files".into())
}

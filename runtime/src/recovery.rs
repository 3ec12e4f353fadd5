//! What is found at start, and what becomes of it.
//!
//! ```text
//! another boot            its sandboxes are gone with the machine: their records go
//! no record, or Creating  half made: taken away
//! Ready, Stopping         found again: shim reconnected or replaced, ends learned, watched
//! Stopped                 found again: only its record is left
//! snapshot, lease, exec of nobody   taken away
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cri_proto::v1;
use tracing::{info, warn};

use crate::blocking::{blocking, now_ns};
use crate::cgroups::CgroupPath;
use crate::container::{Container, finish, image_mounts, remove, stop};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::ids::{ContainerId, SandboxId};
use crate::options::OpenError;
use crate::sandbox::{Sandbox, make, network, watch};
use crate::state::facts;
use crate::state::files::{make_dir, read, remove_dir, replace};
use crate::state::layout::{Layout, SandboxDir};
use crate::state::records::{self, ContainerPhase, ContainerRecord, SandboxPhase, SandboxRecord};

/// After a reboot nothing below the run directory means anything: no process, mount or namespace of it is left.
pub(crate) fn forget_earlier_boot(layout: &Layout) -> Result<(), OpenError> {
    let now = std::fs::read("/proc/sys/kernel/random/boot_id").map_err(OpenError::Boot)?;
    let before = read(&layout.boot(), 256)?;
    if before.is_some_and(|before| before != now) {
        info!("the machine was rebooted: the containers of before are gone");
        remove_dir(&layout.pods())?;
    }
    make_dir(&layout.pods())?;
    replace(&layout.boot(), &now)?;
    Ok(())
}

/// Finds everything again. What cannot be understood or taken away is told in the log and left for the next start: one
/// broken sandbox does not keep a node from starting.
pub(crate) async fn recover(core: &Arc<Core>) {
    let ids = {
        let pods = core.layout.pods();
        blocking(move || names_in::<SandboxId>(&pods)).await
    };
    futures::future::join_all(ids.into_iter().map(|id| sandbox(core, id))).await;
    release_strangers(core).await;
}

/// Sub-directories whose names are ids. Others are not ours.
fn names_in<I: for<'a> TryFrom<&'a str>>(path: &Path) -> Vec<I> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter_map(|entry| I::try_from(entry.file_name().to_str()?).ok()).collect()
}

async fn sandbox(core: &Arc<Core>, id: SandboxId) {
    let dir = core.layout.sandbox(&id);
    let (for_load, for_id) = (dir.clone(), id.clone());
    let loaded = blocking(move || load(&for_load, &for_id)).await;
    let result = match loaded {
        Ok((sandbox, SandboxPhase::Creating)) => {
            info!(sandbox = %id, "taking a half-made sandbox away");
            make::undo(core, &sandbox).await;
            Ok(())
        }
        Ok((sandbox, _)) => adopt(core, &sandbox).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        warn!(sandbox = %id, error = chain(&error), "a sandbox could not be recovered");
    }
}

/// One without a record was killed before anything was made of it.
fn load(dir: &SandboxDir, id: &SandboxId) -> Result<(Arc<Sandbox>, SandboxPhase), LifeError> {
    let doing = || format!("reading the records of sandbox {id}");
    let record = records::load::<SandboxRecord>(&dir.state()).doing(doing)?;
    let config = records::load_message::<v1::PodSandboxConfig>(&dir.config()).doing(doing)?;
    let half_made = || SandboxRecord {
        id: id.clone(),
        phase: SandboxPhase::Creating,
        created_at: now_ns(),
        cgroup_parent: format!("{}/{id}", make::DEFAULT_CGROUP),
        owns_cgroup_parent: true,
        runtime_handler: String::new(),
        own_network: true,
        addresses: Vec::new(),
    };
    let record = match (&config, record) {
        (Some(_), Some(record)) => record,
        (None, Some(record)) => SandboxRecord { phase: SandboxPhase::Creating, ..record },
        (_, None) => half_made(),
    };
    let phase = record.phase;
    Ok((Arc::new(Sandbox::new(dir.clone(), config.unwrap_or_default(), record)), phase))
}

async fn adopt(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    core.sandbox_names.adopt(sandbox.name.clone(), sandbox.clone());
    core.add_sandbox(sandbox);
    let path = sandbox.dir.containers();
    let ids = blocking(move || names_in::<ContainerId>(&path)).await;
    for id in ids {
        if let Err(error) = container(core, sandbox, &id).await {
            warn!(container = %id, error = chain(&error), "a container could not be recovered");
        }
    }
    if sandbox.phase() != SandboxPhase::Stopped {
        watch::start(core, sandbox);
    }
    Ok(())
}

async fn container(core: &Arc<Core>, sandbox: &Arc<Sandbox>, id: &ContainerId) -> Result<(), LifeError> {
    let (of_core, of_sandbox, of_id) = (core.clone(), sandbox.clone(), id.clone());
    let container = blocking(move || load_container(&of_core, &of_sandbox, &of_id)).await?;
    let container = Arc::new(container);
    match container.record().phase {
        ContainerPhase::Creating => {
            info!(container = %id, "taking a half-made container away");
            return remove::give_back(core, sandbox, &container).await;
        }
        ContainerPhase::Exited(_) => {
            let (of_core, of_task) = (core.clone(), container.clone());
            blocking(move || finish::remove_cgroup(&of_core, &of_task)).await;
        }
        ContainerPhase::Created | ContainerPhase::Running(_) => {}
    }
    core.container_names.adopt(container.name.clone(), container.clone());
    core.add_container(sandbox, &container);
    // With no shim to come there is nobody who could tell its end later.
    if container.running().is_some() && sandbox.phase() == SandboxPhase::Stopped {
        stop::note_lost(core, sandbox, &container).await;
    }
    Ok(())
}

fn load_container(core: &Core, sandbox: &Sandbox, id: &ContainerId) -> Result<Container, LifeError> {
    let dir = sandbox.dir.container(id);
    let doing = || format!("reading the records of container {id}");
    let record = records::load::<ContainerRecord>(&dir.state()).doing(doing)?;
    let config = records::load_message::<v1::ContainerConfig>(&dir.config()).doing(doing)?;
    let (Some(record), Some(config)) = (record, config) else {
        return Ok(half_made(sandbox, id));
    };
    let (started, ended) = facts::read(&dir).doing(doing)?;
    let written = record.phase.clone();
    let oom_killed = || CgroupPath::new(&record.cgroup).is_ok_and(|path| core.cgroups.oom_kills(&path) > 0);
    let phase = facts::settle(record.phase.clone(), started, ended, oom_killed);
    let container =
        Container::new(dir, sandbox.id.clone(), config, ContainerRecord { phase: written.clone(), ..record });
    match phase {
        ContainerPhase::Running(running) => drop(container.runs(running)),
        ContainerPhase::Exited(exited) if written != ContainerPhase::Exited(exited.clone()) => {
            container.ended(exited).doing(doing)?;
        }
        _ => {}
    }
    Ok(container)
}

/// What can be said of a container whose record was never written.
fn half_made(sandbox: &Sandbox, id: &ContainerId) -> Container {
    let record = ContainerRecord {
        id: id.clone(),
        phase: ContainerPhase::Creating,
        created_at: now_ns(),
        cgroup: sandbox.record().cgroup_of(id),
        image_ref: String::new(),
        image_id: String::new(),
        user: records::UserRecord::default(),
        stop_signal: crate::signals::SIGTERM,
        own_pid_namespace: false,
    };
    Container::new(sandbox.dir.container(id), sandbox.id.clone(), v1::ContainerConfig::default(), record)
}

/// Root file systems and addresses whose owners are gone: after a crash in a removal, or a reboot.
async fn release_strangers(core: &Arc<Core>) {
    let known: BTreeSet<String> = core.containers().iter().map(|container| container.id.to_string()).collect();
    for id in core.images.snapshots().into_iter().filter(|id| !known.contains(image_mounts::owner(id))) {
        if let Err(error) = core.images.remove_snapshot(&id).await {
            warn!(container = id, error = chain(&error), "removing the root file system of a container that is gone");
        }
    }
    let known: BTreeSet<cni::SandboxId> =
        core.sandboxes().iter().filter_map(|sandbox| network::id_of(&sandbox.id).ok()).collect();
    match core.network.release_unknown(&known).await {
        Ok(released) if released == cni::Released::default() => {}
        Ok(released) => info!(?released, "took network addresses and links of sandboxes back that are gone"),
        Err(error) => warn!(error = chain(&error), "taking back network addresses of sandboxes that are gone"),
    }
}

//! Making a sandbox: recorded first, then made as one, or undone as one.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::security_profile::ProfileType;
use cri_proto::v1::{self, ContainerEventType};
use shim::plan::{Launch, UserNamespace};
use tracing::warn;

use super::users::{self, Ids};
use super::wish::Wish;
use super::{Sandbox, files, namespaces, network, shim_process, unmake, watch};
use crate::blocking::{blocking, now_ns};
use crate::cgroups::{CgroupPath, Resources};
use crate::containers::HostFacts;
use crate::containers::seccomp::{self, SeccompError};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::ids::SandboxId;
use crate::state::files::{make_dir, replace, write_shared};
use crate::state::records::{self, SandboxPhase, SandboxRecord};

/// Where pods live for which nobody named a cgroup.
pub(crate) const DEFAULT_CGROUP: &str = "/longshore";

/// Makes what `wish` says.
///
/// # Errors
/// The first step that failed; nothing of the sandbox is left then, or what is left is taken away at the next start.
pub(crate) async fn make(core: &Arc<Core>, wish: Wish) -> Result<Arc<Sandbox>, LifeError> {
    let doing = format!("making a sandbox for {}", wish.name);
    let sandbox = Arc::new(begin(core, &wish).await.doing(|| doing.clone())?);
    match fill(core, &sandbox, &wish).await {
        Ok(()) => {
            core.add_sandbox(&sandbox);
            watch::start(core, &sandbox);
            core.tell_sandbox(ContainerEventType::ContainerCreatedEvent, &sandbox);
            core.tell_sandbox(ContainerEventType::ContainerStartedEvent, &sandbox);
            Ok(sandbox)
        }
        Err(error) => {
            undo(core, &sandbox).await;
            Err(error).doing(|| doing)
        }
    }
}

/// When a half-made sandbox is tried to be taken away again: the first wait is for a shim that was just being started.
const TRIES: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
];

/// Takes a half-made sandbox away; what does not go at once is tried again beside everything else, and after that at
/// the next start.
pub(crate) async fn undo(core: &Arc<Core>, sandbox: &Arc<Sandbox>) {
    let Err(error) = undo_once(core, sandbox).await else { return };
    warn!(sandbox = %sandbox.id, error = chain(&error), "a half-made sandbox could not be taken away yet");
    let (of_core, sandbox) = (core.clone(), sandbox.clone());
    let again = async move {
        for wait in TRIES {
            tokio::time::sleep(wait).await;
            match undo_once(&of_core, &sandbox).await {
                Ok(()) => return,
                Err(error) => warn!(sandbox = %sandbox.id, error = chain(&error), "nor could it now"),
            }
        }
    };
    let stop = core.stop.clone();
    core.tasks.spawn(async move { stop.run_until_cancelled(again).await });
}

async fn undo_once(core: &Arc<Core>, sandbox: &Arc<Sandbox>) -> Result<(), LifeError> {
    unmake::release(core, sandbox).await?;
    let (core, sandbox) = (core.clone(), sandbox.clone());
    blocking(move || unmake::remove_rest(&core, &sandbox)).await
}

/// Writes down what is going to be made.
async fn begin(core: &Arc<Core>, wish: &Wish) -> Result<Sandbox, LifeError> {
    let id = SandboxId::random().doing(|| "choosing an id".into())?;
    let owns_cgroup_parent = wish.cgroup_parent.is_empty();
    let record = SandboxRecord {
        phase: SandboxPhase::Creating,
        created_at: now_ns(),
        cgroup_parent: if owns_cgroup_parent { format!("{DEFAULT_CGROUP}/{id}") } else { wish.cgroup_parent.clone() },
        owns_cgroup_parent,
        runtime_handler: wish.handler.clone(),
        own_network: wish.own.network,
        addresses: Vec::new(),
        id,
    };
    let (dir, config) = (core.layout.sandbox(&record.id), wish.config.clone());
    blocking(move || {
        make_dir(dir.path())?;
        records::save(&dir.state(), &record)?;
        records::save_message(&dir.config(), &config)?;
        Ok(Sandbox::new(dir, config, record))
    })
    .await
    .map_err(|error: crate::state::files::FileError| LifeError::because("writing its record", error))
}

/// Two rounds of steps that do not depend on each other. Every started step is waited for, also when another has
/// failed: what it makes must be there to be undone.
async fn fill(core: &Arc<Core>, sandbox: &Arc<Sandbox>, wish: &Wish) -> Result<(), LifeError> {
    let (prepared, pinned) = tokio::join!(prepare(core, sandbox, wish), pin_namespaces(sandbox, wish.users));
    prepared.and(pinned)?;
    let (addresses, started) = tokio::join!(network::attach(core, sandbox), shim_process::start(sandbox));
    let addresses = started.and(addresses)?;
    let ready = sandbox.update(|record| {
        record.addresses = addresses;
        record.phase = SandboxPhase::Ready;
    });
    ready.doing(|| "writing its record".into())
}

async fn pin_namespaces(sandbox: &Arc<Sandbox>, ids: Option<Ids>) -> Result<(), LifeError> {
    let Some(path) = sandbox.netns() else { return Ok(()) };
    if let Some(ids) = ids {
        let users = sandbox.dir.users();
        return blocking(move || users::pin(&users, &path, ids)).await.doing(|| "making its namespaces".into());
    }
    blocking(move || namespaces::pin_new_network(&path)).await.doing(|| "making its network namespace".into())
}

async fn prepare(core: &Arc<Core>, sandbox: &Arc<Sandbox>, wish: &Wish) -> Result<(), LifeError> {
    let (core, sandbox, wish) = (core.clone(), sandbox.clone(), wish.clone());
    blocking(move || {
        let dir = &sandbox.dir;
        make_dir(&dir.containers()).doing(|| "making its directory".into())?;
        make_dir(&dir.execs()).doing(|| "making its directory".into())?;
        let record = sandbox.record();
        let path = CgroupPath::new(&record.cgroup()).doing(|| "naming its cgroup".into())?;
        make_cgroups(&core, &record, &path, &wish.config).doing(|| "making its cgroup".into())?;
        let launch = Launch {
            seccomp: pause_filter(&core, &wish.config).doing(|| "confining the pause".into())?,
            users: wish.users.map(|ids| UserNamespace { path: dir.users(), uid: ids.uid, gid: ids.gid }),
            ..wish.pause(sandbox.netns(), core.cgroups.entry_files(&path), pause_score(&core.host))
        };
        replace(&dir.pause_launch(), &launch.encode()).doing(|| "writing what to start".into())?;
        let dns = wish.config.dns_config.as_ref();
        files::write_resolv_conf(&dir.resolv_conf(), dns).doing(|| "writing its DNS settings".into())?;
        files::copy_shared("/etc/hosts".as_ref(), &dir.hosts()).doing(|| "writing its hosts".into())?;
        let name = hostname(&wish);
        write_shared(&dir.hostname(), format!("{name}\n").as_bytes()).doing(|| "writing its hostname".into())?;
        if wish.own.ipc {
            files::mount_shm(&dir.shm(), wish.users).doing(|| "making its shared memory".into())?;
        }
        // Its root may change them, as root of any other pod may.
        let shared = [dir.resolv_conf(), dir.hosts(), dir.hostname()];
        match wish.users {
            Some(ids) => {
                shared.iter().try_for_each(|file| std::os::unix::fs::chown(file, Some(ids.uid), Some(ids.gid)))
            }
            None => Ok(()),
        }
        .doing(|| "giving it its files".into())
    })
    .await
}

/// Nobody talks to the pause, and it asks the kernel for next to nothing: unless the pod wants it unconfined, it is
/// held to what a container without capabilities may do.
fn pause_filter(core: &Core, config: &v1::PodSandboxConfig) -> Result<Vec<u8>, SeccompError> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let profile = security.and_then(|security| security.seccomp.as_ref());
    if profile.is_some_and(|profile| profile.profile_type() == ProfileType::Unconfined) {
        return Ok(Vec::new());
    }
    Ok(core.programs.of(&seccomp::runtime_default(0))?.bytes.to_vec())
}

/// What runtimes give the pause: the kernel kills everything else of the pod first. Without CAP_SYS_RESOURCE a score
/// below our own is refused.
fn pause_score(host: &HostFacts) -> i32 {
    if host.sys_resource { -998 } else { host.oom_score_adj.max(-998) }
}

/// The pod's own group is the caller's, unless nobody named one: then its limits are ours to set.
fn make_cgroups(
    core: &Core,
    record: &SandboxRecord,
    own: &CgroupPath,
    config: &v1::PodSandboxConfig,
) -> Result<(), crate::cgroups::CgroupError> {
    if record.owns_cgroup_parent {
        let limits = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        core.cgroups
            .create(&CgroupPath::new(&record.cgroup_parent)?, &limits.map(Resources::from).unwrap_or_default())?;
    }
    core.cgroups.create(own, &Resources::default())
}

/// The pod's name for itself: its own, or the node's where it shares the node's network.
pub(crate) fn hostname(wish: &Wish) -> String {
    match (wish.own.network, wish.config.hostname.as_str()) {
        (true, name) if !name.is_empty() => name.to_owned(),
        _ => node_name(),
    }
}

/// The node's hostname, as the kernel has it.
pub(crate) fn node_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

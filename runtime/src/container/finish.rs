//! The end of a container: worked out, written down, told; and then its cgroup goes.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::ContainerEventType;
use shim::wire::ExitRecord;
use tracing::{error, warn};

use super::Container;
use crate::blocking::blocking;
use crate::cgroups::CgroupPath;
use crate::core::Core;
use crate::error::chain;
use crate::sandbox::Sandbox;
use crate::state::facts;
use crate::state::records::ContainerPhase;

/// Processes that were just killed; the kernel frees their memory first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Its first process has ended: the shim has written how, or `told` it because it could not write. Fine to call again.
pub(crate) async fn finish(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    container: &Arc<Container>,
    told: Option<ExitRecord>,
) {
    let _changes = container.changes.lock().await;
    if matches!(container.record().phase, ContainerPhase::Exited(_)) {
        return;
    }
    let (of_core, of_task) = (core.clone(), container.clone());
    if !blocking(move || settle(&of_core, &of_task, told)).await {
        return;
    }
    core.tell(ContainerEventType::ContainerStoppedEvent, sandbox, container);
    let (of_core, of_task) = (core.clone(), container.clone());
    blocking(move || remove_cgroup(&of_core, &of_task)).await;
}

/// `true` when it has ended by what is on disk or was told.
fn settle(core: &Core, container: &Container, told: Option<ExitRecord>) -> bool {
    let record = container.record();
    let (started, ended) = facts::read(&container.dir).unwrap_or_else(|error| {
        error!(container = %container.id, error = chain(&error), "reading how a container ended");
        (None, None)
    });
    let path = CgroupPath::new(&record.cgroup);
    let oom_killed = || path.as_ref().is_ok_and(|path| core.cgroups.oom_kills(path) > 0);
    let ContainerPhase::Exited(exited) = facts::settle(record.phase, started, ended.or(told), oom_killed) else {
        return false;
    };
    // Without a pid namespace of its own its children live on; they end before anyone is told that it has.
    if let (false, Ok(path)) = (record.own_pid_namespace, &path)
        && let Err(error) = core.cgroups.kill(path)
    {
        warn!(container = %container.id, error = chain(&error), "killing what an ended container left running");
    }
    if let Err(error) = container.ended(exited) {
        error!(container = %container.id, error = chain(&error), "writing how a container ended");
    }
    true
}

/// What stays is removed with the container.
pub(crate) fn remove_cgroup(core: &Core, container: &Container) {
    let removed = CgroupPath::new(&container.record().cgroup).and_then(|path| core.cgroups.remove(&path, PATIENCE));
    if let Err(error) = removed {
        warn!(container = %container.id, error = chain(&error), "removing the cgroup of an ended container");
    }
}

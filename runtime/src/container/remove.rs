//! Removing a container, whatever state it is in.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::v1::ContainerEventType;
use shim::wire::Request;
use tracing::debug;

use super::{Container, image_mounts, mapped, stop};
use crate::blocking::blocking;
use crate::cgroups::CgroupPath;
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::sandbox::Sandbox;
use crate::state::files;

/// Killed processes may take this long to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills it if it runs, and gives back everything it has. Fine to call again after a failure.
///
/// # Errors
/// The first step that failed.
pub(crate) async fn remove(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), LifeError> {
    let sandbox = core.sandbox_of(container)?;
    let doing = || format!("removing container {} ({})", container.id, container.name);
    stop::kill(core, container, PATIENCE).await.doing(doing)?;
    let _changes = container.changes.lock().await;
    if core.container(container.id.as_str()).is_err() {
        // Somebody else removed it while we waited.
        return Ok(());
    }
    give_back(core, &sandbox, container).await.doing(doing)?;
    core.forget_container(&sandbox, container);
    core.tell(ContainerEventType::ContainerDeletedEvent, &sandbox, container);
    Ok(())
}

/// Root file system, cgroup, the shim's memory of it, and its files, the record among them last.
pub(crate) async fn give_back(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    container: &Arc<Container>,
) -> Result<(), LifeError> {
    // A shim that is gone, or never heard of it, has nothing to forget.
    if let Err(error) = sandbox.link.ask(&Request::Forget { id: container.id.to_string() }, &[]).await {
        debug!(container = %container.id, error = chain(&error), "its shim does not forget it");
    }
    let (of_core, of_task) = (core.clone(), container.clone());
    blocking(move || {
        CgroupPath::new(&of_task.record().cgroup).and_then(|path| of_core.cgroups.remove(&path, PATIENCE))
    })
    .await
    .doing(|| "removing its cgroup".into())?;
    // What is mounted there is somebody else's: nothing is removed through it.
    let of_task = container.clone();
    blocking(move || mapped::unmap(&of_task)).await?;
    image_mounts::give_back(core, container).await?;
    core.images.remove_snapshot(container.id.as_str()).await.doing(|| "removing its root file system".into())?;
    let dir = container.dir.clone();
    blocking(move || files::remove_dir(dir.path())).await.doing(|| "removing its files".into())
}

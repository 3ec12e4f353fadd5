//! Calls about containers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, Kind, v1};
use shim::wire::Request;
use tracing::info;

use super::sandboxes::absent_is_fine;
use super::{filter, patience, view};
use crate::Embedded;
use crate::blocking::blocking;
use crate::cgroups::{CgroupPath, Resources};
use crate::container::{Container, ContainerName, create, exec_sync, remove, start, stop};
use crate::error::{Doing, LifeError};
use crate::sandbox::Sandbox;
use crate::state::names::{Claim, Reservation};
use crate::state::records::ContainerPhase;

impl Embedded {
    pub(super) async fn make_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> Result<v1::CreateContainerResponse, LifeError> {
        let sandbox = self.core.sandbox(&request.pod_sandbox_id)?;
        let bad = |why: &str| LifeError::new(Kind::InvalidArgument, why);
        let config = request.config.ok_or_else(|| bad("the request holds no container configuration"))?;
        let metadata = config.metadata.as_ref().ok_or_else(|| bad("the container has no metadata"))?;
        let name = ContainerName::of(&sandbox.id, metadata);
        loop {
            let found = match self.core.container_names.claim(&name) {
                Claim::Mine(reservation) => {
                    let id = self.make_in_task(sandbox, config, reservation).await?;
                    return Ok(v1::CreateContainerResponse { container_id: id });
                }
                Claim::Making(pending) => pending.made().await,
                Claim::Made(container) => Some(container),
            };
            let Some(container) = found else { continue };
            match container.record().phase {
                ContainerPhase::Created if *container.config() == config => {
                    info!(container = %container.id, %name, "an earlier call made this container");
                    return Ok(v1::CreateContainerResponse { container_id: container.id.to_string() });
                }
                // Never started and not what is wanted now: nobody will come for it.
                ContainerPhase::Creating | ContainerPhase::Created => remove::remove(&self.core, &container).await?,
                ContainerPhase::Running(_) | ContainerPhase::Exited(_) => {
                    let why = format!("container {}, {name}, exists already", container.id);
                    return Err(LifeError::new(Kind::AlreadyExists, why));
                }
            }
        }
    }

    /// In a task of its own: a caller that gives up leaves a whole container behind, or none.
    async fn make_in_task(
        &self,
        sandbox: Arc<Sandbox>,
        config: v1::ContainerConfig,
        reservation: Reservation<ContainerName, Arc<Container>>,
    ) -> Result<String, LifeError> {
        let core = self.core.clone();
        let work = self.core.tasks.spawn(async move {
            let container = create::create(&core, &sandbox, config).await?;
            reservation.keep(container.clone());
            Ok(container.id.to_string())
        });
        work.await.doing(|| "making a container".into())?
    }

    pub(super) async fn begin_container(&self, id: String) -> Result<v1::StartContainerResponse, LifeError> {
        let (core, container) = (self.core.clone(), self.core.container(&id)?);
        let work = self.core.tasks.spawn(async move { start::start(&core, &container).await });
        work.await.doing(|| format!("starting container {id}"))?.map(|()| v1::StartContainerResponse {})
    }

    pub(super) async fn end_container(
        &self,
        request: v1::StopContainerRequest,
        by: Deadline,
    ) -> Result<v1::StopContainerResponse, LifeError> {
        let found = absent_is_fine(self.core.container(&request.container_id))?;
        let Some(container) = found else { return Ok(v1::StopContainerResponse {}) };
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        // The grace is the caller's; what killing may take comes on top of it.
        let patience = patience(by).saturating_sub(grace).max(Duration::from_secs(2));
        stop::stop(&self.core, &container, grace, patience).await?;
        Ok(v1::StopContainerResponse {})
    }

    pub(super) async fn delete_container(&self, id: String) -> Result<v1::RemoveContainerResponse, LifeError> {
        let found = absent_is_fine(self.core.container(&id))?;
        let Some(container) = found else { return Ok(v1::RemoveContainerResponse {}) };
        let core = self.core.clone();
        let work = self.core.tasks.spawn(async move { remove::remove(&core, &container).await });
        work.await.doing(|| format!("removing container {id}"))?.map(|()| v1::RemoveContainerResponse {})
    }

    pub(super) fn list_all_containers(&self, filter: Option<&v1::ContainerFilter>) -> Vec<v1::Container> {
        let all = self.core.containers();
        // Labels first: an agent that asks for one pod of many must not have all of them copied.
        let labelled = |labels: &_| filter.is_none_or(|wanted| filter::labels_match(labels, &wanted.label_selector));
        let found = all.iter().filter(|container| labelled(&container.config().labels));
        let entries = found.map(|container| view::container_entry(container));
        entries.filter(|entry| filter::container_matches(entry, filter)).collect()
    }

    pub(super) fn status_of_container(
        &self,
        request: &v1::ContainerStatusRequest,
    ) -> Result<v1::ContainerStatusResponse, LifeError> {
        let container = self.core.container(&request.container_id)?;
        let sandbox = self.core.sandbox_of(&container)?;
        let info = if request.verbose { info_of(&container) } else { HashMap::new() };
        Ok(v1::ContainerStatusResponse { status: Some(view::container_status(&sandbox, &container)), info })
    }

    pub(super) async fn update_resources(
        &self,
        request: v1::UpdateContainerResourcesRequest,
    ) -> Result<v1::UpdateContainerResourcesResponse, LifeError> {
        let container = self.core.container(&request.container_id)?;
        let Some(wanted) = request.linux else { return Ok(v1::UpdateContainerResourcesResponse {}) };
        let _changes = container.changes.lock().await;
        let doing = || format!("changing the resources of container {} ({})", container.id, container.name);
        if matches!(container.record().phase, ContainerPhase::Exited(_)) {
            return Err(LifeError::new(Kind::FailedPrecondition, "it has ended")).doing(doing);
        }
        let (core, of_task) = (self.core.clone(), container.clone());
        blocking(move || {
            let path = CgroupPath::new(&of_task.record().cgroup).doing(|| "naming its cgroup".into())?;
            core.cgroups.update(&path, &Resources::from(&wanted)).doing(|| "writing its limits".into())?;
            let config = with_resources(&of_task.config(), wanted);
            of_task.set_config(config).doing(|| "writing its configuration".into())
        })
        .await
        .doing(doing)?;
        Ok(v1::UpdateContainerResourcesResponse {})
    }

    pub(super) async fn reopen_log(&self, id: String) -> Result<v1::ReopenContainerLogResponse, LifeError> {
        let container = self.core.container(&id)?;
        let sandbox = self.core.sandbox_of(&container)?;
        let doing = || format!("reopening the log of container {id} ({})", container.name);
        if container.running().is_none() {
            return Err(LifeError::new(Kind::FailedPrecondition, "it does not run")).doing(doing);
        }
        sandbox.link.ask(&Request::ReopenLog { id: id.clone() }, &[]).await.doing(doing)?;
        Ok(v1::ReopenContainerLogResponse {})
    }

    pub(super) async fn run_exec(
        &self,
        request: v1::ExecSyncRequest,
        by: Deadline,
    ) -> Result<v1::ExecSyncResponse, LifeError> {
        let container = self.core.container(&request.container_id)?;
        let asked = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let limit = match (asked, by.left()) {
            (Some(asked), Some(left)) => Some(asked.min(left)),
            (asked, left) => asked.or(left),
        };
        exec_sync::run(&self.core, &container, request.cmd, limit).await
    }
}

/// A field that the caller leaves out (0, empty) stays as it was, as it does in the cgroup.
fn with_resources(config: &v1::ContainerConfig, wanted: v1::LinuxContainerResources) -> v1::ContainerConfig {
    let mut config = config.clone();
    let now = config.linux.get_or_insert_default().resources.get_or_insert_default();
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new
        }
    };
    number(&mut now.cpu_period, wanted.cpu_period);
    number(&mut now.cpu_quota, wanted.cpu_quota);
    number(&mut now.cpu_shares, wanted.cpu_shares);
    number(&mut now.memory_limit_in_bytes, wanted.memory_limit_in_bytes);
    number(&mut now.memory_swap_limit_in_bytes, wanted.memory_swap_limit_in_bytes);
    number(&mut now.oom_score_adj, wanted.oom_score_adj);
    for (old, new) in [(&mut now.cpuset_cpus, wanted.cpuset_cpus), (&mut now.cpuset_mems, wanted.cpuset_mems)] {
        if !new.is_empty() {
            *old = new;
        }
    }
    if !wanted.hugepage_limits.is_empty() {
        now.hugepage_limits = wanted.hugepage_limits;
    }
    now.unified.extend(wanted.unified);
    config
}

/// What `crictl inspect` shows beyond the status: nothing that could hold a secret.
fn info_of(container: &Container) -> HashMap<String, String> {
    let record = serde_json::to_string(&container.record()).unwrap_or_default();
    HashMap::from([
        ("record".to_owned(), record),
        ("sandboxID".to_owned(), container.sandbox.to_string()),
        ("pid".to_owned(), container.running().map_or(0, |running| running.pid).to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_update_leaves_out_stays() {
        let first =
            v1::LinuxContainerResources { cpu_shares: 512, memory_limit_in_bytes: 1 << 30, ..Default::default() };
        let config = with_resources(&v1::ContainerConfig::default(), first);
        let config = with_resources(&config, v1::LinuxContainerResources { cpu_shares: 2, ..Default::default() });
        let now = config.linux.unwrap().resources.unwrap();
        assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (2, 1 << 30));
    }
}

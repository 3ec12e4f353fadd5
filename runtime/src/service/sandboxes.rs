//! Calls about sandboxes.

use std::collections::HashMap;
use std::sync::Arc;

use cri_proto::{Kind, v1};
use tracing::info;

use super::{filter, view};
use crate::Embedded;
use crate::blocking::now_ns;
use crate::error::{Doing, LifeError};
use crate::sandbox::wish::Wish;
use crate::sandbox::{Sandbox, make, unmake};
use crate::state::names::{Claim, Reservation};
use crate::state::records::SandboxPhase;

/// What to do about a sandbox that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It is what was asked for: an earlier call made it, whose answer the caller never saw.
    Adopt,
    /// Nothing lives in it and nobody will come for it: it makes room.
    Replace,
    /// It is somebody else's.
    Refuse,
}

impl Embedded {
    pub(super) async fn run_sandbox(
        &self,
        request: v1::RunPodSandboxRequest,
    ) -> Result<v1::RunPodSandboxResponse, LifeError> {
        let wish = Wish::check(request)?;
        loop {
            let found = match self.core.sandbox_names.claim(&wish.name) {
                Claim::Mine(reservation) => {
                    let id = self.make_sandbox(wish, reservation).await?;
                    return Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id });
                }
                Claim::Making(pending) => pending.made().await,
                Claim::Made(sandbox) => Some(sandbox),
            };
            let Some(sandbox) = found else { continue };
            match judge(&sandbox, &wish) {
                Taken::Adopt => {
                    info!(sandbox = %sandbox.id, name = %wish.name, "an earlier call made this sandbox");
                    return Ok(v1::RunPodSandboxResponse { pod_sandbox_id: sandbox.id.to_string() });
                }
                Taken::Replace => unmake::remove(&self.core, &sandbox).await?,
                Taken::Refuse => {
                    let why = format!("sandbox {} of {} exists already", sandbox.id, wish.name);
                    return Err(LifeError::new(Kind::AlreadyExists, why));
                }
            }
        }
    }

    /// In a task of its own: a caller that gives up leaves a whole sandbox behind, or none.
    async fn make_sandbox(
        &self,
        wish: Wish,
        reservation: Reservation<crate::sandbox::SandboxName, Arc<Sandbox>>,
    ) -> Result<String, LifeError> {
        let core = self.core.clone();
        let work = self.core.tasks.spawn(async move {
            let sandbox = make::make(&core, wish).await?;
            reservation.keep(sandbox.clone());
            Ok(sandbox.id.to_string())
        });
        work.await.doing(|| "making a sandbox".into())?
    }

    pub(super) async fn stop_sandbox(&self, id: String) -> Result<v1::StopPodSandboxResponse, LifeError> {
        // One that is gone is as stopped as can be.
        let Some(sandbox) = absent_is_fine(self.core.sandbox(&id))? else { return Ok(v1::StopPodSandboxResponse {}) };
        let core = self.core.clone();
        let work = self.core.tasks.spawn(async move { unmake::stop(&core, &sandbox).await });
        work.await.doing(|| format!("stopping sandbox {id}"))?.map(|()| v1::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_sandbox(&self, id: String) -> Result<v1::RemovePodSandboxResponse, LifeError> {
        let Some(sandbox) = absent_is_fine(self.core.sandbox(&id))? else { return Ok(v1::RemovePodSandboxResponse {}) };
        let core = self.core.clone();
        let work = self.core.tasks.spawn(async move { unmake::remove(&core, &sandbox).await });
        work.await.doing(|| format!("removing sandbox {id}"))?.map(|()| v1::RemovePodSandboxResponse {})
    }

    pub(super) fn list_sandboxes(&self, filter: Option<&v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let all = self.core.sandboxes();
        // Labels first: an agent that asks for one pod of many must not have all of them copied.
        let labelled = |labels| filter.is_none_or(|wanted| filter::labels_match(labels, &wanted.label_selector));
        let found = all.iter().filter(|sandbox| labelled(&sandbox.config.labels));
        let entries = found.map(|sandbox| view::sandbox_entry(sandbox));
        entries.filter(|entry| filter::sandbox_matches(entry, filter)).collect()
    }

    pub(super) fn sandbox_status(
        &self,
        request: &v1::PodSandboxStatusRequest,
    ) -> Result<v1::PodSandboxStatusResponse, LifeError> {
        let sandbox = self.core.sandbox(&request.pod_sandbox_id)?;
        let containers = sandbox.containers();
        let info = if request.verbose { info_of(&sandbox) } else { HashMap::new() };
        Ok(v1::PodSandboxStatusResponse {
            status: Some(view::sandbox_status(&sandbox)),
            info,
            containers_statuses: containers
                .iter()
                .map(|container| view::container_status(&sandbox, container))
                .collect(),
            timestamp: now_ns(),
        })
    }

    /// The pod's own cgroup belongs to the caller, who has changed it already: there is nothing of ours in it.
    pub(super) fn note_sandbox_resources(
        &self,
        request: &v1::UpdatePodSandboxResourcesRequest,
    ) -> Result<v1::UpdatePodSandboxResourcesResponse, LifeError> {
        self.core.sandbox(&request.pod_sandbox_id).map(|_| v1::UpdatePodSandboxResourcesResponse {})
    }
}

/// `None` for what does not exist.
pub(super) fn absent_is_fine<T>(found: Result<T, LifeError>) -> Result<Option<T>, LifeError> {
    match found {
        Err(error) if error.kind() == Kind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn judge(sandbox: &Sandbox, wish: &Wish) -> Taken {
    judge_by(sandbox.phase(), sandbox.config == wish.config, !sandbox.containers().is_empty())
}

fn judge_by(phase: SandboxPhase, is_the_same: bool, is_used: bool) -> Taken {
    match phase {
        SandboxPhase::Ready if is_the_same => Taken::Adopt,
        SandboxPhase::Ready | SandboxPhase::Creating if is_used => Taken::Refuse,
        SandboxPhase::Stopping | SandboxPhase::Stopped => Taken::Refuse,
        SandboxPhase::Ready | SandboxPhase::Creating => Taken::Replace,
    }
}

/// What `crictl inspectp` shows beyond the status.
fn info_of(sandbox: &Sandbox) -> HashMap<String, String> {
    let record = serde_json::to_string(&sandbox.record()).unwrap_or_default();
    HashMap::from([("record".to_owned(), record), ("directory".to_owned(), sandbox.dir.path().display().to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_taken_for_ever() {
        assert_eq!(judge_by(SandboxPhase::Ready, true, true), Taken::Adopt);
        assert_eq!(judge_by(SandboxPhase::Ready, false, false), Taken::Replace);
        assert_eq!(judge_by(SandboxPhase::Ready, false, true), Taken::Refuse);
        // A stopped one is removed by its owner, who then has the name again.
        assert_eq!(judge_by(SandboxPhase::Stopped, true, false), Taken::Refuse);
    }
}

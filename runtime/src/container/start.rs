//! Starting a container: the shim does it, and either its first process runs or it has ended with a reason.

use std::sync::Arc;

use cri_proto::Kind;
use cri_proto::v1::ContainerEventType;
use shim::wire::Request;
use tracing::error;

use super::Container;
use crate::blocking::{blocking, now_ns};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::sandbox::Sandbox;
use crate::sandbox::shim_link::ShimError;
use crate::state::facts;
use crate::state::records::{ContainerPhase, Exited, Reason, Running, SandboxPhase};

/// What a container that could not be started exits with, as other runtimes have it.
const START_ERROR: i32 = 128;

/// Starts it.
///
/// # Errors
/// It is not in a state to be started, or its first process could not be started: then it counts as ended.
pub(crate) async fn start(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), LifeError> {
    let sandbox = core.sandbox_of(container)?;
    let doing = || format!("starting container {} ({})", container.id, container.name);
    let _sandbox = sandbox.changes.read().await;
    let _changes = container.changes.lock().await;
    may_start(&sandbox, container).doing(doing)?;
    match sandbox.link.ask(&Request::Start { id: container.id.to_string() }, &[]).await {
        Ok(_) => {
            runs(container).await.doing(doing)?;
            core.tell(ContainerEventType::ContainerStartedEvent, &sandbox, container);
            Ok(())
        }
        Err(ShimError::Refused { reason, .. }) => {
            failed(core, &sandbox, container, reason.clone()).await;
            Err(LifeError::new(Kind::Internal, reason)).doing(doing)
        }
        // The answer is lost; the shim's note tells whether it runs.
        Err(error) if runs(container).await.is_err() => Err(error).doing(doing),
        Err(_) => {
            core.tell(ContainerEventType::ContainerStartedEvent, &sandbox, container);
            Ok(())
        }
    }
}

fn may_start(sandbox: &Sandbox, container: &Container) -> Result<(), LifeError> {
    let refused = |why: &str| Err(LifeError::new(Kind::FailedPrecondition, why));
    match container.record().phase {
        _ if sandbox.phase() != SandboxPhase::Ready => refused("the sandbox is not ready"),
        ContainerPhase::Created => Ok(()),
        ContainerPhase::Creating => refused("it is still being made"),
        ContainerPhase::Running(_) => refused("it runs already"),
        ContainerPhase::Exited(_) => refused("it has ended, and a container starts only once"),
    }
}

/// The shim's note is the truth about when it was started.
async fn runs(container: &Arc<Container>) -> Result<(), LifeError> {
    let dir = container.dir.clone();
    let (started, _) = blocking(move || facts::read(&dir)).await.doing(|| "reading the shim's notes".into())?;
    let started = started.ok_or_else(|| LifeError::new(Kind::Internal, "the shim left no note of its pid"))?;
    container.runs(Running { pid: started.pid, started_at: started.at });
    Ok(())
}

async fn failed(core: &Arc<Core>, sandbox: &Arc<Sandbox>, container: &Arc<Container>, message: String) {
    let exited =
        Exited { started_at: 0, finished_at: now_ns(), code: START_ERROR, reason: Reason::StartError, message };
    let of_task = container.clone();
    let written = blocking(move || of_task.ended(exited)).await;
    if let Err(error) = written {
        error!(container = %container.id, error = chain(&error), "noting that a container could not be started");
    }
    core.tell(ContainerEventType::ContainerStoppedEvent, sandbox, container);
}

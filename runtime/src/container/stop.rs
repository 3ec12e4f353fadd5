//! Ending a container: asked first, then killed.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::Kind;
use shim::wire::Request;
use tracing::{debug, info};

use super::{Container, finish};
use crate::blocking::{blocking, now_ns};
use crate::cgroups::CgroupPath;
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::process;
use crate::sandbox::Sandbox;
use crate::sandbox::shim_link::ShimError;
use crate::signals::SIGKILL;
use crate::state::facts;
use crate::state::records::ContainerPhase;

/// Asks it to end, waits for `grace`, then kills it and waits for at most `patience`. Nothing to do for one that does
/// not run. Several may stop one container at the same time, each with its own grace.
///
/// # Errors
/// It still runs after all that.
pub(crate) async fn stop(
    core: &Arc<Core>,
    container: &Arc<Container>,
    grace: Duration,
    patience: Duration,
) -> Result<(), LifeError> {
    // A start that is under way comes to its end first.
    drop(container.changes.lock().await);
    if container.running().is_none() {
        return Ok(());
    }
    let sandbox = core.sandbox_of(container)?;
    if !grace.is_zero() {
        let signal = container.record().stop_signal;
        match ask(&sandbox, container, signal).await {
            // A signal that did not arrive is not waited for.
            Err(error) => debug!(container = %container.id, error = chain(&error), "sending its stop signal"),
            Ok(()) if container.wait(grace).await.is_some() => return Ok(()),
            Ok(()) => info!(container = %container.id, signal, ?grace, "killing a container that did not stop"),
        }
    }
    kill(core, container, patience).await
}

/// Kills every process of it and waits until that is known.
///
/// # Errors
/// It still runs after `patience`.
pub(crate) async fn kill(core: &Arc<Core>, container: &Arc<Container>, patience: Duration) -> Result<(), LifeError> {
    drop(container.changes.lock().await);
    let Some(running) = container.running() else { return Ok(()) };
    let doing = || format!("killing container {} ({}), pid {}", container.id, container.name, running.pid);
    let sandbox = core.sandbox_of(container)?;
    let asked = ask(&sandbox, container, SIGKILL).await;
    // Without a shim nobody will tell its end; it is looked for soon.
    let patience = match &asked {
        Err(error) if error.is_gone() => patience.min(Duration::from_secs(1)),
        _ => patience,
    };
    if asked.is_err() || !container.record().own_pid_namespace {
        let (of_core, of_task) = (core.clone(), container.clone());
        blocking(move || CgroupPath::new(&of_task.record().cgroup).and_then(|path| of_core.cgroups.kill(&path)))
            .await
            .doing(doing)?;
    }
    if container.wait(patience).await.is_some() {
        return Ok(());
    }
    note_lost(core, &sandbox, container).await;
    if container.running().is_none() {
        return Ok(());
    }
    let why = format!("it still runs {} s after SIGKILL", patience.as_secs());
    Err(LifeError::new(Kind::DeadlineExceeded, why)).doing(doing)
}

async fn ask(sandbox: &Sandbox, container: &Container, signal: i32) -> Result<(), ShimError> {
    let request = Request::Signal { id: container.id.to_string(), signal, whole_session: false };
    sandbox.link.ask(&request, &[]).await.map(|_| ())
}

/// No shim has told its end. If it is gone all the same, that is what there is to know.
pub(crate) async fn note_lost(core: &Arc<Core>, sandbox: &Arc<Sandbox>, container: &Arc<Container>) {
    finish::finish(core, sandbox, container, None).await;
    let Some(running) = container.running() else { return };
    let of_task = container.clone();
    let gone = blocking(move || {
        let alive = facts::read(&of_task.dir)
            .ok()
            .and_then(|(started, _)| started)
            .is_some_and(|note| process::is_alive(&note));
        let lost = !alive && matches!(of_task.record().phase, ContainerPhase::Running(_));
        lost.then(|| of_task.ended(facts::lost(running, now_ns())))
    })
    .await;
    if let Some(written) = gone {
        if let Err(error) = written {
            tracing::error!(container = %container.id, error = chain(&error), "writing that a container is lost");
        }
        core.tell(cri_proto::v1::ContainerEventType::ContainerStoppedEvent, sandbox, container);
        let (of_core, of_task) = (core.clone(), container.clone());
        blocking(move || finish::remove_cgroup(&of_core, &of_task)).await;
    }
}

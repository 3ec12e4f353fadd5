//! One task per sandbox that hears what ends in it, and replaces a shim that was killed.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::Kind;
use cri_proto::v1::ContainerEventType;
use shim::wire::{Event, ExitRecord, Request};
use tracing::{info, warn};

use super::{Sandbox, shim_process};
use crate::blocking::blocking;
use crate::container;
use crate::core::Core;
use crate::error::{LifeError, chain};
use crate::ids::{ContainerId, ExecId};
use crate::state::files::remove_dir;
use crate::state::records::SandboxPhase;

/// A machine that cannot start a shim now may be able to later; containers run on meanwhile.
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Watches the sandbox until it is stopped or we are.
pub(crate) fn start(core: &Arc<Core>, sandbox: &Arc<Sandbox>) {
    let (of_core, sandbox) = (core.clone(), sandbox.clone());
    core.tasks.spawn(async move {
        let stop = of_core.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch(&of_core, &sandbox) => {}
        }
    });
}

async fn watch(core: &Arc<Core>, sandbox: &Arc<Sandbox>) {
    let mut pause = RETRY;
    loop {
        match sandbox.link.watch().await {
            Ok(mut events) => {
                pause = RETRY;
                while let Some(event) = events.next().await {
                    handle(core, sandbox, event);
                }
            }
            Err(error) if error.is_gone() => {}
            Err(error) => warn!(sandbox = %sandbox.id, error = chain(&error), "watching a shim"),
        }
        if !needs_shim(sandbox) {
            return;
        }
        if let Err(error) = replace(sandbox).await {
            warn!(sandbox = %sandbox.id, error = chain(&error), "replacing a shim that is gone");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}

/// A sandbox whose pause is gone still has containers whose ends want to be heard.
fn needs_shim(sandbox: &Sandbox) -> bool {
    match sandbox.phase() {
        SandboxPhase::Ready => true,
        SandboxPhase::Stopping => sandbox.containers().iter().any(|container| container.running().is_some()),
        SandboxPhase::Creating | SandboxPhase::Stopped => false,
    }
}

async fn replace(sandbox: &Sandbox) -> Result<(), LifeError> {
    // Stopping takes the shim away on purpose, and whoever stops holds this: then it is looked at again later.
    let busy = || LifeError::new(Kind::Unavailable, "the sandbox is being stopped");
    let _changes = sandbox.changes.try_read().map_err(|_| busy())?;
    info!(sandbox = %sandbox.id, "its shim is gone: starting another");
    shim_process::start(sandbox).await
}

fn handle(core: &Arc<Core>, sandbox: &Arc<Sandbox>, event: Event) {
    match event {
        Event::PauseExited { code, .. } => pause_exited(core, sandbox, code),
        Event::Exited { id, code, at } => {
            if sandbox.execs.ended(&id, code) {
                return;
            }
            let container = ContainerId::try_from(id.as_str()).ok().and_then(|id| sandbox.container(&id));
            match container {
                Some(container) => {
                    let (of_core, sandbox) = (core.clone(), sandbox.clone());
                    let told = Some(ExitRecord { code, at, note: None });
                    core.tasks.spawn(async move {
                        container::finish::finish(&of_core, &sandbox, &container, told).await;
                    });
                }
                None => forget_stranger(core, sandbox, id),
            }
        }
    }
}

fn pause_exited(core: &Arc<Core>, sandbox: &Arc<Sandbox>, code: i32) {
    if sandbox.phase() != SandboxPhase::Ready {
        return;
    }
    warn!(sandbox = %sandbox.id, code, "the pause of a sandbox ended");
    sandbox.advance(SandboxPhase::Stopping);
    core.tell_sandbox(ContainerEventType::ContainerStoppedEvent, sandbox);
}

/// An exec that an earlier process of ours had started: nobody waits for it any more.
fn forget_stranger(core: &Arc<Core>, sandbox: &Arc<Sandbox>, id: String) {
    let Ok(exec) = ExecId::try_from(id.as_str()) else { return };
    let sandbox = sandbox.clone();
    core.tasks.spawn(async move {
        let forgotten = sandbox.link.ask(&Request::Forget { id }, &[]).await;
        let dir = sandbox.dir.exec(&exec);
        let removed = blocking(move || remove_dir(&dir)).await;
        if let (Err(error), _) | (_, Err(error)) = (forgotten.map_err(|e| chain(&e)), removed.map_err(|e| chain(&e))) {
            warn!(sandbox = %sandbox.id, error, "forgetting an exec of an earlier run");
        }
    });
}

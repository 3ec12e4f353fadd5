//! Directories of pods that nobody knows: neither a manifest, nor the runtime, nor what the agent remembers. A crash at
//! the very end of a pod, or of another agent, leaves them, with volumes that may still be mounted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::errors::chain;
use crate::names::PodUid;
use crate::observe;
use crate::pods::memory::Memory;
use crate::sources::Desired;
use crate::view::PodViews;
use crate::volumes::{VolumeError, Volumes};

/// The agent starts meanwhile: what hangs must not keep it.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is in use is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// Takes them away, before any pod is started; what could not be taken away is the answer.
pub(super) async fn clear(
    config: &Config,
    volumes: &Volumes,
    runtime: &Arc<dyn Runtime>,
    desired: &Desired,
) -> BTreeSet<PodUid> {
    let found = match unknown(config, volumes, runtime, desired).await {
        Ok(found) => found,
        Err(error) => {
            warn!(error, "looking for directories of pods that nobody knows");
            return BTreeSet::new();
        }
    };
    let (mut left, mut work) = (found.clone(), JoinSet::new());
    for uid in found {
        let volumes = volumes.clone();
        work.spawn(async move { (remove(&volumes, &uid).await, uid) });
    }
    let all = async {
        while let Some(Ok((gone, uid))) = work.join_next().await {
            if gone {
                left.remove(&uid);
            }
        }
    };
    // What is cut off goes on by itself on its thread.
    let _ = tokio::time::timeout(PATIENCE, all).await;
    left
}

/// Tries again what is left, for as long as no pod of that name is wanted.
pub(super) async fn follow(mut left: BTreeSet<PodUid>, volumes: Volumes, views: PodViews, stop: CancellationToken) {
    while !left.is_empty() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
        let wanted: BTreeSet<PodUid> = views.borrow().keys().cloned().collect();
        left.retain(|uid| !wanted.contains(uid));
        for uid in left.clone() {
            if remove(&volumes, &uid).await {
                left.remove(&uid);
            }
        }
    }
}

async fn unknown(
    config: &Config,
    volumes: &Volumes,
    runtime: &Arc<dyn Runtime>,
    desired: &Desired,
) -> Result<BTreeSet<PodUid>, String> {
    let mut found: BTreeSet<PodUid> = volumes.on_disk().await.map_err(|error| chain(&error))?.into_iter().collect();
    found.retain(|uid| !desired.pods.contains_key(uid));
    if found.is_empty() {
        return Ok(found);
    }
    let remembered = Memory::new(config.dirs.pods()).load_all().map_err(|error| chain(&error))?;
    let seen = observe::everything(runtime.as_ref(), config.timing.request).await.map_err(|error| chain(&error))?;
    found.retain(|uid| !seen.contains_key(uid) && !remembered.iter().any(|(other, _)| other == uid));
    Ok(found)
}

async fn remove(volumes: &Volumes, uid: &PodUid) -> bool {
    let both = async {
        volumes.unmount_all(uid).await?;
        volumes.remove_pod_dir(uid).await
    };
    match both.await as Result<(), VolumeError> {
        Ok(()) => {
            info!(%uid, "took away the directory of a pod that nobody knows");
            true
        }
        Err(error) => {
            warn!(%uid, error = chain(&error), "Orphaned pod found, but volumes are not cleaned up; they are tried again");
            false
        }
    }
}

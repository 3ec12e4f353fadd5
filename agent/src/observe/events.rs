use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, Kind, Runtime, v1};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::container::labels;
use crate::names::PodUid;

/// Longest wait before the runtime's events are asked for again.
const LONGEST: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_millis(50);
/// How often pods are looked at whose runtime tells no events.
const RELIST: Duration = Duration::from_secs(1);

/// Who wants to know that something happened to a pod; what happened is looked up by whoever is woken.
pub trait Waker: Send + Sync {
    /// Something happened to this pod.
    fn wake(&self, pod: &PodUid);
    /// Something may have happened to any pod.
    fn wake_all(&self);
}

/// Passes the runtime's events on as wake-ups until `stop`; a broken stream is asked for again, and everybody is woken
/// because of what was missed.
pub async fn follow(runtime: Arc<dyn Runtime>, waker: Arc<dyn Waker>, stop: CancellationToken) {
    let mut wait = SHORTEST;
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = listen(runtime.as_ref(), waker.as_ref()) => heard,
        };
        match heard {
            Heard::Something => wait = SHORTEST,
            Heard::Nothing => wait = (wait * 2).min(LONGEST),
            Heard::NotOffered => return relist(waker.as_ref(), &stop).await,
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => waker.wake_all(),
        }
    }
}

/// What the kubelet's own lister does for runtimes without events.
async fn relist(waker: &dyn Waker, stop: &CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RELIST) => waker.wake_all(),
        }
    }
}

enum Heard {
    Something,
    Nothing,
    NotOffered,
}

async fn listen(runtime: &dyn Runtime, waker: &dyn Waker) -> Heard {
    let mut events = match runtime.get_container_events(v1::GetEventsRequest {}, Deadline::never()).await {
        Ok(events) => events,
        Err(error) if error.kind == Kind::Unimplemented => {
            warn!("the runtime tells no events; pods are looked at every second instead");
            return Heard::NotOffered;
        }
        Err(error) => {
            warn!(%error, "asking the runtime for its events");
            return Heard::Nothing;
        }
    };
    // Whatever happened before the stream began was told to nobody.
    waker.wake_all();
    let mut heard = Heard::Nothing;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                heard = Heard::Something;
                pass_on(waker, &event);
            }
            Err(error) => {
                debug!(%error, "the runtime's events broke off");
                break;
            }
        }
    }
    heard
}

fn pass_on(waker: &dyn Waker, event: &v1::ContainerEventResponse) {
    match pod_of(event) {
        Some(uid) => waker.wake(&uid),
        None => waker.wake_all(),
    }
}

fn pod_of(event: &v1::ContainerEventResponse) -> Option<PodUid> {
    let sandbox = event.pod_sandbox_status.as_ref();
    let named = sandbox.and_then(|status| status.metadata.as_ref()).map(|meta| meta.uid.clone());
    let labelled = || event.containers_statuses.iter().find_map(|status| status.labels.get(labels::POD_UID)).cloned();
    PodUid::try_from(named.or_else(labelled)?).ok()
}

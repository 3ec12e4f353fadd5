//! Work that may hang: on a thread of its own, one at a time for each pod, waited for only so long.
//!
//! A stat of a hostPath on a dead NFS server never returns, and cannot be taken back. The thread is left to it; its pod
//! keeps its turn until it returns, so that no second thread ever follows it in, and nobody else waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{SetUpError, VolumeError};
use crate::names::PodUid;

/// What a thread is busy with, for the message of whoever gave up waiting.
#[derive(Clone, Debug, Default)]
pub(super) struct Doing(Arc<Mutex<String>>);

impl Doing {
    /// From now on it is this volume.
    pub(super) fn volume(&self, name: &str) {
        name.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone, Default)]
struct Turn {
    alone: Arc<tokio::sync::Mutex<()>>,
    doing: Doing,
}

/// The pods' turns. Clones share one state.
#[derive(Clone)]
pub(super) struct Turns {
    pods: Arc<Mutex<HashMap<PodUid, Turn>>>,
    limit: Duration,
}

impl Turns {
    /// Whoever asks waits at most `limit` for its turn and its work together.
    pub(super) fn new(limit: Duration) -> Self {
        Self { pods: Arc::default(), limit }
    }

    /// Does `work` when nothing else is being done for the pod.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        uid: &PodUid,
        work: impl FnOnce(&Doing) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let turn = self.pods.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.clone()).or_default().clone();
        let by = Instant::now() + self.limit;
        let late = || self.late(&turn.doing);
        let alone = timeout_at(by, Arc::clone(&turn.alone).lock_owned()).await.map_err(|_| late())?;
        let doing = turn.doing.clone();
        let done = on_thread(move || {
            let _alone = alone;
            doing.volume("");
            work(&doing)
        })?;
        timeout_at(by, done).await.map_err(|_| late())?.unwrap_or(Err(VolumeError::Stopping))
    }

    /// Does `work` that belongs to no pod.
    pub(super) async fn run_for_all<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let done = timeout_at(Instant::now() + self.limit, on_thread(work)?).await;
        done.map_err(|_| self.late(&Doing::default()))?.unwrap_or(Err(VolumeError::Stopping))
    }

    /// The pod is gone.
    pub(super) fn forget(&self, uid: &PodUid) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn late(&self, doing: &Doing) -> VolumeError {
        let volume = doing.get();
        let seconds = self.limit.as_secs();
        if volume.is_empty() {
            return VolumeError::NoAnswer { seconds };
        }
        VolumeError::SetUp { volume, source: SetUpError::NoAnswer { seconds } }
    }
}

/// The answer never comes when the work panics; the thread has said so then.
fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, VolumeError> {
    let (answer, answered) = oneshot::channel();
    let work = move || {
        // Nobody may be waiting any more: the work is done all the same.
        let _ = answer.send(work());
    };
    match std::thread::Builder::new().name("volumes".to_owned()).spawn(work) {
        Ok(_) => Ok(answered),
        Err(source) => Err(VolumeError::Thread(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn uid(name: &str) -> PodUid {
        PodUid::try_from(name.to_owned()).unwrap()
    }

    #[tokio::test]
    async fn what_hangs_holds_up_its_own_pod_and_nobody_else() {
        let turns = Turns::new(Duration::from_millis(300));
        let (release, released) = mpsc::channel::<()>();
        let a = uid("a");
        let hung = turns.run(&a, move |doing| {
            doing.volume("share");
            let _ = released.recv();
            Ok(())
        });
        let error = hung.await.unwrap_err().for_people();
        assert!(error.starts_with("MountVolume.SetUp failed for volume \"share\" : no answer within"), "{error}");
        assert_eq!(turns.run(&uid("b"), |_| Ok(7)).await.unwrap(), 7);
        let behind = turns.run(&uid("a"), |_| Ok(7)).await.unwrap_err().for_people();
        assert!(behind.contains("\"share\""), "the next says what it waits for: {behind}");
        drop(release);
        let patient = Turns { limit: Duration::from_secs(60), ..turns };
        assert_eq!(patient.run(&uid("a"), |_| Ok(8)).await.unwrap(), 8, "and goes on once it returns");
    }
}

//! Keeps the routes to other nodes' pods in the kernel: an interface that goes down takes them away, and so may a person.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use runtime::{Embedded, NetworkError, Peer};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cluster::Neighbourhood;
use crate::errors::chain;
use crate::events::{About, EventType, Recorder};

/// How often the kernel's routes are listed although no node changed: one system call.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps them until `stop`; they stay when the agent ends. Until `wanted` is known those of a former run stand.
pub async fn keep(
    runtime: Arc<Embedded>,
    mut wanted: watch::Receiver<Option<Arc<Neighbourhood>>>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let mut told = BTreeSet::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        if let Some(now) = now {
            let problems = problems(&now, runtime.set_peers(now.peers.clone()).await);
            for problem in problems.difference(&told) {
                tracing::warn!("{problem}");
                recorder.record(About::Node, EventType::Warning, "PodsUnreachable", problem, Timestamp::now());
            }
            told = problems;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// One line for each node whose pods cannot be reached.
fn problems(now: &Neighbourhood, done: Result<Vec<(Peer, NetworkError)>, NetworkError>) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = now.problems.iter().cloned().collect();
    match done {
        Ok(refused) => all.extend(refused.iter().map(|(peer, error)| {
            format!(
                "the pods of node {} cannot be reached: {}; without a network plugin all nodes must be on one network",
                peer.node,
                chain(error)
            )
        })),
        Err(error) => drop(all.insert(format!("the routes to other nodes' pods cannot be set: {}", chain(&error)))),
    }
    all
}

//! Keeps the pod network's packet rules in place: a firewall that is reloaded takes them away with everything else.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use netfilter::Family;
use netfilter::apply::{ApplyError, Fingerprint, Iptables, Watch};
use runtime::Embedded;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::errors::chain;
use crate::events::{About, EventType, Recorder};
use crate::proxy::Turns;

/// How often the tables are asked whether somebody wrote: one system call.
const LOOK: Duration = Duration::from_millis(300);
/// The least time between two times that the rules are written, whoever else keeps writing.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks until `stop`. Where the kernel cannot be asked, nothing is guarded and it is said.
///
/// `as_kubelet` keeps a kubelet's own chains as well (KEP-3178): other programs learn from them which iptables this node
/// uses, and the node's loopback stays out of the neighbours' reach.
pub async fn guard(
    runtime: Arc<Embedded>,
    turns: Turns,
    recorder: Recorder,
    as_kubelet: bool,
    stop: CancellationToken,
) {
    // Finding the programs starts some: the first pods go first.
    if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
        return;
    }
    let open = || {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Watch::open(
            Family::V4,
            Iptables::find(Family::V4)?.backend(),
        )?)
    };
    let watch = match spawn_blocking(open).await {
        Ok(Ok(watch)) => watch,
        Ok(Err(error)) => return tracing::warn!("a firewall that is reloaded will not be noticed: {}", chain(&*error)),
        Err(error) => return tracing::warn!("a firewall that is reloaded will not be noticed: {error}"),
    };
    let mut guard = Guard { watch, last: None, own: 0, is_sure: true, pass: None };
    if as_kubelet {
        let mut own = turns.take().await;
        guard.somebody_wrote(*own);
        tell(kubelet_chains().await, &recorder);
        guard.settle(&mut own);
    }
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let mut own = turns.take().await;
        if !guard.somebody_wrote(*own) && guard.is_sure {
            continue;
        }
        tell(runtime.ensure_network_rules().await, &recorder);
        if as_kubelet {
            tell(kubelet_chains().await, &recorder);
        }
        guard.settle(&mut own);
        drop(own);
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}

fn tell<E: std::error::Error + 'static>(done: Result<(), E>, recorder: &Recorder) {
    if let Err(error) = done {
        let message = format!("the node's packet rules cannot be put back: {}", chain(&error));
        tracing::warn!("{message}");
        recorder.record(About::Node, EventType::Warning, "FailedToGuardNetwork", message, Timestamp::now());
    }
}

/// In both families; one that the kernel has not needs none.
async fn kubelet_chains() -> Result<(), ApplyError> {
    let make = || {
        Iptables::find(Family::V4)?.make_kubelet_chains()?;
        let is_there = std::path::Path::new("/proc/net/if_inet6").exists();
        if is_there { Iptables::find(Family::V6)?.make_kubelet_chains() } else { Ok(()) }
    };
    spawn_blocking(make).await.unwrap_or(Ok(()))
}

/// Commits are counted, not whose they are: whoever writes while we do is taken for us. So everything is written again until
/// it takes as many commits as the time before.
struct Guard {
    watch: Watch,
    last: Option<Fingerprint>,
    own: u32,
    is_sure: bool,
    /// How many commits the last writing took, while we are not sure.
    pass: Option<u32>,
}

impl Guard {
    fn somebody_wrote(&mut self, own: u32) -> bool {
        let Ok(now) = self.watch.fingerprint() else { return false };
        let (last, ours) = (self.last.replace(now), own.wrapping_sub(std::mem::replace(&mut self.own, own)));
        last.is_some_and(|last| now.commits_since(last).map_or(now != last, |commits| commits != ours))
    }

    /// After our own writing: it is not somebody else's, for the proxy neither.
    fn settle(&mut self, own: &mut u32) {
        let Ok(now) = self.watch.fingerprint() else { return };
        let commits = self.last.replace(now).and_then(|last| now.commits_since(last)).unwrap_or_default();
        *own = own.wrapping_add(commits);
        self.own = *own;
        self.is_sure = self.pass.replace(commits) == Some(commits);
        if self.is_sure {
            self.pass = None;
        }
    }
}

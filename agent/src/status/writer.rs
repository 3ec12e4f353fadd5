//! Sends what [`super::decide`] says: one call for each pod at a time, so that an older status never overtakes a newer one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::decide::{Action, decide};
use crate::api::{ApiError, Body, Client, Sets, path_of};
use crate::cluster::mirrored;
use crate::errors::chain;
use crate::names::PodUid;
use crate::node::Handle;
use crate::pods::tools::Gone;
use crate::sources::Desired;

/// When a pod is looked at again whose end was told while the registry still held it.
const ABOUT_TO_END: Duration = Duration::from_millis(100);

/// After a failed call: when the API server is back, statuses are right within five seconds.
const RETRY: Duration = Duration::from_secs(2);
/// Calls at the same time; the API server serves hundreds, and a node's pods are about a hundred.
const AT_ONCE: usize = 16;

/// Keeps the API server's statuses of `own` pods at what `node` knows until `stop`, and deletes what is gone.
pub async fn run(
    client: Client,
    own: Sets<Pod>,
    desired: watch::Receiver<Arc<Desired>>,
    node: Handle,
    stop: CancellationToken,
) {
    let (gone, views) = (node.gone(), node.views.clone());
    let mut writer = Writer { client, node, pods: BTreeMap::new(), calls: JoinSet::new() };
    writer.run(own, views, desired, gone, stop).await;
}

struct Writer {
    client: Client,
    node: Handle,
    pods: BTreeMap<PodUid, Told>,
    calls: JoinSet<(PodUid, Outcome)>,
}

/// What is known of one pod here.
#[derive(Default)]
struct Told {
    /// The newest that the API server showed or answered.
    api: Option<Arc<Pod>>,
    /// What this node last knew of it.
    ours: Option<PodStatus>,
    /// What was sent last, and what the API server made of it: an older one drops fields that it does not know, and sending
    /// them again would not help.
    sent: Option<(Action, Option<PodStatus>)>,
    /// A call is under way.
    busy: bool,
    /// A call failed: not before then.
    not_before: Option<Instant>,
}

enum Outcome {
    Patched(Box<Pod>),
    Deleted,
    Failed(ApiError),
}

impl Writer {
    async fn run(
        &mut self,
        mut own: Sets<Pod>,
        mut views: crate::view::PodViews,
        mut desired: watch::Receiver<Arc<Desired>>,
        mut gone: broadcast::Receiver<Gone>,
        stop: CancellationToken,
    ) {
        loop {
            self.learn(own.borrow_and_update().clone().as_deref());
            let shown = Arc::clone(&views.borrow_and_update());
            for (uid, view) in shown.iter() {
                if let Some(told) = self.pods.get_mut(uid) {
                    told.ours = Some(view.status.clone());
                }
            }
            let wanted = Arc::clone(&desired.borrow_and_update());
            self.send(&shown, &wanted).await;
            let due = self.pods.values().filter(|told| !told.busy).filter_map(|told| told.not_before).min();
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = own.changed() => {}
                Ok(()) = views.changed() => {}
                Ok(()) = desired.changed() => {}
                Ok(gone) = gone.recv() => self.remember(gone),
                Some(Ok((uid, outcome))) = self.calls.join_next() => self.done(&uid, outcome),
                () = wait_for(due) => {}
            }
        }
    }

    /// Takes the API server's pods in. One that was answered to a patch is newer than what a watch still shows.
    fn learn(&mut self, own: Option<&crate::api::Set<Pod>>) {
        let Some(own) = own else { return };
        let mut there = BTreeMap::new();
        for pod in own.values() {
            if let Some(uid) = local_uid(pod) {
                there.insert(uid, pod);
            }
        }
        self.pods.retain(|uid, told| there.contains_key(uid) || told.busy);
        for (uid, pod) in there {
            let told = self.pods.entry(uid).or_default();
            if told.api.as_ref().is_some_and(|known| known.metadata.uid != pod.metadata.uid) {
                // Another mirror of the same pod: nothing was said to it yet.
                told.sent = None;
            }
            if told.api.as_ref().is_none_or(|known| version(known) <= version(pod)) {
                told.api = Some(Arc::clone(pod));
            }
        }
    }

    /// How a pod ended that is gone: its last view may never have been seen here.
    fn remember(&mut self, gone: Gone) {
        if let (Some(told), Some(last)) = (self.pods.get_mut(&gone.uid), gone.last) {
            told.ours = Some(last.status);
        }
    }

    async fn send(&mut self, shown: &BTreeMap<PodUid, crate::view::PodView>, wanted: &Desired) {
        let now = Instant::now();
        let ready: Vec<PodUid> = self
            .pods
            .iter()
            .filter(|(_, told)| !told.busy && told.not_before.is_none_or(|then| then <= now))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in ready {
            if self.calls.len() >= AT_ONCE {
                return;
            }
            let gone = self.is_gone(&uid, shown, wanted).await;
            let Some(told) = self.pods.get_mut(&uid) else { continue };
            let Some(api) = told.api.clone() else { continue };
            if !gone && api.metadata.deletion_timestamp.is_some() && !shown.contains_key(&uid) {
                // Its worker has told its end and is about to end: nothing else would wake us.
                told.not_before = Some(Instant::now() + ABOUT_TO_END);
            }
            let action = decide(&api, told.ours.as_ref(), gone);
            if told.is_told(&action) {
                // All was said that can be; what an older server dropped is no reason to keep the object.
                if gone && api.metadata.deletion_timestamp.is_some() && matches!(action, Action::Patch(_)) {
                    self.call(&uid, &api, Action::Delete);
                }
                continue;
            }
            self.call(&uid, &api, action);
        }
    }

    /// Nothing of a pod is left, and nothing will come: it is marked in the set that was published, it is not shown, and the
    /// registry does not hold it.
    async fn is_gone(&self, uid: &PodUid, shown: &BTreeMap<PodUid, crate::view::PodView>, wanted: &Desired) -> bool {
        let api = self.pods.get(uid).and_then(|told| told.api.as_ref());
        if api.is_none_or(|pod| pod.metadata.deletion_timestamp.is_none()) || shown.contains_key(uid) {
            return false;
        }
        let will_start = wanted.pods.get(uid).is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        !will_start && !self.node.holds(uid).await
    }

    fn call(&mut self, uid: &PodUid, api: &Pod, action: Action) {
        let Some(told) = self.pods.get_mut(uid) else { return };
        let (namespace, name) = (api.metadata.namespace.as_deref(), api.metadata.name.clone().unwrap_or_default());
        let path = path_of::<Pod>(namespace, &name);
        let (client, uid) = (self.client.clone(), uid.clone());
        told.busy = true;
        told.not_before = None;
        told.sent = Some((action.clone(), None));
        self.calls.spawn(async move {
            let outcome = match action {
                Action::Patch(patch) => {
                    let status = format!("{path}/status");
                    client
                        .patch::<Pod>(&status, Body::StrategicMergePatch, &patch)
                        .await
                        .map(|pod| Outcome::Patched(Box::new(pod)))
                }
                _ => client.delete_now(&path, uid.as_str()).await.map(|()| Outcome::Deleted),
            };
            (uid, outcome.unwrap_or_else(Outcome::Failed))
        });
    }

    fn done(&mut self, uid: &PodUid, outcome: Outcome) {
        let Some(told) = self.pods.get_mut(uid) else { return };
        told.busy = false;
        match outcome {
            Outcome::Patched(pod) => {
                if let Some((_, answered)) = &mut told.sent {
                    *answered = pod.status.clone();
                }
                told.api = Some(Arc::new(*pod));
            }
            // The watch says so too, in a moment.
            Outcome::Deleted => told.api = None,
            Outcome::Failed(error) if error.is_not_found() || error.is_conflict() => {
                debug!(%uid, "the pod is not there any more: {}", chain(&error));
                (told.sent, told.not_before) = (None, Some(Instant::now() + RETRY));
            }
            Outcome::Failed(error) => {
                warn!(%uid, "telling the API server about a pod: {}; trying again", chain(&error));
                (told.sent, told.not_before) = (None, Some(Instant::now() + RETRY));
            }
        }
    }
}

impl Told {
    /// The same was said already, and the API server has since shown what it made of it.
    fn is_told(&self, action: &Action) -> bool {
        match (action, &self.sent) {
            (Action::Nothing, _) => true,
            (Action::Patch(_), Some((Action::Patch(_), Some(answered)))) => {
                self.api.as_ref().and_then(|api| api.status.as_ref()) == Some(answered) && self.is_same_patch(action)
            }
            _ => false,
        }
    }

    /// Fields that the server dropped come again in every difference: they alone are no news.
    fn is_same_patch(&self, action: &Action) -> bool {
        let (Action::Patch(new), Some((Action::Patch(old), _))) = (action, &self.sent) else { return false };
        let fields = |patch: &serde_json::Value| {
            patch.get("status").and_then(|status| status.as_object()).cloned().unwrap_or_default()
        };
        let old = fields(old);
        fields(new).iter().all(|(field, value)| old.get(field) == Some(value))
    }
}

/// By which uid the pod is known here: a mirror by that of its static pod, whose status it shows. One that is being deleted is
/// made anew and shows nothing.
fn local_uid(pod: &Pod) -> Option<PodUid> {
    match mirrored(pod) {
        Some(uid) => pod.metadata.deletion_timestamp.is_none().then_some(uid),
        None => PodUid::try_from(pod.metadata.uid.clone()?).ok(),
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

//! Pods that the API server gives this node, with what they refer to, as one [`Desired`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::{v1alpha1, v1beta1};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::mirrors::mirrored;
use super::range::needs_address;
use super::refs::Refs;
use super::services::feed_of_services;
use super::tokens::AccountTokens;
use crate::api::{Client, Feed, Set, Sets, follow, path_of_all};
use crate::names::{ObjectName, PodUid};
use crate::sources::{Desired, Objects};

/// How long a new pod is held back for what it refers to: then it starts, and says itself what it misses.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often tokens are looked at: the shortest-lived are due two minutes before they end.
const RENEWING: Duration = Duration::from_secs(60);

/// Own pods as the API server has them, status and all.
pub type Own = Sets<Pod>;

/// Follows the pods of `node`.
pub fn own_pods(client: &Client, node: &str, stop: &CancellationToken) -> Own {
    follow(client.clone(), feed::<Pod>(Some(format!("spec.nodeName={node}"))), stop.child_token())
}

/// Follows the Node object of `node` alone.
pub fn own_node(client: &Client, node: &str, stop: &CancellationToken) -> Sets<Node> {
    follow(client.clone(), feed::<Node>(Some(format!("metadata.name={node}"))), stop.child_token())
}

/// Follows all Services.
pub fn services(client: &Client, stop: &CancellationToken) -> Sets<Service> {
    follow(client.clone(), feed_of_services(None), stop.child_token())
}

pub(super) fn feed<T: k8s_openapi::Resource + DeserializeOwned>(fields: Option<String>) -> Feed<T> {
    Feed { path: path_of_all::<T>(None), fields, labels: None, decode: typed::<T> }
}

fn typed<T: DeserializeOwned>(object: Value) -> Result<Option<T>, serde_json::Error> {
    serde_json::from_value(object).map(Some)
}

/// Where the wanted pods come from.
pub struct Sources {
    /// Those that the API server gives this node.
    pub own: Own,
    /// Services, where somebody may list them.
    pub services: Sets<Service>,
    /// This Node alone.
    pub nodes: Sets<Node>,
    /// Static pods.
    pub statics: watch::Receiver<Arc<Desired>>,
    /// Pods of a former run: they stand for what the API server has until it answers.
    pub left: BTreeMap<PodUid, Arc<Pod>>,
    /// There is no pod network: only pods on the host's own are wanted.
    pub without_network: bool,
}

/// Publishes what this node should be running until `stop`. `desired` holds static pods and those of a former run from the
/// start; what the API server has comes first when everything is known that a pod refers to, or after five seconds.
/// `keep` says of a pod that has ended whether the agent knows it: one that it does not was finished by a former node, and
/// there is nothing to do for it. When one of `tokens` is due, pods are told, and those of pods that are gone are forgotten.
pub async fn run(
    tokens: AccountTokens,
    sources: Sources,
    keep: impl Fn(&PodUid) -> bool + Send,
    desired: watch::Sender<Arc<Desired>>,
    stop: CancellationToken,
) {
    let Sources { mut own, mut services, mut nodes, mut statics, left, without_network } = sources;
    let mut objects = Referred::new(tokens.client().clone(), stop.clone());
    let (mut renewing, mut renewals) = (interval(RENEWING), 0);
    let mut held = BTreeMap::<PodUid, Instant>::new();
    // What the API server has, as far as it is known.
    let mut last = before_an_answer(left);
    let (mut published, mut answered) = (false, false);
    loop {
        if let Some(pods) = own.borrow_and_update().clone() {
            objects.follow_only(pods.values().fold(Refs::default(), |mut all, pod| {
                all.extend(Refs::of(pod));
                all
            }));
            let services = services.borrow_and_update().clone().unwrap_or_default();
            let found = Objects { renewals, ..objects.found(near(&services, &pods)) };
            let mut next = wanted(&pods, found, &last, &keep);
            let node = nodes.borrow_and_update().as_ref().and_then(|nodes| nodes.values().next().cloned());
            next.node_labels = node.as_ref().and_then(|node| node.metadata.labels.clone()).or(last.node_labels.clone());
            next.node_taints = node.and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
            let waits = hold_back(&mut next, &last, published, &mut held, |pod| objects.has_all(&Refs::of(pod)));
            if published || !waits {
                published = true;
                last = next;
            }
        }
        let next = with_statics(&last, &statics.borrow_and_update(), without_network);
        publish(&desired, next, published && !std::mem::replace(&mut answered, published));
        let now = Instant::now();
        let due = held.values().map(|since| *since + PATIENCE).filter(|due| *due > now).min();
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = own.changed() => {}
            Ok(()) = services.changed() => {}
            Ok(()) = nodes.changed() => {}
            Ok(()) = statics.changed() => {}
            () = objects.changed.notified() => {}
            () = wait_for(due) => {}
            _ = renewing.tick() => renewals += u64::from(tokens.look(|uid| last.pods.contains_key(uid))),
        }
    }
}

impl Sources {
    /// The set before the API server has answered.
    pub fn at_start(&self) -> Arc<Desired> {
        let left = before_an_answer(self.left.clone());
        Arc::new(with_statics(&left, &self.statics.borrow(), self.without_network))
    }
}

fn before_an_answer(left: BTreeMap<PodUid, Arc<Pod>>) -> Desired {
    Desired { pods: left, objects: Objects { as_left: true, ..Objects::default() }, ..Desired::default() }
}

fn with_statics(of_cluster: &Desired, statics: &Desired, without_network: bool) -> Desired {
    let mut all = of_cluster.clone();
    all.pods.extend(statics.pods.iter().map(|(uid, pod)| (uid.clone(), Arc::clone(pod))));
    if without_network {
        all.pods.retain(|_, pod| !needs_address(pod));
    }
    all.problems.clone_from(&statics.problems);
    all
}

/// The first answer of the API server is told even if it says nothing new: it is waited for.
fn publish(desired: &watch::Sender<Arc<Desired>>, next: Desired, is_first: bool) {
    desired.send_if_modified(|last| {
        let news = **last != next;
        if news {
            *last = Arc::new(next);
        }
        news || is_first
    });
}

async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Services that own pods see in their environment: those of their namespaces, and the API server's. With all of a large
/// cluster's, each change anywhere would be news to every pod.
fn near(services: &Set<Service>, pods: &Set<Pod>) -> Set<Service> {
    let namespaces: BTreeSet<&str> = pods.keys().map(|name| name.namespace.as_str()).collect();
    let near = |name: &ObjectName| {
        namespaces.contains(name.namespace.as_str()) || (name.namespace == "default" && name.name == "kubernetes")
    };
    services.iter().filter(|(name, _)| near(name)).map(|(name, service)| (name.clone(), Arc::clone(service))).collect()
}

/// The wanted set: every own pod that has not ended. What did not change is the same `Arc` as before.
fn wanted(pods: &Set<Pod>, objects: Objects, last: &Desired, keep: &impl Fn(&PodUid) -> bool) -> Desired {
    let mut desired = Desired { objects, ..Desired::default() };
    for pod in pods.values() {
        let Some(uid) = pod.metadata.uid.clone().and_then(|uid| PodUid::try_from(uid).ok()) else { continue };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let mirror = mirrored(pod).is_some();
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        if mirror || (ended && !last.pods.contains_key(&uid) && !keep(&uid)) {
            continue;
        }
        let lean = lean(pod);
        let same = last.pods.get(&uid).filter(|old| ***old == lean).cloned();
        desired.pods.insert(uid, same.unwrap_or_else(|| Arc::new(lean)));
    }
    desired
}

/// Without what we write ourselves: our own status must not look like a new wish.
fn lean(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.status = None;
    pod.metadata.resource_version = None;
    pod.metadata.managed_fields = None;
    pod
}

/// Takes new pods out for which something is not known yet, for a while. Before anything was published all pods are waited
/// for: those that run already must not be told that what they refer to is missing. Says whether any is waited for.
fn hold_back(
    next: &mut Desired,
    last: &Desired,
    published: bool,
    held: &mut BTreeMap<PodUid, Instant>,
    has_all: impl Fn(&Pod) -> bool,
) -> bool {
    let now = Instant::now();
    let runs = |uid: &PodUid| last.pods.contains_key(uid);
    held.retain(|uid, _| next.pods.contains_key(uid));
    for (uid, pod) in &next.pods {
        match (published && runs(uid)) || has_all(pod) {
            true => drop(held.remove(uid)),
            false => drop(held.entry(uid.clone()).or_insert(now)),
        }
    }
    // One whose patience is over is wanted, whatever it misses.
    let early = |uid: &PodUid| held.get(uid).is_some_and(|since| *since + PATIENCE > now);
    let waits = next.pods.keys().any(early);
    next.pods.retain(|uid, _| !early(uid) || runs(uid));
    waits
}

/// ConfigMaps and Secrets, each followed by its own name: a node may not see others. ClusterTrustBundles are everybody's.
struct Referred {
    client: Client,
    stop: CancellationToken,
    changed: Arc<tokio::sync::Notify>,
    config_maps: BTreeMap<ObjectName, Followed<ConfigMap>>,
    secrets: BTreeMap<ObjectName, Followed<Secret>>,
    /// In each version that they have been served in, while a pod wants any: a server knows one of them, or none.
    trust_bundles: Vec<Followed<v1beta1::ClusterTrustBundle>>,
}

struct Followed<T> {
    sets: Sets<T>,
    stop: CancellationToken,
}

impl<T> Drop for Followed<T> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Referred {
    fn new(client: Client, stop: CancellationToken) -> Self {
        Self {
            client,
            stop,
            changed: Arc::default(),
            config_maps: BTreeMap::new(),
            secrets: BTreeMap::new(),
            trust_bundles: Vec::new(),
        }
    }

    fn follow_only(&mut self, refs: Refs) {
        let Self { client, stop, changed, config_maps, secrets, trust_bundles } = self;
        keep_only(config_maps, refs.config_maps, |name| followed(client, stop, changed, one_feed(name)));
        keep_only(secrets, refs.secrets, |name| followed(client, stop, changed, one_feed(name)));
        if !refs.trust_bundles {
            trust_bundles.clear();
        } else if trust_bundles.is_empty() {
            let feeds = [feed(None), Feed { path: path_of_all::<v1alpha1::ClusterTrustBundle>(None), ..feed(None) }];
            trust_bundles.extend(feeds.map(|feed| followed(client, stop, changed, feed)));
        }
    }

    fn has_all(&self, refs: &Refs) -> bool {
        let maps = refs.config_maps.iter().all(|name| listed(&self.config_maps, name));
        let bundles = !refs.trust_bundles || self.trust_bundles.iter().any(|one| one.sets.borrow().is_some());
        maps && bundles && refs.secrets.iter().all(|name| listed(&self.secrets, name))
    }

    fn found(&self, services: Set<Service>) -> Objects {
        Objects {
            config_maps: newest(&self.config_maps),
            secrets: newest(&self.secrets),
            services,
            cluster_trust_bundles: self.bundles(),
            ..Objects::default()
        }
    }

    fn bundles(&self) -> BTreeMap<String, Arc<v1beta1::ClusterTrustBundle>> {
        let listed = self.trust_bundles.iter().find_map(|one| one.sets.borrow().clone());
        let all = listed.iter().flat_map(|set| set.iter());
        all.map(|(name, bundle)| (name.name.clone(), Arc::clone(bundle))).collect()
    }
}

fn keep_only<T>(
    all: &mut BTreeMap<ObjectName, Followed<T>>,
    names: BTreeSet<ObjectName>,
    begin: impl Fn(&ObjectName) -> Followed<T>,
) {
    all.retain(|name, _| names.contains(name));
    for name in names {
        all.entry(name).or_insert_with_key(|name| begin(name));
    }
}

/// One object alone.
fn one_feed<T: k8s_openapi::Resource + DeserializeOwned>(name: &ObjectName) -> Feed<T> {
    let path = path_of_all::<T>(Some(&name.namespace));
    Feed { path, ..feed(Some(format!("metadata.name={}", name.name))) }
}

fn followed<T: Send + Sync + 'static>(
    client: &Client,
    stop: &CancellationToken,
    changed: &Arc<tokio::sync::Notify>,
    feed: Feed<T>,
) -> Followed<T> {
    let stop = stop.child_token();
    let sets = follow(client.clone(), feed, stop.clone());
    let (mut heard, changed) = (sets.clone(), Arc::clone(changed));
    tokio::spawn(async move {
        while heard.changed().await.is_ok() {
            changed.notify_one();
        }
    });
    Followed { sets, stop }
}

fn listed<T>(all: &BTreeMap<ObjectName, Followed<T>>, name: &ObjectName) -> bool {
    all.get(name).is_some_and(|followed| followed.sets.borrow().is_some())
}

fn newest<T>(all: &BTreeMap<ObjectName, Followed<T>>) -> BTreeMap<ObjectName, Arc<T>> {
    let one = |(name, followed): (&ObjectName, &Followed<T>)| {
        Some((name.clone(), followed.sets.borrow().as_ref()?.get(name).cloned()?))
    };
    all.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pods(all: &[(&str, Value)]) -> Set<Pod> {
        let one = |(name, rest): &(&str, Value)| {
            let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": format!("u-{name}"), "resourceVersion": "7"}});
            for (key, value) in rest.as_object().unwrap() {
                match key.as_str() {
                    "annotations" => pod["metadata"]["annotations"] = value.clone(),
                    _ => pod[key] = value.clone(),
                }
            }
            (ObjectName::new("n", *name), Arc::new(serde_json::from_value(pod).unwrap()))
        };
        all.iter().map(one).collect()
    }

    fn names(desired: &Desired) -> Vec<&str> {
        desired.pods.keys().map(PodUid::as_str).collect()
    }

    #[test]
    fn ended_pods_of_others_and_mirrors_are_not_wanted() {
        let all = pods(&[
            ("a", json!({})),
            ("done", json!({"status": {"phase": "Succeeded"}})),
            ("known", json!({"status": {"phase": "Failed"}})),
            ("mirror", json!({"annotations": {"kubernetes.io/config.mirror": "x"}})),
        ]);
        let known = |uid: &PodUid| uid.as_str() == "u-known";
        let desired = wanted(&all, Objects::default(), &Desired::default(), &known);
        assert_eq!(names(&desired), ["u-a", "u-known"]);
    }

    #[test]
    fn static_pods_and_those_of_a_former_run_are_there_before_the_api_server_answers() {
        let all = wanted(
            &pods(&[("a", json!({})), ("b", json!({}))]),
            Objects::default(),
            &Desired::default(),
            &|_: &PodUid| false,
        );
        let (mut left, mut statics) = (all.pods.clone(), Desired::default());
        statics.pods = left.split_off(&PodUid::try_from("u-b".to_owned()).unwrap());
        let left = Desired { pods: left, ..Desired::default() };
        assert_eq!(names(&with_statics(&left, &statics, false)), ["u-a", "u-b"]);
        assert_eq!(names(&with_statics(&Desired::default(), &statics, false)), ["u-b"]);
        assert!(names(&with_statics(&left, &statics, true)).is_empty(), "none of them is on the host's network");
    }

    #[test]
    fn our_own_status_is_no_new_wish() {
        let first = wanted(&pods(&[("a", json!({}))]), Objects::default(), &Desired::default(), &|_: &PodUid| false);
        let echoed = pods(&[("a", json!({"status": {"phase": "Running"}}))]);
        let second = wanted(&echoed, Objects::default(), &first, &|_: &PodUid| false);
        let uid = PodUid::try_from("u-a".to_owned()).unwrap();
        assert!(Arc::ptr_eq(&first.pods[&uid], &second.pods[&uid]));
        let ended = pods(&[("a", json!({"status": {"phase": "Succeeded"}}))]);
        assert_eq!(names(&wanted(&ended, Objects::default(), &second, &|_: &PodUid| false)), ["u-a"], "its logs stay");
    }

    #[test]
    fn a_new_pod_waits_for_what_it_refers_to_but_not_for_ever() {
        let all = wanted(&pods(&[("a", json!({}))]), Objects::default(), &Desired::default(), &|_: &PodUid| false);
        let mut held = BTreeMap::new();
        let mut next = all.clone();
        hold_back(&mut next, &Desired::default(), true, &mut held, |_| false);
        assert!(names(&next).is_empty() && held.len() == 1);
        let mut next = all.clone();
        hold_back(&mut next, &Desired::default(), true, &mut held, |_| true);
        assert_eq!((names(&next), held.len()), (vec!["u-a"], 0));
        let mut next = all.clone();
        hold_back(&mut next, &all, true, &mut held, |_| false);
        assert_eq!((names(&next), held.len()), (vec!["u-a"], 0), "one that runs goes on");
        hold_back(&mut next, &all, false, &mut held, |_| false);
        assert_eq!((names(&next), held.len()), (vec!["u-a"], 1), "but is waited for at the start");
        hold_back(&mut next, &all, false, &mut held, |_| true);
        assert_eq!((names(&next), held.len()), (vec!["u-a"], 0));
    }
}

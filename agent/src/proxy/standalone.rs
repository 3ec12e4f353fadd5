//! A node of its own as a source: Services and EndpointSlices of manifests, and the pods that selectors name.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::endpoints;
use super::slice::Slice;
use super::snapshot::{NodeFacts, Snapshot, Snapshots};
use crate::names::{ObjectName, PodUid};
use crate::sources::{Desired, Objects};
use crate::view::{PodView, PodViews};

/// Follows manifests and pods until either of them ends. The work has to be spawned.
pub fn snapshots(
    mut desired: watch::Receiver<Arc<Desired>>,
    mut views: PodViews,
    node: String,
) -> (Snapshots, impl Future<Output = ()> + Send + 'static) {
    let (sender, receiver) = watch::channel(None);
    let work = async move {
        let mut last = Arc::<Snapshot>::default();
        loop {
            // Cloned: the channels stay free while we work.
            let (wanted, pods) = (desired.borrow_and_update().clone(), views.borrow_and_update().clone());
            let new = snapshot(&wanted.objects, &pods, &node, &last);
            let is_news = !Arc::ptr_eq(&new.services, &last.services) || !Arc::ptr_eq(&new.slices, &last.slices);
            if sender.borrow().is_none() || is_news {
                last = Arc::new(new);
                sender.send_replace(Some(last.clone()));
            }
            let more = tokio::select! {
                more = desired.changed() => more,
                more = views.changed() => more,
            };
            if more.is_err() {
                return;
            }
        }
    };
    (receiver, work)
}

/// What did not change since `last` is the same `Arc`; so are whole maps.
fn snapshot(objects: &Objects, views: &BTreeMap<PodUid, PodView>, node: &str, last: &Snapshot) -> Snapshot {
    let by_selector = objects.services.iter().filter_map(|(name, service)| {
        // No object can have such a name, so that it meets none of the manifests'.
        let key = ObjectName::new(&*name.namespace, format!("{}/pods", name.name));
        Some((key, endpoints::of_service(name, service, views, node)?))
    });
    let by_hand =
        objects.endpoint_slices.iter().filter_map(|(name, slice)| Some((name.clone(), Slice::of_slice(slice)?)));
    let kept = |(name, slice): (ObjectName, Slice)| {
        let same = last.slices.get(&name).filter(|old| ***old == slice).cloned();
        (name, same.unwrap_or_else(|| Arc::new(slice)))
    };
    Snapshot {
        services: same_or(&last.services, &objects.services),
        slices: same_or(&last.slices, &by_selector.chain(by_hand).map(kept).collect()),
        node: NodeFacts::default(),
    }
}

/// The old map where every entry of the new one is the old one.
fn same_or<T>(
    old: &Arc<BTreeMap<ObjectName, Arc<T>>>,
    new: &BTreeMap<ObjectName, Arc<T>>,
) -> Arc<BTreeMap<ObjectName, Arc<T>>> {
    let is_same =
        old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.0 == new.0 && Arc::ptr_eq(old.1, new.1));
    if is_same { old.clone() } else { Arc::new(new.clone()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let name = |name: &str| ObjectName::new("default", name);
        for (service, spec) in [
            ("web", json!({"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 80}]})),
            ("far", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]})),
        ] {
            let object = json!({"metadata": {"name": service}, "spec": spec});
            objects.services.insert(name(service), Arc::new(serde_json::from_value(object).unwrap()));
        }
        let slice = json!({"metadata": {"name": "far-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "far"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.7"]}], "ports": [{"name": "", "port": 8080}]});
        objects.endpoint_slices.insert(name("far-1"), Arc::new(serde_json::from_value(slice).unwrap()));
        objects
    }

    #[test]
    fn selectors_and_slices_both_give_endpoints() {
        let first = snapshot(&objects(), &BTreeMap::new(), "n1", &Snapshot::default());
        let names: Vec<_> = first.slices.iter().map(|(name, slice)| format!("{name} of {}", slice.service)).collect();
        assert_eq!(names, ["default/far-1 of default/far", "default/web/pods of default/web"]);
        let second = snapshot(&objects(), &BTreeMap::new(), "n1", &first);
        assert!(first.slices.iter().zip(&*second.slices).all(|((_, a), (_, b))| Arc::ptr_eq(a, b)));
    }

    #[tokio::test]
    async fn what_does_not_change_is_not_published_again() {
        let (desired, wanted) = watch::channel(Arc::new(Desired { objects: objects(), ..Desired::default() }));
        let (_views, views) = watch::channel(Arc::default());
        let (mut snapshots, work) = super::snapshots(wanted, views, "n1".to_owned());
        assert!(snapshots.borrow().is_none(), "nothing is known before it was read");
        let work = tokio::spawn(work);
        snapshots.changed().await.unwrap();
        assert_eq!(snapshots.borrow_and_update().as_ref().unwrap().services.len(), 2);
        desired.send_modify(|desired| *desired = Arc::new(Desired::clone(desired)));
        desired.send_modify(|desired| Arc::make_mut(desired).objects.services.clear());
        snapshots.changed().await.unwrap();
        assert_eq!(snapshots.borrow_and_update().as_ref().unwrap().services.len(), 0);
        drop(desired);
        work.await.unwrap();
    }
}

//! All files joined into one set. Pure: what was read goes in, what is wanted comes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::manifest::{Content, Manifest, Object};
use super::{Desired, ManifestProblem};
use crate::names::{ObjectName, PodUid};

/// Kind, namespace and name: what may exist once.
type Key = (&'static str, ObjectName);

/// What is known of all files.
#[derive(Debug, Default)]
pub(super) struct Set {
    files: BTreeMap<PathBuf, Content>,
    /// Which file an object came from: it keeps it when another file claims the same name.
    owners: BTreeMap<Key, PathBuf>,
    /// When a pod was first wanted.
    seen: BTreeMap<PodUid, Timestamp>,
    last: Desired,
}

impl Set {
    /// The files that hold or held something.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.keys().cloned().collect()
    }

    /// A file was read. While it has problems, nothing that it held before goes away.
    pub(super) fn put(&mut self, file: &Path, mut content: Content) {
        let former = self.files.remove(file).unwrap_or_default();
        if !content.problems.is_empty() {
            let has: Vec<Key> = content.manifests.iter().map(key).collect();
            content.manifests.extend(former.manifests.into_iter().filter(|old| !has.contains(&key(old))));
        }
        self.files.insert(file.to_owned(), content);
    }

    /// A file cannot be read: what it held stays.
    pub(super) fn unreadable(&mut self, file: &Path, message: String) {
        let problems = vec![ManifestProblem::whole(file, message)];
        self.put(file, Content { problems, ..Content::default() });
    }

    /// A file is gone, and with it what it held.
    pub(super) fn remove(&mut self, file: &Path) {
        self.files.remove(file);
    }

    /// The whole, at `now`. What has not changed is the same `Arc` as before.
    pub(super) fn desired(&mut self, now: Timestamp) -> Desired {
        let mut seen = std::mem::take(&mut self.seen);
        let (chosen, mut problems) = self.choose();
        let mut desired = Desired::default();
        for (_, manifest) in &chosen {
            add(manifest, &self.last, &mut seen, &mut desired, now);
        }
        let owners = chosen.iter().map(|(file, manifest)| (key(manifest), (*file).clone())).collect();
        problems.extend(self.files.values().flat_map(|content| content.problems.iter().cloned()));
        problems.sort_by(|a, b| (&a.file, a.document, a.line).cmp(&(&b.file, b.document, b.line)));
        desired.problems = problems;
        desired.notes = self.files.values().flat_map(|content| content.notes.iter().cloned()).collect();
        self.owners = owners;
        seen.retain(|uid, _| desired.pods.contains_key(uid));
        self.seen = seen;
        self.last = desired.clone();
        desired
    }

    /// One object per name: the one that had it before, else the first in order of files; the others are problems.
    fn choose(&self) -> (Vec<(&PathBuf, &Manifest)>, Vec<ManifestProblem>) {
        let all = || self.files.iter().flat_map(|(file, content)| content.manifests.iter().map(move |m| (file, m)));
        let mut winners = BTreeMap::<Key, (&PathBuf, &Manifest)>::new();
        for (file, manifest) in all() {
            let key = key(manifest);
            let owns = |file: &PathBuf| self.owners.get(&key) == Some(file);
            match winners.get(&key) {
                Some((holder, _)) if owns(holder) || !owns(file) => {}
                _ => drop(winners.insert(key, (file, manifest))),
            }
        }
        let losers = all().filter(|(_, manifest)| !std::ptr::eq(winners[&key(manifest)].1, *manifest));
        let problems = losers.map(|(file, manifest)| taken(file, manifest, winners[&key(manifest)])).collect();
        (winners.into_values().collect(), problems)
    }
}

/// Puts one object into `desired`; what `last` has unchanged is shared.
fn add(
    manifest: &Manifest,
    last: &Desired,
    seen: &mut BTreeMap<PodUid, Timestamp>,
    desired: &mut Desired,
    now: Timestamp,
) {
    let name = manifest.name.clone();
    let (old, objects) = (&last.objects, &mut desired.objects);
    match &manifest.object {
        Object::Pod(uid, pod) => {
            // The uid is a hash of what lasts: the rest may have changed.
            let fresh = first_seen(pod, *seen.entry(uid.clone()).or_insert(now));
            keep(&last.pods, &mut desired.pods, uid.clone(), &Arc::new(fresh));
        }
        Object::ConfigMap(map) => keep(&old.config_maps, &mut objects.config_maps, name, map),
        Object::Secret(secret) => keep(&old.secrets, &mut objects.secrets, name, secret),
        Object::Service(service) => keep(&old.services, &mut objects.services, name, service),
        Object::PersistentVolume(volume) => {
            keep(&old.persistent_volumes, &mut objects.persistent_volumes, name.name, volume);
        }
        Object::PersistentVolumeClaim(claim) => {
            keep(&old.persistent_volume_claims, &mut objects.persistent_volume_claims, name, claim);
        }
        Object::RuntimeClass(class) => keep(&old.runtime_classes, &mut objects.runtime_classes, name.name, class),
        Object::ClusterTrustBundle(bundle) => {
            keep(&old.cluster_trust_bundles, &mut objects.cluster_trust_bundles, name.name, bundle);
        }
        Object::Workload(workload) => {
            keep(&last.workloads, &mut desired.workloads, (workload.kind, name), workload);
        }
        Object::EndpointSlice(slice) => keep(&old.endpoint_slices, &mut objects.endpoint_slices, name, slice),
    }
}

fn first_seen(pod: &Pod, at: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.seen".to_owned(), format!("{at:.9}"));
    pod
}

fn key(manifest: &Manifest) -> Key {
    (manifest.object.kind(), manifest.name.clone())
}

/// Puts `object` into `new`; where it is what it was, it is the same `Arc`.
fn keep<K: Ord, T: PartialEq>(old: &BTreeMap<K, Arc<T>>, new: &mut BTreeMap<K, Arc<T>>, name: K, object: &Arc<T>) {
    let kept = old.get(&name).filter(|old| Arc::ptr_eq(old, object) || old == &object);
    let kept = kept.unwrap_or(object).clone();
    new.insert(name, kept);
}

fn taken(file: &Path, manifest: &Manifest, holder: (&PathBuf, &Manifest)) -> ManifestProblem {
    let (holder_file, holder) = holder;
    let place = match holder_file.as_path() == file {
        true => format!("document {} of this file", holder.document),
        false => format!("{}, document {}", holder_file.display(), holder.document),
    };
    ManifestProblem {
        file: file.to_owned(),
        document: manifest.document,
        line: (manifest.line != 0).then_some(manifest.line),
        field: Some("metadata.name".to_owned()),
        message: format!(
            "{} {} is taken by {place}; give one of them another name",
            manifest.object.kind(),
            manifest.name
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::manifest::read;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: c, image: 'IMAGE'}]}\n";

    fn pod(name: &str, image: &str) -> String {
        POD.replace("NAME", name).replace("IMAGE", image)
    }

    fn put(set: &mut Set, file: &str, text: &str) -> String {
        let file = Path::new(file);
        set.put(file, read(file, text.as_bytes(), "n1"));
        shown(set)
    }

    fn shown(set: &mut Set) -> String {
        let desired = set.desired(Timestamp::UNIX_EPOCH);
        let pods = desired.pods.values().map(|pod| {
            let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            format!("{} {image}", pod.metadata.name.as_ref().unwrap())
        });
        let mut lines: Vec<String> = pods.collect();
        lines.sort();
        lines.extend(desired.problems.iter().map(|problem| format!("! {problem}")));
        lines.join("\n")
    }

    #[test]
    fn a_file_edited_into_nonsense_keeps_what_it_held_and_says_so() {
        let mut set = Set::default();
        assert_eq!(put(&mut set, "/a", &(pod("x", "i:1") + "---\n" + &pod("y", "i:1"))), "x i:1\ny i:1");
        assert_eq!(
            put(&mut set, "/a", &(pod("x", "i:2") + "---\n" + &pod("y", "NOT AN IMAGE"))),
            "x i:2\ny i:1\n! /a: document 2, line 9: spec.containers[0].image: \"NOT AN IMAGE\": \"NOT AN IMAGE\" is not an image name such as nginx or registry.example/team/app (lower-case only)"
        );
        assert!(put(&mut set, "/a", "{").starts_with("x i:2\ny i:1\n! /a: document 1, line 1: not "));
        set.unreadable(Path::new("/a"), "is too large".to_owned());
        assert_eq!(shown(&mut set), "x i:2\ny i:1\n! /a: is too large");
        assert_eq!(put(&mut set, "/a", &pod("y", "i:3")), "y i:3");
        set.remove(Path::new("/a"));
        assert_eq!(shown(&mut set), "");
    }

    #[test]
    fn a_name_taken_twice_names_both_places_and_the_first_keeps_running() {
        let mut set = Set::default();
        put(&mut set, "/b", &pod("x", "i:1"));
        let both = put(&mut set, "/a", &pod("x", "i:2"));
        assert_eq!(
            both,
            "x i:1\n! /a: document 1, line 1: metadata.name: Pod default/x is taken by /b, document 1; give one of them another name"
        );
        set.remove(Path::new("/b"));
        assert_eq!(shown(&mut set), "x i:2");
        let twice = put(&mut set, "/a", &(pod("x", "i:2") + "---\n" + &pod("x", "i:3")));
        assert_eq!(
            twice,
            "x i:2\n! /a: document 2, line 6: metadata.name: Pod default/x is taken by document 1 of this file; give one of them another name"
        );
    }

    #[test]
    fn what_has_not_changed_is_the_same_value_as_before() {
        let mut set = Set::default();
        let text = pod("x", "i:1") + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}\n";
        let file = Path::new("/a");
        set.put(file, read(file, text.as_bytes(), "n1"));
        let first = set.desired(Timestamp::UNIX_EPOCH);
        set.put(file, read(file, ("# a comment\n".to_owned() + &text).as_bytes(), "n1"));
        let second = set.desired(Timestamp::from_second(60).unwrap());
        assert_eq!(first, second);
        for (one, two) in first.pods.values().zip(second.pods.values()) {
            assert!(Arc::ptr_eq(one, two));
        }
        for (one, two) in first.objects.secrets.values().zip(second.objects.secrets.values()) {
            assert!(Arc::ptr_eq(one, two));
        }
    }
}

//! The store over its whole life: opened, filled, killed, opened again; snapshots on real overlays.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::images::Platform;

struct Node(tempfile::TempDir);

/// One tar entry: a folder where the name ends with a slash, else a file with its name as content.
fn layer(entries: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in entries {
        let mut header = tar::Header::new_gnu();
        let content = if name.ends_with('/') { "" } else { name };
        header.set_entry_type(if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(content.len() as u64);
        header.set_mode(if name.ends_with('/') { 0o711 } else { 0o644 });
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

impl Node {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> ImageStore {
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
        ImageStore::open(self.0.path(), RegistryConfig { platform, ..RegistryConfig::default() }).unwrap()
    }

    /// Imports a docker archive of these layers.
    async fn import(&self, store: &ImageStore, tag: &str, layers: &[Vec<u8>]) -> Image {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256_of(layer)).collect();
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
        let mut tar = tar::Builder::new(Vec::new());
        let mut put = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        put("config.json", config.to_string().as_bytes());
        put("manifest.json", manifest.to_string().as_bytes());
        names.iter().zip(layers).for_each(|(name, layer)| put(name, layer));
        fs::write(self.path("archive.tar"), tar.into_inner().unwrap()).unwrap();
        store.import(&self.path("archive.tar"), None).await.unwrap().remove(0)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.path(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn layer_path(&self, layer: &[u8]) -> PathBuf {
        self.path("images/layers").join(Digest::sha256_of(layer).file_name())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that failed may have left a mount.
        for name in fs::read_dir(self.path("snapshots")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(name.path().join("root"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart_and_the_store_has_one_owner() {
    let node = Node::new();
    let store = node.open();
    let image = node.import(&store, "app:v1", &[layer(&["a"]), layer(&["b"])]).await;
    store.set_pinned(&image.id, true).await.unwrap();
    store.tag(&image.id, &"other/name:v2".parse().unwrap()).await.unwrap();
    let second = ImageStore::open(node.0.path(), RegistryConfig::default());
    assert!(matches!(second, Err(ImageError::Locked(_))));
    let before = store.list();
    drop(store);
    let store = node.open();
    assert_eq!(store.list(), before);
    assert_eq!(before[0].tags, ["docker.io/library/app:v1", "docker.io/other/name:v2"]);
    assert!(before[0].pinned);
    assert_eq!(store.find("app:v1").unwrap().id, image.id);
    let info = store.fs_info().unwrap();
    assert_eq!((info.used_bytes, info.inodes_used), (before[0].size, 2));
    assert!(info.capacity_bytes > info.available_bytes && info.available_bytes > 0);
    assert_eq!(fs::metadata(node.path("images")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn what_a_killed_process_left_unfinished_goes_at_the_next_open() {
    let node = Node::new();
    let store = node.open();
    let (kept, orphan) = (layer(&["kept"]), layer(&["orphan"]));
    let image = node.import(&store, "app:v1", std::slice::from_ref(&kept)).await;
    let gone = node.import(&store, "gone:v1", std::slice::from_ref(&orphan)).await;
    let snapshot = store.prepare_snapshot("half", &image).await.unwrap();
    drop(store);
    // Killed between the names and the record of a removal, while a layer was unpacked, and before a snapshot's record.
    fs::remove_file(node.path("images/records").join(gone.id.0.file_name())).unwrap();
    fs::create_dir_all(node.path("images/tmp/layer-7/fs/deep")).unwrap();
    fs::write(node.path("images/names.tmp"), "{").unwrap();
    fs::remove_file(snapshot.root.parent().unwrap().join("snapshot.json")).unwrap();
    let store = node.open();
    assert_eq!(store.list(), [image]);
    assert!(store.find("gone:v1").is_none() && store.snapshots().is_empty());
    assert!(!node.layer_path(&orphan).exists() && node.layer_path(&kept).exists());
    assert_eq!((node.names("images/tmp"), node.names("snapshots")), (vec![], vec![]));
}

#[tokio::test]
async fn an_image_that_lost_a_layer_or_was_changed_on_disk_is_not_offered() {
    let node = Node::new();
    let store = node.open();
    let (one, two) = (layer(&["1"]), layer(&["2"]));
    node.import(&store, "lost:v1", std::slice::from_ref(&one)).await;
    let changed = node.import(&store, "changed:v1", std::slice::from_ref(&two)).await;
    drop(store);
    fs::remove_dir_all(node.layer_path(&one)).unwrap();
    let record = node.path("images/records").join(changed.id.0.file_name());
    let text = fs::read_to_string(&record).unwrap().replace("amd64", "AMD64");
    fs::write(record, text).unwrap();
    let store = node.open();
    assert_eq!(store.list(), []);
    assert_eq!(node.names("images/layers"), Vec::<String>::new());
    assert_eq!(node.import(&store, "lost:v1", &[one]).await.tags, ["docker.io/library/lost:v1"]);
}

#[tokio::test]
async fn layers_go_with_the_last_image_or_snapshot_that_has_them() {
    let node = Node::new();
    let store = node.open();
    let (shared, own, other) = (layer(&["shared"]), layer(&["own"]), layer(&["other"]));
    let image = node.import(&store, "a:v1", &[shared.clone(), own.clone()]).await;
    node.import(&store, "b:v1", &[shared.clone(), other.clone()]).await;
    assert_eq!(node.names("images/layers").len(), 3);
    let snapshot = store.prepare_snapshot("user", &image).await.unwrap();
    store.remove(&image.id.to_string()).await.unwrap();
    store.remove("a:v1").await.unwrap();
    assert!(store.find("a:v1").is_none());
    assert_eq!(fs::read_to_string(snapshot.root.join("own")).unwrap(), "own");
    assert!(store.prepare_snapshot("new", &image).await.is_ok(), "its layers are still there");
    store.remove_snapshot("new").await.unwrap();
    store.remove_snapshot("user").await.unwrap();
    assert!(!node.layer_path(&own).exists() && node.layer_path(&shared).exists());
    assert!(matches!(store.prepare_snapshot("new", &image).await, Err(ImageError::NotFound(_))));
    store.remove("b:v1").await.unwrap();
    assert_eq!(
        (node.names("images/layers"), node.names("images/tmp"), node.names("snapshots")),
        (vec![], vec![], vec![])
    );
}

#[tokio::test]
async fn a_tag_means_one_image_at_a_time() {
    let node = Node::new();
    let store = node.open();
    let old = node.import(&store, "app:v1", &[layer(&["old"])]).await;
    let new = node.import(&store, "app:v1", &[layer(&["new"])]).await;
    assert_eq!(store.find("app:v1").unwrap().id, new.id);
    assert_eq!(store.find(&old.id.to_string()).unwrap().tags, Vec::<String>::new());
    store.untag(&"app:v1".parse().unwrap()).await.unwrap();
    assert!(store.find("app:v1").is_none() && store.find(new.id.0.hex()).is_some());
}

#[tokio::test]
async fn a_snapshot_shows_the_layers_and_keeps_what_is_written_until_it_is_removed() {
    let node = Node::new();
    let store = node.open();
    let layers = [
        layer(&["etc/", "etc/a", "etc/b", "var/", "var/x", "tmp/", "tmp/old"]),
        layer(&["etc/", "etc/.wh.a", "var/", "var/.wh..wh..opq", "var/y", "tmp/", "tmp/new"]),
    ];
    let image = node.import(&store, "app:v1", &layers).await;
    let snapshot = store.prepare_snapshot("c1", &image).await.unwrap();
    let list = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(snapshot.root.join(folder))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!([list("etc"), list("var"), list("tmp")], ["b", "y", "new old"]);
    fs::write(snapshot.root.join("written"), vec![1; 10_000]).unwrap();
    assert_eq!(store.prepare_snapshot("c1", &image).await.unwrap(), snapshot);
    assert_eq!(fs::read(snapshot.upper.join("written")).unwrap().len(), 10_000);
    let usage = store.snapshot_usage("c1").await.unwrap();
    assert!(usage.bytes >= 10_000 && usage.inodes == 1, "{usage:?}");
    // Unmounted by somebody else: mounted again, with what was written.
    rustix::mount::unmount(&snapshot.root, rustix::mount::UnmountFlags::empty()).unwrap();
    store.prepare_snapshot("c1", &image).await.unwrap();
    assert!(snapshot.root.join("written").exists() && snapshot.root.join("etc/b").exists());
    let other = node.import(&store, "other:v1", &[layer(&["x"])]).await;
    assert!(matches!(store.prepare_snapshot("c1", &other).await, Err(ImageError::SnapshotTaken { .. })));
    assert_eq!(store.snapshots(), ["c1"]);
    store.remove_snapshot("c1").await.unwrap();
    store.remove_snapshot("c1").await.unwrap();
    assert!(matches!(store.snapshot_usage("c1").await, Err(ImageError::NoSnapshot(_))));
    assert_eq!(node.names("snapshots"), Vec::<String>::new());
}

#[tokio::test]
async fn snapshots_survive_a_restart_of_the_agent_but_not_of_the_machine() {
    let node = Node::new();
    let store = node.open();
    let image = node.import(&store, "app:v1", &[layer(&["a"])]).await;
    let snapshot = store.prepare_snapshot("c1", &image).await.unwrap();
    fs::write(snapshot.root.join("written"), "x").unwrap();
    drop(store);
    let store = node.open();
    assert_eq!(store.snapshots(), ["c1"]);
    assert!(store.prepare_snapshot("c1", &image).await.unwrap().root.join("written").exists());
    drop(store);
    rustix::mount::unmount(&snapshot.root, rustix::mount::UnmountFlags::empty()).unwrap();
    let record = node.path("snapshots/c1/snapshot.json");
    let mut before: disk::SnapshotRecord = disk::read(&record).unwrap();
    before.boot = "another boot".to_owned();
    disk::write(&record, &before).unwrap();
    let store = node.open();
    store.prepare_snapshot("c1", &image).await.unwrap();
    assert!(!snapshot.root.join("written").exists() && snapshot.root.join("a").exists());
    store.remove_snapshot("c1").await.unwrap();
}

#[tokio::test]
async fn a_snapshot_in_use_is_taken_away_in_the_end() {
    let node = Node::new();
    let store = node.open();
    let image = node.import(&store, "app:v1", &[layer(&["a"])]).await;
    let snapshot = store.prepare_snapshot("c1", &image).await.unwrap();
    let held = fs::File::open(snapshot.root.join("a")).unwrap();
    store.remove_snapshot("c1").await.unwrap();
    assert_eq!((node.names("snapshots"), store.snapshots()), (vec![], vec![]));
    drop(held);
}

#[tokio::test]
async fn folders_that_a_layer_only_implies_keep_the_owner_and_mode_of_lower_layers() {
    let node = Node::new();
    let store = node.open();
    let layers = [layer(&["./", "home/", "home/ann/", "srv/"]), layer(&["home/ann/file", "srv/", "srv/deep/file"])];
    let image = node.import(&store, "app:v1", &layers).await;
    let snapshot = store.prepare_snapshot("c1", &image).await.unwrap();
    let mode = |name: &str| fs::metadata(snapshot.root.join(name)).unwrap().mode() & 0o777;
    assert_eq!(["", "home", "home/ann", "srv", "srv/deep"].map(mode), [0o711, 0o711, 0o711, 0o711, 0o755]);
    store.remove_snapshot("c1").await.unwrap();
}

#[tokio::test]
async fn a_stack_of_many_layers_and_an_image_of_none_can_be_mounted() {
    let node = Node::new();
    let store = node.open();
    let mut layers: Vec<Vec<u8>> = (0..150).map(|number| layer(&[&format!("f{number}"), "same"])).collect();
    // One of them twice.
    layers.push(layers[3].clone());
    let image = node.import(&store, "many:v1", &layers).await;
    let snapshot = store.prepare_snapshot("many", &image).await.unwrap();
    assert_eq!(fs::read_dir(&snapshot.root).unwrap().count(), 151);
    store.remove_snapshot("many").await.unwrap();
    let none = node.import(&store, "none:v1", &[]).await;
    let snapshot = store.prepare_snapshot("none", &none).await.unwrap();
    assert_eq!(fs::read_dir(&snapshot.root).unwrap().count(), 0);
    store.remove_snapshot("none").await.unwrap();
}

#[tokio::test]
async fn a_mount_that_fails_leaves_no_snapshot() {
    let node = Node::new();
    let store = node.open();
    let contents = layer(&["a"]);
    let image = node.import(&store, "app:v1", std::slice::from_ref(&contents)).await;
    fs::rename(node.layer_path(&contents), node.path("away")).unwrap();
    assert!(matches!(store.prepare_snapshot("c1", &image).await, Err(ImageError::Mount { .. })));
    assert_eq!((node.names("snapshots"), store.snapshots()), (vec![], vec![]));
    fs::rename(node.path("away"), node.layer_path(&contents)).unwrap();
    store.prepare_snapshot("c1", &image).await.unwrap();
    store.remove_snapshot("c1").await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_an_image_leaves_nothing_and_takes_the_next_one() {
    let node = Node::new();
    let (source, target) = (node.path("archive.tar"), node.path("small"));
    let store = node.open();
    node.import(&store, "large:v1", &[layer(&["small"]), layer(&["large"; 3000])]).await;
    fs::create_dir(&target).unwrap();
    let size = Some(c"size=1m");
    rustix::mount::mount("tmpfs", &target, "tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
    let result = async {
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
        let full = ImageStore::open(&target, RegistryConfig { platform, ..RegistryConfig::default() })?;
        fs::write(target.join("ballast"), vec![0; 1020 << 10]).map_err(ImageError::store("filling", &target))?;
        let refused = full.import(&source, None).await.map_err(|error| error.kind());
        let left = node.names("small/images/tmp");
        fs::remove_file(target.join("ballast")).map_err(ImageError::store("emptying", &target))?;
        let taken = full.import(&source, None).await?.len();
        Ok::<_, ImageError>((refused, left, taken))
    }
    .await;
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
    let (refused, left, taken) = result.unwrap();
    assert_eq!((refused.unwrap_err(), left, taken), (crate::images::ErrorKind::NoSpace, vec![], 1));
}

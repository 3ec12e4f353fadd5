//! With real mounts, in a mount namespace of their own.

use std::fs;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::{Value, json};

use super::*;

mod claims;
use crate::names::ObjectName;

const NODE: Allocatable = Allocatable { cpu_millis: 1_000, memory_bytes: 64 << 20, ephemeral_storage_bytes: 1 << 30 };

/// Runs a test where its mounts are seen by nobody else and end with it.
fn in_private_mounts<F: Future<Output = ()>>(test: impl FnOnce(Fixture) -> F + Send + 'static) {
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("needs root");
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // Blocking threads are started by this thread and live in its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture {
            volumes: Volumes::new(dir.path(), dir.path().join("claims"), "n1", Arc::new(KernelMounts)),
            root: dir.path().to_owned(),
        };
        runtime.block_on(test(fixture));
        let left = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!left.contains(dir.path().to_str().unwrap()), "a mount is left behind: {left}");
    };
    std::thread::spawn(run).join().unwrap();
}

struct Fixture {
    volumes: Volumes,
    root: PathBuf,
}

impl Fixture {
    async fn make(&self, spec: &Value, objects: &Objects) -> Result<Arc<MountedVolumes>, VolumeError> {
        self.volumes.ensure_mounted(&pod(spec), &uid(), objects, &NODE).await
    }

    async fn end(&self) {
        self.volumes.unmount_all(&uid()).await.unwrap();
        self.volumes.unmount_all(&uid()).await.unwrap();
        self.volumes.remove_pod_dir(&uid()).await.unwrap();
        self.volumes.remove_pod_dir(&uid()).await.unwrap();
        assert_eq!(self.volumes.on_disk().await.unwrap(), []);
    }
}

fn uid() -> PodUid {
    PodUid::try_from("u-1".to_owned()).unwrap()
}

fn pod(spec: &Value) -> Arc<Pod> {
    let pod =
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"a": "b"}}, "spec": spec});
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A pod whose container mounts each volume at `/<name>`.
fn mounting(volumes: Value) -> Value {
    let mounts: Vec<_> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|v| json!({"name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap())}))
        .collect();
    json!({"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]})
}

fn objects(pass: &str) -> Objects {
    let mut objects = Objects::default();
    let map = json!({"data": {"app.conf": pass}});
    objects.config_maps.insert(ObjectName::new("shop", "settings"), Arc::new(serde_json::from_value(map).unwrap()));
    let secret = k8s_openapi::api::core::v1::Secret {
        data: Some([("pass".to_owned(), k8s_openapi::ByteString(pass.as_bytes().to_vec()))].into()),
        ..Default::default()
    };
    objects.secrets.insert(ObjectName::new("shop", "login"), Arc::new(secret));
    objects
}

fn fs_type(path: &Path) -> i64 {
    rustix::fs::statfs(path).unwrap().f_type
}

const TMPFS: i64 = 0x0102_1994;

/// Each token is another one.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicU32);

#[async_trait::async_trait]
impl Tokens for Counting {
    async fn token(&self, wanted: &TokenWanted) -> Result<Token, String> {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match count {
            2 => Err("failed to fetch token: away".to_owned()),
            _ => Ok(Token(format!("{}/{} {} {count}", wanted.pod.namespace, wanted.account, wanted.seconds))),
        }
    }
}

#[test]
fn a_renewed_token_reaches_the_volume_and_is_its_readers_alone() {
    in_private_mounts(|fixture| async move {
        let mut spec = mounting(json!([{"name": "t", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]));
        spec["serviceAccountName"] = json!("clerk");
        spec["securityContext"] = json!({"runAsUser": 7, "fsGroup": 9});
        let refused = fixture.make(&spec, &Objects::default()).await.unwrap_err().for_people();
        assert!(refused.ends_with("a serviceAccountToken needs an API server to issue it"), "{refused}");

        let volumes = fixture.volumes.clone().with_tokens(Some(Arc::new(Counting::default())));
        let (pod, uid, none) = (pod(&spec), uid(), Objects::default());
        let mounted = volumes.ensure_mounted(&pod, &uid, &none, &NODE).await.unwrap();
        let file = mounted.host_path("t").unwrap().join("token");
        let read = || fs::read_to_string(&file).unwrap();
        assert_eq!((read().as_str(), fs_type(file.parent().unwrap())), ("shop/clerk 3607 0", TMPFS));
        volumes.refresh(&pod, &uid, &none, &NODE).await.unwrap();
        assert_eq!(read(), "shop/clerk 3607 1");
        let stat = fs::metadata(&file).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (7, 9, 0o640));
        let error = volumes.refresh(&pod, &uid, &none, &NODE).await.unwrap_err().for_people();
        assert_eq!(error, "MountVolume.SetUp failed for volume \"t\" : failed to fetch token: away");
        assert_eq!(read(), "shop/clerk 3607 1", "what it held stays");
        fixture.end().await;
    });
}

#[test]
fn secrets_are_in_memory_and_follow_their_object() {
    in_private_mounts(|fixture| async move {
        let spec = mounting(
            json!([{"name": "s", "secret": {"secretName": "login"}}, {"name": "m", "configMap": {"name": "settings"}}]),
        );
        let mounted = fixture.make(&spec, &objects("one")).await.unwrap();
        let secret = mounted.get("s").unwrap();
        assert_eq!(secret.host_path, fixture.root.join("pods/u-1/volumes/kubernetes.io~secret/s"));
        assert!(secret.read_only && secret.managed);
        assert_eq!(fs_type(&secret.host_path), TMPFS);
        for parent in ["pods", "pods/u-1", "pods/u-1/volumes", "pods/u-1/volumes/kubernetes.io~secret"] {
            assert_eq!(fs::metadata(fixture.root.join(parent)).unwrap().mode() & 0o7777, 0o750, "{parent}");
        }
        let read =
            |volume: &str, file: &str| fs::read_to_string(mounted.host_path(volume).unwrap().join(file)).unwrap();
        assert_eq!((read("s", "pass"), read("m", "app.conf")), ("one".to_owned(), "one".to_owned()));

        fixture.volumes.refresh(&pod(&spec), &uid(), &objects("two"), &NODE).await.unwrap();
        assert_eq!((read("s", "pass"), read("m", "app.conf")), ("two".to_owned(), "two".to_owned()));
        let missing = fixture.volumes.refresh(&pod(&spec), &uid(), &Objects::default(), &NODE).await.unwrap_err();
        assert_eq!(missing.for_people(), "MountVolume.SetUp failed for volume \"s\" : secret \"login\" not found");
        assert_eq!(read("s", "pass"), "two", "what it held stays");
        assert_eq!(fixture.make(&spec, &objects("two")).await.unwrap(), mounted, "again is fine");
        let untold = Objects { as_left: true, ..Objects::default() };
        assert_eq!(fixture.make(&spec, &untold).await.unwrap(), mounted, "nobody has said that it changed");
        fixture.volumes.refresh(&pod(&spec), &uid(), &untold, &NODE).await.unwrap();
        assert_eq!(read("s", "pass"), "two");
        let more = mounting(json!([{"name": "new", "configMap": {"name": "settings"}}]));
        let error = fixture.make(&more, &untold).await.unwrap_err().for_people();
        assert!(error.ends_with("what it holds is not known before the API server answers"), "{error}");
        assert_eq!(fixture.volumes.on_disk().await.unwrap(), [uid()]);
        fixture.end().await;
    });
}

#[test]
fn an_empty_dir_is_made_once_and_is_the_pods() {
    in_private_mounts(|fixture| async move {
        let mut spec = mounting(
            json!([{"name": "d", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]),
        );
        spec["securityContext"] = json!({"fsGroup": 4711});
        let mounted = fixture.make(&spec, &Objects::default()).await.unwrap();
        for name in ["d", "m"] {
            let found = fs::metadata(mounted.host_path(name).unwrap()).unwrap();
            assert_eq!((found.mode() & 0o7777, found.gid()), (0o2777, 4711), "{name}");
            fs::write(mounted.host_path(name).unwrap().join("mine"), "x").unwrap();
            fs::set_permissions(mounted.host_path(name).unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
        }
        let memory = mounted.host_path("m").unwrap();
        assert_eq!(fs_type(memory), TMPFS);
        assert!(fs::write(memory.join("large"), vec![0; 2 << 20]).is_err(), "the limit holds");
        assert_eq!(fixture.make(&spec, &Objects::default()).await.unwrap(), mounted);
        for name in ["d", "m"] {
            let dir = mounted.host_path(name).unwrap();
            assert_eq!(fs::read_to_string(dir.join("mine")).unwrap(), "x");
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0o700, "not touched again");
        }
        fixture.end().await;
    });
}

#[test]
fn host_paths_are_what_their_type_says() {
    in_private_mounts(|fixture| async move {
        let host = tempfile::tempdir().unwrap();
        let at = |name: &str| host.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("file"), "x").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let cases = [
            ("Directory", "file", Some("directory")),
            ("Directory", "none", Some("directory")),
            ("File", "none", Some("file")),
            ("File", "socket", Some("file")),
            ("Socket", "file", Some("socket file")),
            ("CharDevice", "file", Some("character device")),
            ("BlockDevice", "file", Some("block device")),
            ("DirectoryOrCreate", "file", Some("directory")),
            ("FileOrCreate", "", Some("file")),
            ("File", "file", None),
            ("Socket", "socket", None),
            ("DirectoryOrCreate", "new/dir", None),
            ("FileOrCreate", "new/file", None),
            ("", "also/new", None),
        ];
        for (kind, name, refused) in cases {
            let spec = mounting(json!([{"name": "h", "hostPath": {"path": at(name), "type": kind}}]));
            let made = fixture.make(&spec, &Objects::default()).await;
            let want = refused.map(|what| {
                format!(
                    "MountVolume.SetUp failed for volume \"h\" : hostPath type check failed: {} is not a {what}",
                    at(name)
                )
            });
            assert_eq!(made.as_ref().err().map(VolumeError::for_people), want, "{kind} {name}");
            if let Ok(mounted) = made {
                let volume = mounted.get("h").unwrap();
                assert!(!volume.managed && !volume.read_only);
                assert!(volume.host_path.exists());
            }
        }
        assert_eq!(fs::metadata(at("new/file")).unwrap().mode() & 0o7777, 0o644);
        let null = mounting(json!([{"name": "h", "hostPath": {"path": "/dev/null", "type": "CharDevice"}}]));
        fixture.make(&null, &Objects::default()).await.unwrap();
        fixture.end().await;
    });
}

#[test]
fn a_sub_path_is_bound_once_and_never_leaves_its_volume() {
    in_private_mounts(|fixture| async move {
        let spec = mounting(json!([{"name": "d", "emptyDir": {}}, {"name": "m", "configMap": {"name": "settings"}}]));
        let mounted = fixture.make(&spec, &objects("one")).await.unwrap();
        let dir = mounted.host_path("d").unwrap().to_owned();
        let bind = |volume: &'static str, path: &'static str| {
            let mounted = mounted.clone();
            let volumes = fixture.volumes.clone();
            async move { volumes.subpath(&uid(), SubPath { volume, container: "c", index: 0, path }, &mounted).await }
        };
        let target = bind("d", "new/sub").await.unwrap();
        assert_eq!(target, fixture.root.join("pods/u-1/volume-subpaths/d/c/0"));
        fs::write(target.join("x"), "1").unwrap();
        assert_eq!(fs::read_to_string(dir.join("new/sub/x")).unwrap(), "1");
        assert_eq!(fs::metadata(dir.join("new")).unwrap().mode() & 0o7777, 0o777, "the volume's own mode");
        assert_eq!(bind("d", "new/sub").await.unwrap(), target, "the same again");

        fs::write(dir.join("file"), "2").unwrap();
        assert_eq!(
            fs::read_to_string(bind("d", "file").await.unwrap()).unwrap(),
            "2",
            "another source takes its place"
        );
        symlink("new/sub", dir.join("inside")).unwrap();
        assert_eq!(fs::read_to_string(bind("d", "inside").await.unwrap().join("x")).unwrap(), "1");

        symlink("/etc", dir.join("abs")).unwrap();
        symlink("../../..", dir.join("up")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        for bad in ["abs", "abs/passwd", "up", "up/x", "dangling", "../m", "a/../../b", "/etc"] {
            let error = bind("d", bad).await.unwrap_err();
            assert_eq!(
                error.for_people(),
                "failed to prepare subPath for volumeMount \"d\" of container \"c\"",
                "{bad}"
            );
        }
        let file = bind("m", "app.conf").await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        fixture.volumes.refresh(&pod(&spec), &uid(), &objects("two"), &NODE).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one", "a sub path does not follow");
        assert_eq!(
            fs::read_to_string(bind("m", "app.conf").await.unwrap()).unwrap(),
            "two",
            "but the next container does"
        );
        fixture.end().await;
    });
}

#[test]
fn a_link_that_is_swapped_in_while_a_sub_path_is_bound_leads_nowhere() {
    in_private_mounts(|fixture| async move {
        let spec = mounting(json!([{"name": "d", "emptyDir": {}}]));
        let mounted = fixture.make(&spec, &Objects::default()).await.unwrap();
        let dir = mounted.host_path("d").unwrap().to_owned();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("x")).unwrap();
        fs::write(outside.path().join("x/secret"), "x").unwrap();
        fs::create_dir_all(dir.join("a/x")).unwrap();
        symlink(outside.path(), dir.join("b")).unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (swapping, is_over) = (dir.clone(), stop.clone());
        let attacker = std::thread::spawn(move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    swapping.join("a"),
                    rustix::fs::CWD,
                    swapping.join("b"),
                    exchange,
                )
                .unwrap();
            }
        });
        let mut bound = 0;
        for _ in 0..300 {
            let path = SubPath { volume: "d", container: "c", index: 0, path: "a/x" };
            if let Ok(target) = fixture.volumes.subpath(&uid(), path, &mounted).await {
                bound += 1;
                assert!(!target.join("secret").exists(), "it left its volume");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        attacker.join().unwrap();
        assert!(bound > 0, "the attack itself was never tried");
        fixture.end().await;
    });
}

#[test]
fn nothing_is_removed_through_a_mount_that_is_in_use() {
    in_private_mounts(|fixture| async move {
        let spec = mounting(json!([{"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "d", "emptyDir": {}}]));
        let mounted = fixture.make(&spec, &Objects::default()).await.unwrap();
        let (memory, dir) = (mounted.host_path("m").unwrap().to_owned(), mounted.host_path("d").unwrap().to_owned());
        fs::write(memory.join("x"), "1").unwrap();
        let held = fs::File::open(memory.join("x")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        nix::mount::mount(
            Some(outside.path()),
            &dir.join("sub"),
            None::<&str>,
            nix::mount::MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        symlink(outside.path(), dir.join("link")).unwrap();

        let failed = fixture.volumes.unmount_all(&uid()).await.unwrap_err();
        assert!(failed.for_people().contains("busy"), "{}", failed.for_people());
        assert!(fixture.volumes.remove_pod_dir(&uid()).await.is_err());
        assert!(outside.path().join("kept").exists() && memory.join("x").exists());

        drop(held);
        assert!(fixture.volumes.unmount_all(&uid()).await.is_err());
        assert!(outside.path().join("kept").exists());
        nix::mount::umount(&dir.join("sub")).unwrap();
        fixture.end().await;
        assert!(outside.path().join("kept").exists());
    });
}

#[test]
fn a_pod_without_volumes_costs_nothing() {
    in_private_mounts(|fixture| async move {
        let spec = json!({"containers": [{"name": "c"}], "volumes": [{"name": "unused", "emptyDir": {}}]});
        assert_eq!(*fixture.make(&spec, &Objects::default()).await.unwrap(), MountedVolumes::default());
        assert_eq!(fs::read_dir(&fixture.root).unwrap().count(), 0);
    });
}

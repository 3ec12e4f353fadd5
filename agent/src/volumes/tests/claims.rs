//! Claims, NFS shares and propagation, with real mounts.

use super::*;

fn volume(spec: Value) -> k8s_openapi::api::core::v1::PersistentVolume {
    let mut whole = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
    spec.as_object().unwrap().iter().for_each(|(key, value)| whole[key] = value.clone());
    serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": whole})).unwrap()
}

/// A volume `pv` as `spec` says, and a claim `data` that asks for `wanted` beside its gigabyte.
fn stored(spec: Option<Value>, wanted: Value) -> Objects {
    let mut objects = Objects::default();
    if let Some(spec) = spec {
        objects.persistent_volumes.insert("pv".to_owned(), Arc::new(volume(spec)));
    }
    let mut claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    wanted.as_object().unwrap().iter().for_each(|(key, value)| claim[key] = value.clone());
    let claim = serde_json::from_value(json!({"metadata": {"name": "data", "namespace": "shop"}, "spec": claim}));
    objects.persistent_volume_claims.insert(ObjectName::new("shop", "data"), Arc::new(claim.unwrap()));
    objects
}

fn claiming() -> Value {
    mounting(json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]))
}

#[test]
fn a_claim_gets_its_local_volume_and_the_files_outlive_every_pod() {
    in_private_mounts(|fixture| async move {
        let disk = tempfile::tempdir().unwrap();
        fs::write(disk.path().join("before"), "x").unwrap();
        let mut objects = stored(Some(json!({"local": {"path": disk.path()}})), json!({"storageClassName": ""}));
        let volume = Arc::make_mut(objects.persistent_volumes.get_mut("pv").unwrap());
        let group = ("pv.beta.kubernetes.io/gid".to_owned(), "4712".to_owned());
        volume.metadata.annotations = Some([group].into());
        let mut spec = claiming();
        spec["securityContext"] = json!({"fsGroup": 4711});
        let mounted = fixture.make(&spec, &objects).await.unwrap();
        let dir = mounted.host_path("d").unwrap().to_owned();
        assert_eq!(dir, fixture.root.join("pods/u-1/volumes/kubernetes.io~local-volume/pv"));
        assert_eq!((mounted.groups(&[4711]), mounted.groups(&[4712])), (vec![4712], vec![]));
        assert_eq!(fs::metadata(dir.join("before")).unwrap().gid(), 4711);
        fs::write(dir.join("mine"), "y").unwrap();
        assert_eq!(fs::read_to_string(disk.path().join("mine")).unwrap(), "y");

        // Whatever becomes of the manifests: a pod that has its volume keeps it, also with another agent.
        fixture.make(&spec, &Objects::default()).await.unwrap();
        let next = Volumes::new(&fixture.root, fixture.root.join("claims"), "n1", Arc::new(KernelMounts));
        let again = next.ensure_mounted(&super::pod(&spec), &uid(), &Objects::default(), &NODE).await.unwrap();
        assert_eq!(again, mounted);
        fixture.end().await;
        assert_eq!(fs::read_to_string(disk.path().join("mine")).unwrap(), "y", "nothing of it was removed");

        let gone = fixture.make(&spec, &Objects::default()).await.unwrap_err();
        assert_eq!(
            gone.for_people(),
            "Unable to attach or mount volumes: unmounted volumes=[d], unattached volumes=[], failed to process \
             volumes=[d]: error processing PVC shop/data: failed to fetch PVC from API server: persistentvolumeclaims \
             \"data\" not found"
        );
        fixture.end().await;
    });
}

#[test]
fn a_block_volume_is_its_device_and_nothing_else() {
    in_private_mounts(|fixture| async move {
        let disk = tempfile::tempdir().unwrap();
        let device = disk.path().join("device");
        let (kind, open) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::from_bits_truncate(0o600));
        nix::sys::stat::mknod(&device, kind, open, nix::sys::stat::makedev(7, 255)).unwrap();
        let block = json!({"storageClassName": "", "volumeMode": "Block"});
        let volume = |path: &Path| json!({"volumeMode": "Block", "local": {"path": path}});
        let mut spec = claiming();
        let error = fixture.make(&spec, &stored(Some(volume(&device)), block.clone())).await.unwrap_err().for_people();
        assert!(error.ends_with("volume pv has volumeMode Block, but is specified in volumeMounts"), "{error}");

        spec["containers"][0] = json!({"name": "c", "volumeDevices": [{"name": "d", "devicePath": "/dev/d"}]});
        let files = stored(Some(json!({"local": {"path": disk.path()}})), json!({"storageClassName": ""}));
        let error = fixture.make(&spec, &files).await.unwrap_err().for_people();
        assert!(error.ends_with("volume pv has volumeMode Filesystem, but is specified in volumeDevices"), "{error}");
        let host = json!({"volumeMode": "Block", "hostPath": {"path": device}});
        let error = fixture.make(&spec, &stored(Some(host), block.clone())).await.unwrap_err().for_people();
        assert!(error.ends_with("volume pv has volumeMode Block, which only local volumes can have"), "{error}");
        fixture.end().await;
        let error = fixture.make(&spec, &stored(Some(volume(disk.path())), block.clone())).await.unwrap_err();
        assert!(error.for_people().contains("is not a block device"), "{}", error.for_people());
        fixture.end().await;

        let mounted = fixture.make(&spec, &stored(Some(volume(&device)), block)).await.unwrap();
        let link = fixture.root.join("pods/u-1/volumeDevices/kubernetes.io~local-volume/pv");
        assert_eq!(mounted.get("d").map(|volume| (volume.host_path.as_path(), volume.device)), Some((&*link, true)));
        assert_eq!(fs::read_link(&link).unwrap(), device);
        assert_eq!(fixture.make(&spec, &Objects::default()).await.unwrap(), mounted, "by what was noted");
        fixture.end().await;
        assert!(device.exists(), "it is not ours to remove");
    });
}

#[test]
fn a_claim_that_waits_says_for_what() {
    in_private_mounts(|fixture| async move {
        let why = |error: VolumeError| error.for_people().split_once("shop/data: ").unwrap().1.to_owned();
        let small = json!({"capacity": {"storage": "1Mi"}, "hostPath": {"path": "/srv"}});
        let error = fixture.make(&claiming(), &stored(Some(small), json!({"storageClassName": ""}))).await.unwrap_err();
        assert_eq!(why(error), "PVC is not bound: no PersistentVolume fits: pv has 1Mi");
        let elsewhere = json!({"local": {"path": "/srv"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}]}]}}});
        let named = stored(Some(elsewhere), json!({"volumeName": "pv"}));
        let error = fixture.make(&claiming(), &named).await.unwrap_err();
        assert_eq!(why(error), "PVC is not bound: volume \"pv\" belongs to another node");
        let none = stored(Some(json!({"local": {"path": "/nonexistent"}})), json!({"volumeName": "pv"}));
        let error = fixture.make(&claiming(), &none).await.unwrap_err();
        let want = "MountVolume.SetUp failed for volume \"d\" : path \"/nonexistent\" does not exist";
        assert_eq!(error.for_people(), want);
        fixture.end().await;
    });
}

#[test]
fn a_class_that_nobody_has_gets_a_directory_that_stays() {
    in_private_mounts(|fixture| async move {
        let objects = stored(None, json!({"storageClassName": "standard"}));
        let mounted = fixture.make(&claiming(), &objects).await.unwrap();
        let dir = mounted.host_path("d").unwrap();
        assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o777);
        fs::write(dir.join("mine"), "x").unwrap();
        fixture.end().await;
        let kept = fixture.root.join("claims/shop_data/mine");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "x");
        let mounted = fixture.make(&claiming(), &objects).await.unwrap();
        assert_eq!(fs::read_to_string(mounted.host_path("d").unwrap().join("mine")).unwrap(), "x");
        fixture.end().await;
    });
}

#[test]
fn an_ephemeral_volume_ends_with_its_pod_and_takes_no_other_claim() {
    in_private_mounts(|fixture| async move {
        let template =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
        let spec = mounting(json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]));
        let mounted = fixture.make(&spec, &Objects::default()).await.unwrap();
        fs::write(mounted.host_path("scratch").unwrap().join("mine"), "x").unwrap();
        let made = fixture.root.join("claims/shop_web-scratch_u-1");
        assert!(made.join("mine").exists());
        fixture.end().await;
        assert!(!made.exists());
        assert_eq!(fs::read_to_string(fixture.root.join("claims/bindings.json")).unwrap(), "[]");

        let mut objects = stored(None, json!({}));
        let data = objects.persistent_volume_claims.remove(&ObjectName::new("shop", "data")).unwrap();
        objects.persistent_volume_claims.insert(ObjectName::new("shop", "web-scratch"), data);
        let error = fixture.make(&spec, &objects).await.unwrap_err().for_people();
        assert!(error.ends_with("was not created for this pod (pod is not owner)"), "{error}");
        fixture.end().await;
    });
}

#[test]
fn a_volume_for_one_pod_is_refused_to_the_next_until_the_first_has_let_go() {
    in_private_mounts(|fixture| async move {
        let disk = tempfile::tempdir().unwrap();
        let modes = json!(["ReadWriteOncePod"]);
        let objects = stored(
            Some(json!({"local": {"path": disk.path()}, "accessModes": modes})),
            json!({"storageClassName": "", "accessModes": modes}),
        );
        fixture.make(&claiming(), &objects).await.unwrap();
        let second = PodUid::try_from("u-2".to_owned()).unwrap();
        let pod = super::pod(&claiming());
        let try_second = || fixture.volumes.ensure_mounted(&pod, &second, &objects, &NODE);
        // The pod's own uid is not looked at here: only where its directory is.
        let refused = try_second().await.unwrap_err().for_people();
        assert_eq!(
            refused,
            "MountVolume.SetUp failed for volume \"d\" : volume uses the ReadWriteOncePod access mode and is already \
             in use by another pod"
        );
        fixture.volumes.unmount_all(&uid()).await.unwrap();
        try_second().await.unwrap();
        fixture.volumes.unmount_all(&second).await.unwrap();
        fixture.volumes.remove_pod_dir(&second).await.unwrap();
        fixture.end().await;
    });
}

#[test]
fn a_read_only_claim_cannot_be_written_to() {
    in_private_mounts(|fixture| async move {
        let disk = tempfile::tempdir().unwrap();
        let spec = mounting(json!([{"name": "d", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}]));
        let local = json!({"local": {"path": disk.path()}, "mountOptions": ["noexec", "nosuid"]});
        let mounted = fixture.make(&spec, &stored(Some(local), json!({"volumeName": "pv"}))).await.unwrap();
        assert!(mounted.get("d").unwrap().read_only);
        let error = fs::write(mounted.host_path("d").unwrap().join("x"), "x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        fs::write(disk.path().join("x"), "x").unwrap();
        fixture.end().await;
    });
}

#[test]
fn what_is_mounted_in_a_shared_volume_is_seen_and_never_removed() {
    in_private_mounts(|fixture| async move {
        let mut spec = mounting(json!([{"name": "d", "emptyDir": {}}]));
        spec["containers"][0]["volumeMounts"][0]["mountPropagation"] = json!("Bidirectional");
        let mounted = fixture.make(&spec, &Objects::default()).await.unwrap();
        let dir = mounted.host_path("d").unwrap().to_owned();
        let shared = |dir: &Path| {
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let found = mounts.lines().find(|line| line.contains(&format!(" {} ", dir.display()))).map(str::to_owned);
            found.is_some_and(|line| line.contains("shared:"))
        };
        assert!(shared(&dir));
        fixture.make(&spec, &Objects::default()).await.unwrap();
        fs::create_dir(dir.join("inner")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some(outside.path()), &dir.join("inner"), None::<&str>, bind, None::<&str>).unwrap();
        let error = fixture.volumes.unmount_all(&uid()).await.unwrap_err().for_people();
        assert!(error.contains("busy"), "{error}");
        assert!(outside.path().join("kept").exists());
        nix::mount::umount(&dir.join("inner")).unwrap();
        fixture.end().await;
    });
}

#[test]
fn huge_pages_are_mounted_with_the_size_that_is_asked_for() {
    in_private_mounts(|fixture| async move {
        let mut spec = mounting(json!([{"name": "h", "emptyDir": {"medium": "HugePages", "sizeLimit": "4Mi"}}]));
        spec["containers"][0]["resources"] = json!({"limits": {"hugepages-2Mi": "4Mi"}});
        let mounted = match fixture.make(&spec, &Objects::default()).await {
            Ok(mounted) => mounted,
            // A kernel without such pages says so.
            Err(error) => {
                assert!(error.for_people().contains("huge pages"), "{}", error.for_people());
                return fixture.end().await;
            }
        };
        let dir = mounted.host_path("h").unwrap();
        let found = rustix::fs::statfs(dir).unwrap();
        assert_eq!((found.f_type, found.f_bsize), (0x958458f6, 2 << 20));
        assert_eq!(found.f_blocks, 2, "no more than the limit");
        fixture.end().await;
    });
}

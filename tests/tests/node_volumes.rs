//! Volumes of real pods: claims, shares, images, limits, propagation, and what is left when things go wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tests::agent::{Agent, Place};
use tests::trust::Certificates;

const SOON: Duration = Duration::from_secs(60);

/// A pod with one container that runs `script` with these mounts, and these volumes, in YAML's flow form.
fn pod(name: &str, script: &str, mounts: &str, volumes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         restartPolicy: Never\n  volumes: {volumes}\n  containers:\n  - name: main\n    image: busybox\n    \
         command: [sh, -c, {script:?}]\n    volumeMounts: {mounts}\n"
    )
}

const STAYS: &str = "sleep 1000000";

fn runs(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

fn ended(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()
}

fn gone(agent: &mut Agent, name: &str) -> Result<()> {
    let name = name.to_owned();
    agent.wait(&format!("end of pod {name}"), SOON, |agent| Ok(agent.pod(&name)?.is_none().then_some(())))
}

/// What the pod printed, once it has ended.
fn printed(agent: &mut Agent, name: &str) -> Result<String> {
    agent.wait_for_pod(name, SOON, ended)?;
    agent.print(&["logs", name])
}

/// Waits for an event that holds `text`.
fn told(agent: &mut Agent, text: &str) -> Result<()> {
    agent
        .wait(&format!("event with {text:?}"), SOON, |agent| Ok(agent.print(&["events"])?.contains(text).then_some(())))
}

fn ends_clean(mut agent: Agent) -> Result<()> {
    agent.interrupt(Duration::from_secs(60))?;
    let left = agent.place().leftovers();
    ensure!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), agent.log());
    Ok(())
}

/// Takes a mount away, whatever becomes of the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

const CLAIM: &str = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], storageClassName: CLASS, resources: {requests: {storage: 1Mi}}}\n";

fn volume(path: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: disk}}\nspec: {{accessModes: [ReadWriteOnce], \
         storageClassName: manual, capacity: {{storage: 1Gi}}, local: {{path: {}}}, nodeAffinity: {{required: \
         {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: \
         [test-node]}}]}}]}}}}}}\n",
        path.display()
    )
}

#[test]
fn a_pod_waits_for_its_claim_and_what_it_wrote_is_there_for_the_next() -> Result<()> {
    let disk = tempfile::tempdir()?;
    let claimed = "[{name: d, persistentVolumeClaim: {claimName: data}}]";
    let mounts = "[{name: d, mountPath: /data}]";
    let mut agent = Agent::run(&[
        ("claim.yaml", &CLAIM.replace("CLASS", "manual")),
        ("other.yaml", &volume(Path::new("/nonexistent")).replace("disk", "small").replace("1Gi", "1Ki")),
        ("a.yaml", &pod("writer", "echo kept >/data/file; sleep 1000000", mounts, claimed)),
    ])?;
    told(&mut agent, "error processing PVC default/data: PVC is not bound: no PersistentVolume fits: small has 1Ki")?;
    agent.write("volume.yaml", &volume(disk.path()))?;
    agent.wait_for_pod("writer", SOON, runs)?;
    agent.wait("the file", SOON, |_| Ok(disk.path().join("file").exists().then_some(())))?;
    // The next agent finds it mounted, and leaves it so.
    agent.kill()?;
    agent.start()?;
    agent.wait_for_pod("writer", SOON, runs)?;
    agent.remove("a.yaml")?;
    gone(&mut agent, "writer")?;
    agent.write("b.yaml", &pod("reader", "cat /data/file", mounts, claimed))?;
    ensure!(printed(&mut agent, "reader")? == "kept\n");
    ends_clean(agent)?;
    ensure!(fs::read_to_string(disk.path().join("file"))? == "kept\n");
    Ok(())
}

#[test]
fn a_class_of_nobody_gets_a_directory_and_an_ephemeral_claim_ends_with_its_pod() -> Result<()> {
    let template = "{spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}";
    let volumes = format!(
        "[{{name: d, persistentVolumeClaim: {{claimName: data}}}}, {{name: e, ephemeral: {{volumeClaimTemplate: {template}}}}}]"
    );
    let mounts = "[{name: d, mountPath: /data}, {name: e, mountPath: /scratch}]";
    let script = "echo 1 >/data/file; echo 2 >/scratch/file; sleep 1000000";
    let mut agent = Agent::run(&[
        ("claim.yaml", &CLAIM.replace("CLASS", "standard")),
        ("a.yaml", &pod("both", script, mounts, &volumes)),
    ])?;
    let claims = agent.place().path("root/claims");
    agent.wait_for_pod("both", SOON, runs)?;
    let scratch = agent.wait("the ephemeral volume", SOON, |_| {
        let found = fs::read_dir(&claims)?.flatten().map(|entry| entry.path());
        let mut found = found.filter(|path| path.display().to_string().contains("default_both-e_"));
        Ok(found.find(|path| path.join("file").exists()))
    })?;
    agent.remove("a.yaml")?;
    gone(&mut agent, "both")?;
    ensure!(!scratch.exists(), "it ends with its pod");
    ensure!(fs::read_to_string(claims.join("default_data/file"))? == "1\n", "the claim's own stays");
    ends_clean(agent)
}

/// A program that is called like the real one, says what it was called with, and mounts something else.
fn fake_nfs(place: &Place, script: &str) -> Result<()> {
    let programs = place.path("bin");
    fs::create_dir(&programs)?;
    fs::write(programs.join("mount.nfs"), format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(programs.join("mount.nfs"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn a_share_is_mounted_by_mount_nfs_and_its_failure_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let share = dir.path().join("share");
    fs::create_dir(&share)?;
    fs::write(share.join("file"), "shared\n")?;
    let script = format!(
        "echo \"$@\" >>{}\ncase $1 in good.example:*) exec mount --bind {} \"$2\";; esac\necho mount.nfs: no such \
         server >&2\nexit 32",
        dir.path().join("calls").display(),
        share.display()
    );
    let mounts = "[{name: n, mountPath: /n}]";
    let of = |server: &str| format!("[{{name: n, nfs: {{server: {server}, path: /export, readOnly: true}}}}]");
    let mut agent = Agent::prepared(&[
        (
            "a.yaml",
            &pod("good", "cat /n/file; touch /n/x || echo read-only; sleep 1000000", mounts, &of("good.example")),
        ),
        ("b.yaml", &pod("bad", STAYS, mounts, &of("'fd00::1'"))),
    ])?;
    fake_nfs(agent.place(), &script)?;
    agent.start()?;
    agent.wait_for_pod("good", SOON, runs)?;
    agent
        .wait("what it prints", SOON, |agent| Ok(agent.print(&["logs", "good"])?.contains("shared\n").then_some(())))?;
    told(&mut agent, "MountVolume.SetUp failed for volume \"n\" : mount failed: exit status: 32;")?;
    told(&mut agent, "Output: mount.nfs: no such server")?;
    let calls = fs::read_to_string(dir.path().join("calls"))?;
    ensure!(calls.contains("good.example:/export ") && calls.contains("kubernetes.io~nfs/n -o ro\n"), "{calls}");
    ensure!(calls.contains("[fd00::1]:/export "), "{calls}");
    ends_clean(agent)?;
    ensure!(share.join("file").exists(), "what was shared is not ours to remove");
    Ok(())
}

/// A file system whose server never answers: every look at it hangs until this is dropped.
struct Silent {
    _mounted: Mounted,
    _server: fs::File,
}

impl Silent {
    fn at(dir: &Path) -> Result<Self> {
        use std::os::fd::AsRawFd;
        let server = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").context("opening /dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("silent"), dir, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self { _mounted: Mounted(dir.to_owned()), _server: server })
    }
}

#[test]
fn a_host_path_that_hangs_holds_up_its_own_pod_only() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let silent = Silent::at(dir.path())?;
    let hanging = format!("[{{name: h, hostPath: {{path: {}/x, type: Directory}}}}]", dir.path().display());
    let mounts = "[{name: h, mountPath: /h}]";
    let mut agent = Agent::run(&[("a.yaml", &pod("hung", STAYS, mounts, &hanging))])?;
    agent.wait_for_pod("hung", SOON, |pod| pod["status"]["phase"] == "Pending")?;
    for name in ["one", "two", "three"] {
        agent.write(&format!("{name}.yaml"), &pod(name, STAYS, mounts, "[{name: h, emptyDir: {}}]"))?;
        agent.wait_for_pod(name, SOON, runs)?;
    }
    agent.remove("one.yaml")?;
    gone(&mut agent, "one")?;
    ensure!(agent.pod("hung")?.is_some_and(|pod| !runs(&pod)));
    // Killed while a thread of it hangs there, the next one goes on all the same.
    drop(silent);
    told(&mut agent, "MountVolume.SetUp failed for volume \"h\"")?;
    ends_clean(agent)
}

#[test]
fn an_image_is_a_read_only_volume_that_cannot_be_run() -> Result<()> {
    let script = "ls /img/busybox && touch /img/x 2>&1; /img/busybox true 2>&1; cat /all/etc/passwd | head -1; true";
    let mounts = "[{name: i, mountPath: /img, subPath: bin}, {name: i, mountPath: /all}]";
    let mut agent = Agent::run(&[
        ("a.yaml", &pod("reads", script, mounts, "[{name: i, image: {reference: busybox}}]")),
        (
            "b.yaml",
            &pod(
                "none",
                STAYS,
                "[{name: i, mountPath: /i}]",
                "[{name: i, image: {reference: nowhere.invalid/none, pullPolicy: Never}}]",
            ),
        ),
    ])?;
    let text = printed(&mut agent, "reads")?;
    ensure!(text.contains("/img/busybox\n"), "{text}");
    ensure!(text.contains("Read-only file system") && text.contains("Permission denied"), "{text}");
    let waiting = agent.wait_for_pod("none", SOON, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    })?;
    ensure!(!runs(&waiting));
    // A restart of the agent, and with it of the runtime, leaves the mount of a container that runs.
    agent.write(
        "c.yaml",
        &pod(
            "stays",
            "while true; do ls /all/bin/sh || exit 1; sleep 0.2; done",
            "[{name: i, mountPath: /all}]",
            "[{name: i, image: {reference: busybox}}]",
        ),
    )?;
    agent.wait_for_pod("stays", SOON, runs)?;
    agent.kill()?;
    agent.start()?;
    let before = agent.print(&["logs", "stays"])?.len();
    agent.wait("more lines", SOON, |agent| Ok((agent.print(&["logs", "stays"])?.len() > before + 20).then_some(())))?;
    ensure!(runs(&agent.wait_for_pod("stays", SOON, |_| true)?));
    ends_clean(agent)
}

#[test]
fn a_pod_that_writes_more_than_it_may_is_evicted() -> Result<()> {
    let fill = |path: &str| format!("dd if=/dev/zero of={path} bs=1M count=4 2>/dev/null; sleep 1000000");
    let mounts = "[{name: d, mountPath: /d}]";
    let limited = |name: &str, script: &str, volume: &str, limit: &str| {
        let text = pod(name, script, mounts, &format!("[{{name: d, emptyDir: {volume}}}]"));
        format!("{text}    resources: {{limits: {{{limit}}}}}\n")
    };
    // The pod as a whole stays below what its containers may use together.
    let other = "  - {name: other, image: busybox, command: [sleep, '1000000'], resources: {limits: {ephemeral-storage: 1Gi}}}\n";
    let mut agent = Agent::run(&[
        ("a.yaml", &limited("volume", &fill("/d/x"), "{sizeLimit: 1Mi}", "")),
        ("b.yaml", &limited("layer", &fill("/x"), "{}", "ephemeral-storage: 2Mi")),
        ("c.yaml", &limited("good", &fill("/d/x"), "{sizeLimit: 10Mi}", "ephemeral-storage: 20Mi")),
        ("d.yaml", &format!("{}{other}", limited("one", &fill("/x"), "{}", "ephemeral-storage: 2Mi"))),
    ])?;
    let evicted = |pod: &Value| pod["status"]["phase"] == "Failed";
    let pod = agent.wait_for_pod("volume", SOON, evicted)?;
    ensure!(pod["status"]["reason"] == "Evicted", "{pod}");
    ensure!(pod["status"]["message"] == "Usage of EmptyDir volume \"d\" exceeds the limit \"1Mi\". ", "{pod}");
    let pod = agent.wait_for_pod("layer", SOON, evicted)?;
    let message = pod["status"]["message"].as_str().unwrap_or_default();
    ensure!(message == "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ", "{message}");
    let pod = agent.wait_for_pod("one", SOON, evicted)?;
    let message = pod["status"]["message"].as_str().unwrap_or_default();
    ensure!(message == "Container main exceeded its local ephemeral storage limit \"2Mi\". ", "{message}");
    told(&mut agent, "Evicted")?;
    ensure!(runs(&agent.pod("good")?.context("it stays")?));
    ends_clean(agent)
}

#[test]
fn mounts_propagate_between_containers_and_read_only_reaches_as_deep_as_asked() -> Result<()> {
    let host = tempfile::tempdir()?;
    let nested = host.path().join("nested");
    fs::create_dir(&nested)?;
    mount(Some("tmpfs"), &nested, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let _mounted = Mounted(nested);
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 5\n  volumes: [{{name: \
         v, emptyDir: {{}}}}, {{name: h, hostPath: {{path: {}}}}}]\n  containers:\n  - name: mounts\n    image: busybox\n    \
         securityContext: {{privileged: true}}\n    volumeMounts: [{{name: v, mountPath: /v, mountPropagation: \
         Bidirectional}}]\n    command: [sh, -c, \"trap 'umount /v/x; exit 0' TERM; mkdir /v/x; mount -t tmpfs x /v/x; echo seen \
         >/v/x/file; while true; do sleep 0.1; done\"]\n  - name: sees\n    image: busybox\n    volumeMounts: [{{name: v, \
         mountPath: /v, mountPropagation: HostToContainer}}]\n    command: [sh, -c, 'until cat /v/x/file; do sleep 0.1; \
         done; sleep 1000000']\n  - name: reads\n    image: busybox\n    volumeMounts:\n    - {{name: h, mountPath: /deep, \
         readOnly: true, recursiveReadOnly: Enabled}}\n    - {{name: h, mountPath: /flat, readOnly: true}}\n    command: [sh, -c, \
         'touch /deep/nested/x 2>&1; touch /flat/x 2>&1; touch /flat/nested/y && echo written; sleep 1000000']\n",
        host.path().display()
    );
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    agent.wait("the mount in the other container", SOON, |agent| {
        let said = agent.cli(&["logs", "p", "-c", "sees"])?;
        Ok(String::from_utf8_lossy(&said.stdout).contains("seen").then_some(()))
    })?;
    let said = agent.wait("what the reader says", SOON, |agent| {
        let said = String::from_utf8_lossy(&agent.cli(&["logs", "p", "-c", "reads"])?.stdout).into_owned();
        Ok(said.contains("written").then_some(said))
    })?;
    ensure!(said.matches("Read-only file system").count() == 2, "{said}");
    let pod = agent.pod("p")?.context("it runs")?;
    let statuses = pod["status"]["containerStatuses"].as_array().context("statuses")?;
    let reads = statuses.iter().find(|status| status["name"] == "reads").context("reads")?;
    ensure!(reads["volumeMounts"][0]["recursiveReadOnly"] == "Enabled", "{reads}");
    ensure!(reads["volumeMounts"][1]["recursiveReadOnly"] == "Disabled", "{reads}");
    ends_clean(agent)
}

#[test]
fn a_mount_that_somebody_left_in_a_volume_is_told_waited_for_and_never_crossed() -> Result<()> {
    let kept = tempfile::tempdir()?;
    fs::write(kept.path().join("file"), "kept")?;
    let mut agent =
        Agent::run(&[("a.yaml", &pod("held", STAYS, "[{name: d, mountPath: /d}]", "[{name: d, emptyDir: {}}]"))])?;
    let seen = agent.wait_for_pod("held", SOON, runs)?;
    let uid = seen["metadata"]["uid"].as_str().context("a uid")?;
    let inner = agent.place().path(&format!("root/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/d/inner"));
    fs::create_dir(&inner)?;
    mount(Some(kept.path()), &inner, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    let mounted = Mounted(inner);
    agent.remove("a.yaml")?;
    told(&mut agent, "Device or resource busy")?;
    agent.kill()?;
    agent.start()?;
    ensure!(agent.pod("held")?.is_some(), "it is not forgotten");
    ensure!(kept.path().join("file").exists());
    drop(mounted);
    gone(&mut agent, "held")?;
    ensure!(fs::read_to_string(kept.path().join("file"))? == "kept");
    ends_clean(agent)
}

const EVERYTHING: &str = "[{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}, {name: map, configMap: {name: settings}}, {name: secret, secret: {secretName: login}}, {name: api, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}, {name: all, projected: {sources: [{configMap: {name: settings}}, {secret: {name: login}}]}}, {name: claim, persistentVolumeClaim: {claimName: data}}, {name: own, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}}, {name: image, image: {reference: busybox}}]";
const MOUNTS: &str = "[{name: disk, mountPath: /disk}, {name: disk, mountPath: /sub, subPath: a/b}, {name: memory, mountPath: /memory}, {name: map, mountPath: /map}, {name: map, mountPath: /file, subPath: key}, {name: secret, mountPath: /secret}, {name: api, mountPath: /api}, {name: all, mountPath: /all}, {name: claim, mountPath: /claim}, {name: own, mountPath: /own}, {name: image, mountPath: /image}]";
const OBJECTS: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {key: VALUE}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: login}\nstringData: {pass: VALUE}\n";

#[test]
fn an_agent_killed_while_it_makes_or_removes_volumes_leaves_nothing() -> Result<()> {
    let fills = "for d in disk sub memory claim own; do echo x >/$d/x; done; sleep 1000000";
    let everything = pod("all", fills, MOUNTS, EVERYTHING);
    let mut agent = Agent::run(&[
        ("claim.yaml", &CLAIM.replace("CLASS", "standard")),
        ("objects.yaml", &OBJECTS.replace("VALUE", "one")),
    ])?;
    for millis in [2, 9, 17, 26, 40, 80] {
        agent.write("a.yaml", &everything)?;
        std::thread::sleep(Duration::from_millis(millis));
        agent.kill()?;
        agent.start()?;
        agent.wait_for_pod("all", SOON, runs)?;
        agent.remove("a.yaml")?;
        std::thread::sleep(Duration::from_millis(millis * 3));
        agent.kill()?;
        agent.start()?;
        gone(&mut agent, "all")?;
    }
    // A pod that was deleted while no agent ran.
    agent.write("a.yaml", &everything)?;
    agent.wait_for_pod("all", SOON, runs)?;
    agent.kill()?;
    agent.remove("a.yaml")?;
    agent.start()?;
    gone(&mut agent, "all")?;
    ends_clean(agent)
}

#[test]
fn directories_of_pods_that_nobody_knows_are_taken_away_mounts_and_all() -> Result<()> {
    let mut agent = Agent::run(&[])?;
    agent.kill()?;
    let orphan = agent.place().path("root/kubelet/pods/0123-orphan");
    let outside = tempfile::tempdir()?;
    fs::write(outside.path().join("kept"), "x")?;
    let volume = |plugin: &str| orphan.join("volumes").join(plugin).join("v");
    for plugin in ["empty-dir", "configmap", "secret", "local-volume", "nfs", "projected"] {
        fs::create_dir_all(volume(&format!("kubernetes.io~{plugin}")))?;
    }
    fs::write(volume("kubernetes.io~configmap").join("file"), "x")?;
    let target = orphan.join("volume-subpaths/v/main/0");
    fs::create_dir_all(&target)?;
    mount(Some("tmpfs"), &volume("kubernetes.io~secret"), Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    for bound in [volume("kubernetes.io~local-volume"), volume("kubernetes.io~nfs"), target] {
        mount(Some(outside.path()), &bound, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    }
    agent.start()?;
    agent.wait("end of the orphan", SOON, |_| Ok((!orphan.exists()).then_some(())))?;
    ensure!(outside.path().join("kept").exists(), "what was mounted is not ours");
    ends_clean(agent)
}

/// Waits until the newest line that the pod has printed holds `line`.
fn says(agent: &mut Agent, pod: &str, line: &str) -> Result<()> {
    agent.wait(&format!("line {line:?} of {pod}"), SOON, |agent| {
        let said = String::from_utf8_lossy(&agent.cli(&["logs", "--tail", "1", pod])?.stdout).into_owned();
        Ok(said.contains(line).then_some(()))
    })
}

#[test]
fn changed_objects_reach_running_pods_except_through_sub_paths() -> Result<()> {
    let script = "while true; do echo map $(cat /map/key) all $(cat /all/pass) file $(cat /file) name $(cat /$NAME/key); sleep 0.05; done";
    let mounts = "[{name: map, mountPath: /map}, {name: map, mountPath: /file, subPath: key}, {name: all, mountPath: /all}, {name: own, mountPath: /follows, subPathExpr: $(NAME)}, {name: own, mountPath: /own}]";
    let volumes = "[{name: map, configMap: {name: settings, defaultMode: 0400, items: [{key: key, path: key, mode: 0440}]}}, {name: all, projected: {sources: [{secret: {name: login}}, {configMap: {name: none, optional: true}}]}}, {name: own, emptyDir: {}}]";
    let text = pod("follows", script, mounts, volumes);
    let text = format!("{text}    env: [{{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n");
    let mut agent = Agent::run(&[("objects.yaml", &OBJECTS.replace("VALUE", "one")), ("a.yaml", &text)])?;
    says(&mut agent, "follows", "map one all one file one name")?;
    agent.write("objects.yaml", &OBJECTS.replace("VALUE", "two"))?;
    says(&mut agent, "follows", "map two all two file one name")?;
    let pod = agent.pod("follows")?.context("it runs")?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let own = agent.place().path(&format!("root/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/own/follows"));
    ensure!(own.is_dir(), "subPathExpr made its directory");
    ends_clean(agent)
}

#[test]
fn trust_anchors_are_waited_for_and_follow_their_bundles() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = |name: &str| -> Result<String> {
        let place = folder.path().join(name);
        fs::create_dir(&place)?;
        Ok(fs::read_to_string(Certificates::make(&place)?.ca)?)
    };
    let (first, second) = (authority("first")?, authority("second")?);
    let bundle = |name: &str, text: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1beta1\nkind: ClusterTrustBundle\nmetadata: {{name: 'example.com:ca:{name}'}}\n\
             spec: {{signerName: example.com/ca, trustBundle: {text:?}}}\n"
        )
    };
    let script = "while true; do echo $(grep -c BEGIN /trust/ca.pem) anchors; sleep 0.05; done";
    let volumes = "[{name: trust, projected: {sources: [{clusterTrustBundle: {signerName: example.com/ca, labelSelector: {}, path: ca.pem}}]}}]";
    let text = pod("trusts", script, "[{name: trust, mountPath: /trust}]", volumes);
    let mut agent = Agent::run(&[("a.yaml", &text)])?;
    told(&mut agent, "combination of signerName and labelSelector matched zero ClusterTrustBundles")?;
    agent.write("bundles.yaml", &bundle("a", &first))?;
    says(&mut agent, "trusts", "1 anchors")?;
    let both = bundle("b", &format!("{second}{first}"));
    agent.write("bundles.yaml", &format!("{}---\n{both}", bundle("a", &first)))?;
    says(&mut agent, "trusts", "2 anchors")?;
    ends_clean(agent)
}

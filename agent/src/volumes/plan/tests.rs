use std::fmt::Write;
use std::sync::Arc;

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn objects() -> Objects {
    let mut objects = Objects::default();
    let map = json!({"data": {"a": "1", "b": "22"}, "binaryData": {"c": "AAEC"}});
    objects.config_maps.insert(ObjectName::new("shop", "settings"), Arc::new(serde_json::from_value(map).unwrap()));
    let secret = json!({"data": {"user": "cm9vdA==", "pass": "aHVzaA=="}});
    objects.secrets.insert(ObjectName::new("shop", "login"), Arc::new(serde_json::from_value(secret).unwrap()));
    objects
}

/// Plans a pod with one container that mounts each of `volumes` at `/<name>`.
fn check(volumes: Value, want: Expect) {
    let mounts: Vec<_> = volumes
        .as_array()
        .unwrap()
        .iter()
        .map(|v| json!({"name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap())}))
        .collect();
    check_pod(json!({"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]}), want);
}

fn check_pod(spec: Value, want: Expect) {
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"a": "b"}}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let node = Allocatable { cpu_millis: 2_000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 1 << 40 };
    let mut text = String::new();
    match plan(&pod, &objects(), &node, &Issued::new()) {
        Err(error) => writeln!(text, "{}", error.for_people()).unwrap(),
        Ok(plan) => plan.iter().for_each(|planned| render(planned, &mut text)),
    }
    want.assert_eq(&text);
}

fn render(planned: &Planned, text: &mut String) {
    let group = planned.fs_group.map(|group| format!(" group {}", group.id)).unwrap_or_default();
    match &planned.what {
        What::EmptyDir(kind) => writeln!(text, "{}: emptyDir {kind:?}{group}", planned.name).unwrap(),
        What::HostPath { path, expected, .. } => {
            writeln!(text, "{}: {} {expected:?}", planned.name, path.display()).unwrap();
        }
        What::Attach(_) | What::Device(_) | What::Image(_) | What::Claim(_) | What::Left { .. } => {
            writeln!(text, "{}: {:?}", planned.name, planned.what).unwrap();
        }
        What::Files { plugin, tmpfs, payload, mount_points } => {
            writeln!(text, "{}: {plugin} {tmpfs:?}{group}", planned.name).unwrap();
            for (path, file) in payload {
                writeln!(text, "  {path} {file:?}").unwrap();
            }
            for point in mount_points {
                writeln!(text, "  {point}/").unwrap();
            }
        }
    }
}

#[test]
fn keys_become_files_and_items_choose_among_them() {
    check(
        json!([
            {"name": "all", "configMap": {"name": "settings", "defaultMode": 0o444}},
            {"name": "some", "configMap": {"name": "settings", "defaultMode": 0o444,
                "items": [{"key": "a", "path": "x//y/z"}, {"key": "c", "path": "c", "mode": 0o400}]}},
            {"name": "secret", "secret": {"secretName": "login"}},
        ]),
        expect![[r#"
            all: kubernetes.io~configmap None
              a 0444 1 bytes
              b 0444 2 bytes
              c 0444 3 bytes
            some: kubernetes.io~configmap None
              c 0400 3 bytes
              x/y/z 0444 1 bytes
            secret: kubernetes.io~secret Some(1073741824)
              pass 0644 4 bytes
              user 0644 4 bytes
        "#]],
    );
}

#[test]
fn what_is_missing_is_an_error_unless_optional() {
    check(
        json!([{"name": "v", "secret": {"secretName": "none"}}]),
        expect![[r#"
        MountVolume.SetUp failed for volume "v" : secret "none" not found
    "#]],
    );
    check(
        json!([{"name": "v", "configMap": {"name": "none"}}]),
        expect![[r#"
        MountVolume.SetUp failed for volume "v" : configmap "none" not found
    "#]],
    );
    check(
        json!([{"name": "v", "secret": {"secretName": "login", "items": [{"key": "k", "path": "k"}]}}]),
        expect![[r#"
            MountVolume.SetUp failed for volume "v" : references non-existent secret key: k
        "#]],
    );
    check(
        json!([{"name": "v", "configMap": {"name": "settings", "items": [{"key": "k", "path": "k"}]}}]),
        expect![[r#"
            MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: k
        "#]],
    );
    check(
        json!([
            {"name": "a", "secret": {"secretName": "none", "optional": true}},
            {"name": "b", "configMap": {"name": "settings", "optional": true, "items": [{"key": "k", "path": "k"}, {"key": "a", "path": "a"}]}},
        ]),
        expect![[r#"
            a: kubernetes.io~secret Some(1073741824)
            b: kubernetes.io~configmap None
              a 0644 1 bytes
        "#]],
    );
}

#[test]
fn projected_sources_are_joined_and_all_failures_are_named() {
    check(
        json!([{"name": "all", "projected": {"defaultMode": 0o440, "sources": [
            {"secret": {"name": "login"}},
            {"configMap": {"name": "settings", "items": [{"key": "b", "path": "user"}]}},
            {"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]}},
        ]}}]),
        expect![[r#"
            all: kubernetes.io~projected Some(1073741824)
              cpu 0440 4 bytes
              labels 0440 5 bytes
              pass 0440 4 bytes
              user 0440 2 bytes
        "#]],
    );
    check(
        json!([{"name": "v", "projected": {"sources": [
            {"secret": {"name": "none"}},
            {"configMap": {"name": "settings", "items": [{"key": "k", "path": "k"}]}},
            {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "x", "resourceFieldRef": {"containerName": "z", "resource": "limits.cpu"}}]}},
        ]}}]),
        expect![[r#"
            MountVolume.SetUp failed for volume "v" : secret "none" not found; configmap references non-existent config key: k; a serviceAccountToken needs an API server to issue it; downward API item "x": container "z" not found
        "#]],
    );
}

#[test]
fn memory_is_bounded_by_node_pod_and_size_limit() {
    let spec = |limit: Option<&str>, size: Option<&str>| {
        let mut spec = json!({"securityContext": {"fsGroup": 7}, "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "m", "mountPath": "/m"}]}]});
        if let Some(size) = size {
            spec["volumes"][0]["emptyDir"]["sizeLimit"] = json!(size);
        }
        if let Some(limit) = limit {
            spec["containers"][0]["resources"] = json!({"limits": {"memory": limit}});
        }
        spec
    };
    check_pod(spec(None, None), expect!["m: emptyDir Memory(1073741824) group 7\n"]);
    check_pod(spec(Some("64Mi"), None), expect!["m: emptyDir Memory(67108864) group 7\n"]);
    check_pod(spec(Some("64Mi"), Some("1Mi")), expect!["m: emptyDir Memory(1048576) group 7\n"]);
}

#[test]
fn only_mounted_volumes_count_and_mounts_inside_get_their_place() {
    check_pod(
        json!({"volumes": [{"name": "unused", "secret": {"secretName": "none"}}, {"name": "cfg", "configMap": {"name": "settings"}}, {"name": "tmp", "emptyDir": {}}],
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "tmp", "mountPath": "/t"}]}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "cfg", "mountPath": "/etc/app/"}, {"name": "tmp", "mountPath": "/etc/app/run/x"}]}]}),
        expect![[r#"
            cfg: kubernetes.io~configmap None
              a 0644 1 bytes
              b 0644 2 bytes
              c 0644 3 bytes
              run/x/
            tmp: emptyDir Disk
        "#]],
    );
    check_pod(
        json!({"containers": [{"name": "c", "volumeMounts": [{"name": "none", "mountPath": "/t"}]}]}),
        expect![[r#"
            container c mounts volume "none", which the pod does not have
        "#]],
    );
    check_pod(json!({"containers": [{"name": "c"}]}), expect![""]);
    check_pod(
        json!({"volumes": [{"name": "tmp", "emptyDir": {}}], "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": [{"name": "tmp", "mountPath": "/t"}]}]}),
        expect![[r#"
            tmp: emptyDir Disk
        "#]],
    );
}

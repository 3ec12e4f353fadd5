use expect_test::{Expect, expect};

use super::*;

fn check(text: &str, want: Expect) {
    let content = read(Path::new("/m/a.yaml"), text.as_bytes(), "n1");
    let fine = content.manifests.iter().map(|m| format!("{} {} (document {})", m.object.kind(), m.name, m.document));
    let lines: Vec<_> = fine.chain(content.problems.iter().map(ToString::to_string)).collect();
    want.assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn every_document_stands_for_itself() {
    check(
        r#"# a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
---
apiVersion: example.com/v1
kind: Gadget
metadata: {name: web}
---
apiVersion: v1
kind: pod
metadata: {name: web}
---
apiVersion: v2
kind: Pod
---
metadata: {name: web}
---
- a
- list
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - name: main
    image: nginx
    imgae: nginx
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
spec:
  containers:
  - {name: main, image: "nginx:1"}
status: {phase: Running}
"#,
        expect![[r#"
            ConfigMap default/settings (document 1)
            Pod shop/web (document 8)
            /m/a.yaml: document 2, line 9: kind: "Gadget" is not supported on its own yet; supported are Pod, ConfigMap, Secret, Service, PersistentVolume, PersistentVolumeClaim, RuntimeClass, ClusterTrustBundle, EndpointSlice, Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob, ReplicationController, List and PodList
            /m/a.yaml: document 3, line 13: kind: "pod" is not known; did you mean Pod?
            /m/a.yaml: document 4, line 16: apiVersion: must be v1 for kind Pod
            /m/a.yaml: document 5, line 19: kind: is missing; supported are Pod, ConfigMap, Secret, Service, PersistentVolume, PersistentVolumeClaim, RuntimeClass, ClusterTrustBundle, EndpointSlice, Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob, ReplicationController, List and PodList
            /m/a.yaml: document 6, line 21: is no Kubernetes object; one begins with apiVersion: v1 and kind: Pod
            /m/a.yaml: document 7, line 31: spec.containers[0].imgae: unknown field; did you mean image?
        "#]],
    );
}

#[test]
fn lists_name_their_items() {
    check(
        r#"apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec:
    ports:
    - port: 80
- apiVersion: v1
  kind: Service
  metadata: {name: web-2}
  spec:
    ports:
    - port: 99999
- kind: Node
"#,
        expect![[r#"
            Service default/web (document 1)
            /m/a.yaml: document 1, line 15: items[1].spec.ports[0].port: 99999 must be between 1 and 65535
            /m/a.yaml: document 1, line 16: items[2].kind: "Node" is not supported on its own yet; supported are Pod, ConfigMap, Secret, Service, PersistentVolume, PersistentVolumeClaim, RuntimeClass, ClusterTrustBundle, EndpointSlice, Deployment, ReplicaSet, StatefulSet, DaemonSet, Job, CronJob, ReplicationController, List and PodList
        "#]],
    );
}

#[test]
fn what_is_not_text_is_said_to_be_so() {
    let content = read(Path::new("/m/a.yaml"), &[0xff, 0xfe, 0], "n1");
    assert_eq!(content.problems[0].to_string(), "/m/a.yaml: is not text: manifests are YAML or JSON in UTF-8");
}

#[test]
fn secrets_are_joined_folded_and_never_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  a: |\n    aHVz\n    aA==\n  b: 1234\nstringData: {c: hush}\n";
    let content = read(Path::new("/m/a.yaml"), text.as_bytes(), "n1");
    assert_eq!(content.problems, []);
    let Object::Secret(secret) = &content.manifests[0].object else { panic!("{:?}", content.manifests[0].name) };
    let data = secret.data.as_ref().unwrap();
    assert_eq!(data["a"].0, b"hush");
    assert_eq!(data["b"].0, [0xd7, 0x6d, 0xf8]);
    assert_eq!(data["c"].0, b"hush");
    check(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: '%%hush%%'}\nstringData: {pin: 4711}\n",
        expect![[r#"
            /m/a.yaml: document 1, line 4: data.a: is not base64; plain text goes into stringData
        "#]],
    );
}

#[test]
fn a_pod_keeps_its_uid_as_long_as_it_means_the_same() {
    let uid = |text: &str| match &read(Path::new("/m/a.yaml"), text.as_bytes(), "n1").manifests[0].object {
        Object::Pod(uid, pod) => {
            assert_eq!(pod.metadata.uid.as_deref(), Some(uid.as_str()));
            assert_eq!(pod.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.hash"], uid.as_str());
            uid.clone()
        }
        other => panic!("{}", other.kind()),
    };
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: 'x:1'}]}\n";
    let reordered = "# words\nspec:\n  containers:\n  - image: x:1\n    name: c\nkind: Pod\napiVersion: v1\nmetadata: {name: a, uid: other}\nstatus: {}\n";
    assert_eq!(uid(text), uid(reordered));
    assert_eq!(uid(text), uid(&text.replace("x:1", "x:2")), "an image is changed in place");
    assert_ne!(uid(text), uid(&text.replace("image:", "workingDir: /w, image:")));
}

#[test]
fn every_example_is_fine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut read_some = false;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "yaml" || end == "json") {
            let content = read(&path, &std::fs::read(&path).unwrap(), "n1");
            assert_eq!(content.problems, [], "{}", path.display());
            assert!(!content.manifests.is_empty(), "{}", path.display());
            read_some = true;
        }
    }
    assert!(read_some);
}

#[test]
fn storage_classes_and_slices_are_read_with_their_defaults() {
    check(
        r#"apiVersion: v1
kind: PersistentVolume
metadata: {name: disk, namespace: ignored}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /srv/disk}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-2}
spec: {accessModes: [ReadWriteMost], csi: {driver: a, volumeHandle: b}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-2}
spec: {}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: fast}
handler: crun
---
apiVersion: v1
kind: RuntimeClass
metadata: {name: slow}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside-2}
addressType: IPv4
endpoints: [{addresses: ["::1"]}]
ports: [{port: 80000}]
"#,
        expect![[r#"
            PersistentVolume /disk (document 1)
            PersistentVolumeClaim default/data (document 3)
            RuntimeClass /fast (document 5)
            EndpointSlice default/outside (document 7)
            /m/a.yaml: document 2, line 12: spec.capacity.storage: is missing
            /m/a.yaml: document 2, line 12: spec.accessModes[0]: "ReadWriteMost" must be ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod
            /m/a.yaml: document 2, line 12: spec: has no source that is supported on its own; hostPath, local and nfs are
            /m/a.yaml: document 4, line 24: spec.accessModes: is missing; it lists ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod
            /m/a.yaml: document 4, line 24: spec.resources.requests.storage: is missing
            /m/a.yaml: document 6, line 31: apiVersion: must be node.k8s.io/v1 for kind RuntimeClass
            /m/a.yaml: document 8, line 46: endpoints[0].addresses[0]: "::1" is no IPv4 address
            /m/a.yaml: document 8, line 47: ports[0].port: must be between 1 and 65535
        "#]],
    );
}

#[test]
fn kinds_that_only_a_control_plane_acts_on_are_noted_once_per_file() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\nkind: Role\n---\nkind: Role\n---\n\
                apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\n";
    let content = read(Path::new("/m/a.yaml"), text.as_bytes(), "n1");
    assert_eq!((content.manifests.len(), content.problems.len()), (0, 0));
    let notes: Vec<_> = content.notes.iter().map(|note| (note.message.as_str(), note.warning)).collect();
    assert_eq!(
        notes,
        [
            ("/m/a.yaml: NetworkPolicy is NOT ENFORCED: pods reach each other freely", true),
            ("/m/a.yaml: Namespace and Role have no effect on a node of its own", false)
        ]
    );
}

fn statics(text: &str) -> Content {
    read_from(Path::new("/etc/pods/a"), text.as_bytes(), "n1", Origin::StaticFile)
}

#[test]
fn static_pods_are_named_after_their_node_and_refer_to_nothing() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: 'x:1'}]}\n";
    let content = statics(text);
    assert_eq!(content.problems, []);
    assert_eq!(content.manifests[0].name, ObjectName::new("default", "a-n1"));
    let list = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: b}\n  spec: {containers: [{name: c, image: 'x:1'}]}\n";
    assert_eq!(statics(list).manifests[0].name, ObjectName::new("default", "b-n1"));
    let refused = text.replace("image: 'x:1'", "image: 'x:1', envFrom: [{secretRef: {name: s}}]");
    assert_eq!(
        statics(&refused).problems[0].to_string(),
        "/etc/pods/a: document 1, line 4: spec.containers[0].envFrom[0].secretRef: static pods may not reference secrets"
    );
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    assert!(statics(map).problems[0].to_string().contains("ConfigMap is no static pod"));
}

#[test]
fn workloads_are_checked_like_the_api_server_does() {
    check(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: -1
  selector: {matchLabels: {app: web}}
  strategy: {type: Blue, rollingUpdate: {maxSurge: many}}
  template:
    metadata: {labels: {app: other}}
    spec:
      restartPolicy: Never
      containers: [{name: c, image: 'NOT AN IMAGE'}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  selector: {}
  serviceName: db
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: c, image: i, volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  completionMode: Indexed
  parallelism: 2
  podFailurePolicy: {rules: []}
  template: {spec: {containers: [{name: c, image: i}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "61 * * * *"
  timeZone: Mars/Olympus
  jobTemplate: {spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: c, image: i}]}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: extensions/v1beta1
kind: Deployment
metadata: {name: old}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: typo}
spec: {replica: 1}
"#,
        expect![[r#"
            DaemonSet default/agent (document 5)
            /m/a.yaml: document 1, line 9: spec.template.metadata.labels: are not what spec.selector selects
            /m/a.yaml: document 1, line 5: spec.replicas: -1 must be between 0 and 1000
            /m/a.yaml: document 1, line 7: spec.strategy.type: "Blue" must be RollingUpdate or Recreate
            /m/a.yaml: document 1, line 7: spec.strategy.rollingUpdate.maxSurge: "many" must be a number or a percentage such as 25%
            /m/a.yaml: document 1, line 11: spec.template.spec.restartPolicy: must be Always or left out
            /m/a.yaml: document 1, line 12: spec.template.spec.containers[0].image: "NOT AN IMAGE": "NOT AN IMAGE" is not an image name such as nginx or registry.example/team/app (lower-case only)
            /m/a.yaml: document 2, line 18: spec.selector: is missing; it holds the labels of spec.template
            /m/a.yaml: document 2, line 23: spec.volumeClaimTemplates[0].spec.resources.requests.storage: is missing
            /m/a.yaml: document 3, line 31: spec.podFailurePolicy: not supported on its own yet
            /m/a.yaml: document 3, line 29: spec.completions: is missing; completionMode Indexed needs it
            /m/a.yaml: document 3, line 32: spec.template.spec.restartPolicy: must be OnFailure or Never
            /m/a.yaml: document 4, line 39: spec.timeZone: "Mars/Olympus" is not known on this machine (/usr/share/zoneinfo, of the package tzdata)
            /m/a.yaml: document 4, line 38: spec.schedule: "61 * * * *": minute: "61" is not between 0 and 59
            /m/a.yaml: document 6, line 51: apiVersion: must be apps/v1 for kind Deployment
            /m/a.yaml: document 7, line 58: spec.replica: unknown field; did you mean replicas?
        "#]],
    );
}

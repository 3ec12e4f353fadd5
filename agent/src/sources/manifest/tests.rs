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
apiVersion: apps/v1
kind: Deployment
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
            /m/a.yaml: document 2, line 9: kind: "Deployment" is not supported on its own yet; supported are Pod, ConfigMap, Secret, Service and List
            /m/a.yaml: document 3, line 13: kind: "pod" is not known; did you mean Pod?
            /m/a.yaml: document 4, line 16: apiVersion: must be v1 for kind Pod
            /m/a.yaml: document 5, line 19: kind: is missing; supported are Pod, ConfigMap, Secret, Service and List
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
            /m/a.yaml: document 1, line 16: items[2].kind: "Node" is not supported on its own yet; supported are Pod, ConfigMap, Secret, Service and List
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
    assert_ne!(uid(text), uid(&text.replace("x:1", "x:2")));
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

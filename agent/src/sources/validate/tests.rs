use std::path::Path;

use expect_test::{Expect, expect};

use crate::sources::manifest::read;

/// The problems of a pod with this spec, one per line, without the file's name.
fn check(spec: &str, want: Expect) {
    let indented: String = spec.trim_start_matches('\n').lines().map(|line| format!("  {line}\n")).collect();
    check_text(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n{indented}"), want);
}

fn check_text(text: &str, want: Expect) {
    let content = read(Path::new("f"), text.as_bytes(), "n1");
    let lines: Vec<_> = content.problems.iter().map(|p| p.to_string().replacen("f: document 1, ", "", 1)).collect();
    let text = if lines.is_empty() { "fine".to_owned() } else { lines.join("\n") + "\n" };
    want.assert_eq(&text);
}

#[test]
fn a_plain_pod_is_fine() {
    check("containers: [{name: c, image: busybox}]", expect!["fine"]);
}

#[test]
fn containers_need_names_and_images() {
    check(
        "
containers:
- {name: a, image: x}
- {name: a, image: Nginx}
- {name: B_c, image: ''}
- {image: 'a b'}
initContainers:
- {name: a, image: x, livenessProbe: {exec: {command: [a]}}}
",
        expect![[r#"
            line 11: spec.initContainers[0].livenessProbe: an init container has none, unless its restartPolicy is Always
            line 6: spec.containers[0].name: "a" is taken by spec.initContainers[0]; names must differ
            line 7: spec.containers[1].name: "a" is taken by spec.containers[0]; names must differ
            line 7: spec.containers[1].image: "Nginx": "Nginx" is not an image name such as nginx or registry.example/team/app (lower-case only)
            line 8: spec.containers[2].name: "B_c" must be 1 to 63 lower-case letters, digits or '-', and begin and end with a letter or digit
            line 8: spec.containers[2].image: is missing
            line 9: spec.containers[3].name: is missing
            line 9: spec.containers[3].image: "a b": "a b" is not an image name such as nginx or registry.example/team/app
        "#]],
    );
    check(
        "containers: []",
        expect![[r#"
        line 5: spec.containers: is empty; a pod needs at least one
    "#]],
    );
    check_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: Web_1, labels: {a: 'b c', -x: y}}\n",
        expect![[r#"
        line 3: metadata.name: "Web_1" must be lower-case letters, digits, '-' or '.', with a letter or digit at each end, up to 253
        line 3: metadata.labels[-x]: the key must be a word of up to 63 letters, digits, '-', '_' or '.', or example.com/word
        line 3: metadata.labels[a]: "b c" must be up to 63 letters, digits, '-', '_' or '.', with a letter or digit at each end
        line 1: spec: is missing; it needs at least containers
    "#]],
    );
    check_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-}\nspec: {containers: [{name: c, image: a}]}\n",
        expect![[r#"
            line 3: metadata.name: is missing; generateName needs an API server, give a name
        "#]],
    );
}

#[test]
fn volumes_have_to_be_there_and_to_be_ours() {
    check(
        "
containers:
- name: c
  image: a
  volumeMounts:
  - {name: dta, mountPath: /a}
  - {name: data, mountPath: /a/, subPath: ../x}
  - {name: data, mountPath: 'b:c', subPathExpr: /abs}
  - {name: data, mountPath: /d, mountPropagation: Bidirectional}
volumes:
- {name: data}
- {name: data, emptyDir: {medium: Disk, sizeLimit: 1x}}
- {name: nfs, nfs: {server: '', path: a}}
- {name: claim, persistentVolumeClaim: {claimName: ''}}
- {name: two, emptyDir: {}, hostPath: {path: /a}}
- {name: host, hostPath: {path: /a/../b, type: Folder}}
- {name: rel, hostPath: {path: a}}
- {name: sec, secret: {defaultMode: 0x1000, items: [{key: a, path: ../b}]}}
- {name: proj, projected: {sources: [{serviceAccountToken: {path: t}}, {}, {clusterTrustBundle: {path: /a}}, {clusterTrustBundle: {name: a, labelSelector: {}, path: b}}, {podCertificate: {signerName: a.b/c, keyType: ED25519}}]}}
- {name: down, downwardAPI: {items: [{path: a, fieldRef: {fieldPath: status.podIP}}, {path: b}]}}
",
        expect![[r#"
            line 9: spec.containers[0].volumeMounts[0].name: the pod has no volume "dta"; it has data, nfs, claim, two, host, rel, sec, proj and down
            line 10: spec.containers[0].volumeMounts[1].subPath: "../x" must be a relative path without ..
            line 10: spec.containers[0].volumeMounts[1].mountPath: "/a/" is used by another volumeMount of this container
            line 11: spec.containers[0].volumeMounts[2].mountPath: must not contain ':'
            line 11: spec.containers[0].volumeMounts[2].subPathExpr: "/abs" must be a relative path without ..
            line 12: spec.containers[0].volumeMounts[3].mountPropagation: Bidirectional is for privileged containers only
            line 15: spec.volumes[1].name: "data" is taken by another volume
            line 15: spec.volumes[1].emptyDir.medium: "Disk" must be "", Memory, HugePages or HugePages-<size>
            line 15: spec.volumes[1].emptyDir.sizeLimit: "1x" is not a quantity; a number with an optional unit is, such as 250m, 0.5, 64Mi or 1G
            line 16: spec.volumes[2].nfs.server: is missing
            line 16: spec.volumes[2].nfs.path: "a" must be an absolute path without ..
            line 17: spec.volumes[3].persistentVolumeClaim.claimName: is missing
            line 18: spec.volumes[4]: has emptyDir and hostPath; only one of them may be given
            line 19: spec.volumes[5].hostPath.path: "/a/../b" must not contain ..; write the path it means
            line 19: spec.volumes[5].hostPath.type: "Folder" must be DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice or left out
            line 20: spec.volumes[6].hostPath.path: "a" must be an absolute path
            line 21: spec.volumes[7].secret.secretName: is missing
            line 21: spec.volumes[7].secret.defaultMode: must be between 0 and 0777 (octal) or 511 (decimal)
            line 21: spec.volumes[7].secret.items[0].path: "../b" must be a relative path that does not begin with or contain ..
            line 22: spec.volumes[8].projected.sources[0].serviceAccountToken: needs an API server to issue tokens: there is no ServiceAccount on a node of its own; secret, configMap, downwardAPI and clusterTrustBundle work on their own
            line 22: spec.volumes[8].projected.sources[1]: is empty; it needs secret, configMap, downwardAPI, serviceAccountToken, clusterTrustBundle or podCertificate
            line 22: spec.volumes[8].projected.sources[2].clusterTrustBundle.path: "/a" must be a relative path that does not begin with or contain ..
            line 22: spec.volumes[8].projected.sources[2].clusterTrustBundle: needs a name, or a signerName
            line 22: spec.volumes[8].projected.sources[3].clusterTrustBundle.labelSelector: is for signerName; a name is one bundle
            line 22: spec.volumes[8].projected.sources[4].podCertificate: is not supported yet: no PodCertificateRequests are made here
            line 23: spec.volumes[9].downwardAPI.items[0].fieldRef.fieldPath: "status.podIP" cannot be a file; metadata.name, .namespace, .uid, .labels and .annotations can
            line 23: spec.volumes[9].downwardAPI.items[1]: is empty; it needs fieldRef or resourceFieldRef
        "#]],
    );
}

#[test]
fn block_volumes_are_claims_with_a_path_of_their_own() {
    check(
        "
containers:
- name: c
  image: a
  volumeMounts: [{name: both, mountPath: /a}]
  volumeDevices:
  - {name: fine, devicePath: /dev/a}
  - {name: tmp, devicePath: /dev/b}
  - {name: both, devicePath: /dev/../c}
  - {name: fine, devicePath: /dev/a}
volumes:
- {name: fine, persistentVolumeClaim: {claimName: disk}}
- {name: both, persistentVolumeClaim: {claimName: disk}}
- {name: tmp, emptyDir: {}}
",
        expect![[r#"
            line 11: spec.containers[0].volumeDevices[1].name: the pod has no volume "tmp" that is a persistentVolumeClaim or ephemeral
            line 12: spec.containers[0].volumeDevices[2].name: "both" is in volumeMounts too
            line 12: spec.containers[0].volumeDevices[2].devicePath: "/dev/../c" must be an absolute path without ..
            line 13: spec.containers[0].volumeDevices[3].devicePath: "/dev/a" is used by another volumeDevice of this container
        "#]],
    );
}

#[test]
fn numbers_and_words_have_to_make_sense() {
    check(
        "
restartPolicy: Sometimes
dnsPolicy: None
terminationGracePeriodSeconds: -1
activeDeadlineSeconds: 0
hostUsers: false
hostPID: true
shareProcessNamespace: true
runtimeClassName: kata
hostAliases: [{ip: here, hostnames: ['a b']}]
securityContext: {runAsUser: 4294967296, fsGroup: -1}
containers:
- name: c
  image: a
  imagePullPolicy: Now
  ports: [{containerPort: 0}, {containerPort: 80, hostPort: 70000, protocol: ICMP, name: UPPER}]
  env: [{name: 'a=b'}, {name: A, valueFrom: {fieldRef: {fieldPath: spec.x}}}, {name: B, value: x, valueFrom: {}}]
  resources: {limits: {cpu: 1, memory: 1GB, gpu: 1}, requests: {cpu: 1500m, memory: -1}}
  securityContext: {privileged: true, allowPrivilegeEscalation: false}
",
        expect![[r#"
            line 18: spec.containers[0].imagePullPolicy: "Now" must be Always, IfNotPresent or Never
            line 19: spec.containers[0].ports[0].containerPort: 0 must be between 1 and 65535
            line 19: spec.containers[0].ports[1].hostPort: 70000 must be between 1 and 65535
            line 19: spec.containers[0].ports[1].protocol: "ICMP" must be TCP, UDP or SCTP
            line 19: spec.containers[0].ports[1].name: "UPPER" must be up to 15 lower-case letters, digits or '-', with at least one letter
            line 20: spec.containers[0].env[0].name: "a=b" must be printable characters without '='
            line 20: spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: "spec.x" cannot be a variable; metadata.name, .namespace, .uid, .labels['k'], .annotations['k'], spec.nodeName, spec.serviceAccountName, status.hostIP, .hostIPs, .podIP and .podIPs can
            line 20: spec.containers[0].env[2].valueFrom: value and valueFrom exclude each other
            line 20: spec.containers[0].env[2].valueFrom: is empty; it needs fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef or fileKeyRef
            line 21: spec.containers[0].resources.limits.gpu: not a resource this agent has on its own; cpu, memory, ephemeral-storage and hugepages-<size> are
            line 21: spec.containers[0].resources.limits.memory: "1GB" is not a quantity; a number with an optional unit is, such as 250m, 0.5, 64Mi or 1G
            line 21: spec.containers[0].resources.requests.gpu: not a resource this agent has on its own; cpu, memory, ephemeral-storage and hugepages-<size> are
            line 21: spec.containers[0].resources.requests.memory: must not be negative
            line 21: spec.containers[0].resources.requests.cpu: 1500m is more than the limit of 1; raise the limit or lower the request
            line 22: spec.containers[0].securityContext.allowPrivilegeEscalation: must not be false for a privileged container
            line 5: spec.restartPolicy: "Sometimes" must be Always, OnFailure or Never
            line 7: spec.terminationGracePeriodSeconds: must not be negative
            line 8: spec.activeDeadlineSeconds: must be between 1 and 2147483647
            line 11: spec.shareProcessNamespace: hostPID and shareProcessNamespace exclude each other
            line 10: spec.hostPID: must not be true where hostUsers is false
            line 5: spec.dnsConfig.nameservers: is empty; dnsPolicy None needs at least one
            line 13: spec.hostAliases[0].ip: "here" is not an IP address
            line 13: spec.hostAliases[0].hostnames[0]: "a b" must be lower-case letters, digits, '-' or '.', with a letter or digit at each end, up to 253
            line 14: spec.securityContext.runAsUser: must be between 0 and 2147483647
            line 14: spec.securityContext.fsGroup: must be between 0 and 2147483647
        "#]],
    );
}

#[test]
fn probes_and_hooks_need_one_handler_and_a_port_that_exists() {
    check(
        "
containers:
- name: c
  image: a
  ports: [{containerPort: 80, name: http}]
  livenessProbe: {httpGet: {port: htp, scheme: FTP}, successThreshold: 2, periodSeconds: -1}
  readinessProbe: {exec: {command: []}, tcpSocket: {port: 0}, terminationGracePeriodSeconds: 1}
  startupProbe: {grpc: {port: 0}}
  lifecycle: {postStart: {}, preStop: {tcpSocket: {port: 80}}}
",
        expect![[r#"
            line 9: spec.containers[0].livenessProbe.httpGet.port: "htp" is no port of this container; http is
            line 9: spec.containers[0].livenessProbe.httpGet.scheme: "FTP" must be HTTP or HTTPS
            line 9: spec.containers[0].livenessProbe.periodSeconds: must not be negative
            line 9: spec.containers[0].livenessProbe.successThreshold: must be 1 for liveness and startup probes
            line 10: spec.containers[0].readinessProbe: has exec and tcpSocket; only one of them may be given
            line 10: spec.containers[0].readinessProbe.exec.command: is empty; it needs the program to run
            line 10: spec.containers[0].readinessProbe.tcpSocket.port: 0 must be between 1 and 65535
            line 10: spec.containers[0].readinessProbe.terminationGracePeriodSeconds: is for liveness and startup probes only
            line 11: spec.containers[0].startupProbe.grpc.port: 0 must be between 1 and 65535
            line 12: spec.containers[0].lifecycle.postStart: does nothing; it needs exec, httpGet, sleep or tcpSocket
            line 12: spec.containers[0].lifecycle.preStop.tcpSocket: hooks cannot use tcpSocket; use exec, httpGet or sleep
        "#]],
    );
}

#[test]
fn services_and_config_maps_are_checked_too() {
    check_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: 1a}\nspec: {type: Magic, clusterIP: x, ports: [{port: 0}, {port: 80, targetPort: '8_0'}]}\n",
        expect![[r#"
            line 3: metadata.name: "1a" must be up to 63 lower-case letters, digits or '-', and begin with a letter
            line 4: spec.type: "Magic" must be ClusterIP, NodePort or LoadBalancer
            line 4: spec.clusterIP: "x" must be an IP address, None or left out
            line 4: spec.ports[0].port: 0 must be between 1 and 65535
            line 4: spec.ports[0].name: is missing; with several ports each needs one
            line 4: spec.ports[1].targetPort: must be a number between 1 and 65535 or the name of a container's port
            line 4: spec.ports[1].name: is missing; with several ports each needs one
        "#]],
    );
    check_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: B}\ndata: {'a/b': c, d: e}\nbinaryData: {d: aGk=}\n",
        expect![[r#"
            line 3: metadata.namespace: "B" must be 1 to 63 lower-case letters, digits or '-', and begin and end with a letter or digit
            line 4: data[a/b]: the key must be up to 253 letters, digits, '-', '_' or '.', and not begin with ..
            line 5: binaryData[d]: stands in data and in binaryData
        "#]],
    );
}

#[test]
fn a_trust_bundle_holds_certificates_and_is_named_after_its_signer() {
    let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
    let (good, key) = (authority.cert.pem(), authority.signing_key.serialize_pem());
    let check_bundle = |name: &str, signer: &str, text: &str, want: Expect| {
        let spec = format!("spec: {{{signer}trustBundle: {text:?}}}");
        let head = "apiVersion: certificates.k8s.io/v1beta1\nkind: ClusterTrustBundle";
        check_text(&format!("{head}\nmetadata: {{name: '{name}'}}\n{spec}\n"), want);
    };
    let signer = "signerName: example.com/ca, ";
    check_bundle("example.com:ca:v1", signer, &format!("a note\n{good}"), expect!["fine"]);
    check_bundle("plain", "", &good, expect!["fine"]);
    check_bundle(
        "plain",
        signer,
        "",
        expect![[r#"
        line 3: metadata.name: "plain" must be example.com:ca: and a name: it is example.com/ca's
        line 4: spec.trustBundle: holds no certificate
    "#]],
    );
    check_bundle(
        "a:b",
        "",
        &good.replace('\n', "\n*"),
        expect![[r#"
        line 3: metadata.name: "a:b" must be lower-case letters, digits, '-' or '.', with a letter or digit at each end, up to 253
        line 4: spec.trustBundle: is not PEM: a part is cut off, or is not base64
    "#]],
    );
    check_bundle(
        "plain",
        "signerName: ca, ",
        &format!("{good}{key}{good}"),
        expect![[r#"
        line 3: metadata.name: "plain" must be ca: and a name: it is ca's
        line 4: spec.signerName: "ca" must be a domain and a name, such as example.com/internal
        line 4: spec.trustBundle: holds something else than certificates after number 1
        line 4: spec.trustBundle: certificate 2 is there already
    "#]],
    );
    let broken = "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n";
    check_bundle(
        "plain",
        "",
        broken,
        expect![[r#"
        line 4: spec.trustBundle: certificate 1 cannot be read
    "#]],
    );
}

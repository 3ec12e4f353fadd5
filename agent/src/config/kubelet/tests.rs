use std::fs;
use std::net::SocketAddr;

use expect_test::{Expect, expect};

use super::*;
use crate::yaml::Kind;

/// As kubeadm 1.36 puts it into the cluster.
const KUBEADM: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    cacheTTL: 0s
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
  webhook:
    cacheAuthorizedTTL: 0s
    cacheUnauthorizedTTL: 0s
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
containerRuntimeEndpoint: \"\"
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: \"0\"
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/sub")).unwrap();
        for (name, text) in files {
            let text = if text.starts_with("apiVersion") { (*text).to_owned() } else { format!("{HEAD}{text}") };
            fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn load(&self, flags: &[Setting]) -> Result<Loaded, String> {
        let (file, folder) = (self.0.path().join("config.yaml"), self.0.path().join("d"));
        let file = file.exists().then_some(file);
        load(file.as_deref(), Some(&folder), flags).map_err(|error| self.plain(&crate::errors::chain(&error)))
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }

    fn refused(&self, said: &Expect) {
        said.assert_eq(&self.load(&[]).expect_err("it was taken"));
    }
}

fn loaded(files: &[(&str, &str)]) -> KubeletConfiguration {
    Files::new(files).load(&[]).unwrap().configuration
}

fn flag(flag: &'static str, field: &'static str, value: Kind) -> Setting {
    Setting { flag, field, value: Node { line: 0, kind: value }, adds: false }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn what_kubeadm_writes_is_taken_with_the_kubelets_defaults_and_without_a_word() {
    let loaded = Files::new(&[("config.yaml", KUBEADM)]).load(&[]).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.configuration;
    assert_eq!(config.server.authentication.client_ca.as_deref(), Some(Path::new("/etc/kubernetes/pki/ca.crt")));
    assert_eq!(config.server.authentication.tokens, Some(seconds(120)));
    assert_eq!(config.server.authorization, Authorization::Webhook { allowed: seconds(300), denied: seconds(30) });
    assert_eq!(config.server.listen, "0.0.0.0:10250".parse::<SocketAddr>().unwrap());
    assert_eq!(config.server.healthz, Some("127.0.0.1:10248".parse().unwrap()));
    assert_eq!((config.server.read_only, config.server.certificate), (None, ServingCertificate::SelfSigned));
    assert_eq!(config.dns.servers, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
    assert!(config.rotate_certificates);
    assert_eq!(config.heartbeat.report, seconds(300));
    assert_eq!(config.configz["streamingConnectionIdleTimeout"], "4h0m0s");
    assert_eq!(config.shutdown, []);
}

#[test]
fn without_a_file_everything_is_the_default() {
    let config = KubeletConfiguration::default();
    assert_eq!(config, Files::new(&[]).load(&[]).unwrap().configuration);
    assert!(!config.server.authentication.anonymous && !config.rotate_certificates);
    let hard: Vec<_> =
        config.eviction.hard.iter().map(|(signal, least)| (signal.name(), least.of(1_000_000))).collect();
    assert_eq!(
        hard,
        [
            ("memory.available", 100 << 20),
            ("nodefs.available", 100_000),
            ("nodefs.inodesFree", 50_000),
            ("imagefs.available", 150_000),
            ("imagefs.inodesFree", 50_000)
        ]
    );
    assert_eq!((config.pods.max, config.pods.pids_limit, config.images.parallel_pulls), (110, None, None));
    assert_eq!(config.pods.longest_back_off, seconds(300));
    assert_eq!(
        (config.heartbeat.compute, config.heartbeat.report, config.heartbeat.lease),
        (seconds(10), seconds(300), seconds(40))
    );
}

#[test]
fn drop_ins_win_by_name_over_the_file_and_flags_over_both() {
    let files = Files::new(&[
        (
            "config.yaml",
            "maxPods: 10\nclusterDomain: a.example\nevictionHard: {memory.available: 1Gi, nodefs.available: 5%}\nclusterDNS: [192.0.2.1, 192.0.2.2]\n",
        ),
        ("d/20-more.conf", "maxPods: 30\nevictionHard: {memory.available: 2Gi}\n"),
        ("d/10-less.conf", "maxPods: 20\nclusterDNS: [192.0.2.3]\nclusterDomain: null\n"),
        ("d/readme.txt", "not read"),
        ("d/sub/5.conf", "nodeLeaseDurationSeconds: 80\n"),
    ]);
    let config = files.load(&[]).unwrap().configuration;
    assert_eq!((config.pods.max, config.dns.domain.as_str()), (30, ""));
    assert_eq!(config.dns.servers, ["192.0.2.3".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.eviction.hard.len(), 2, "mappings are merged: {:?}", config.eviction.hard);
    assert_eq!(config.eviction.hard[&Signal::MemoryAvailable].of(0), 2 << 30);
    assert_eq!(config.heartbeat.lease, seconds(80), "folders below are read too");

    let text = |text: &str| Kind::Text(text.to_owned());
    let thresholds = Kind::Map(vec![("pid.available".into(), Node { line: 0, kind: text("100") })]);
    let flags = [
        flag("max-pods", "maxPods", Kind::Plain("40".into())),
        flag("eviction-hard", "evictionHard", thresholds),
        flag("anonymous-auth", "authentication.anonymous.enabled", Kind::Plain("true".into())),
    ];
    let config = files.load(&flags).unwrap().configuration;
    assert_eq!((config.pods.max, config.eviction.hard.len()), (40, 1), "a flag replaces a mapping");
    assert!(config.server.authentication.anonymous && config.server.authentication.tokens.is_some());
}

#[test]
fn mistakes_name_the_file_the_line_and_the_field() {
    let of = |name: &str, text: &str, said: Expect| Files::new(&[(name, text)]).refused(&said);
    of(
        "config.yaml",
        "maxPods: many\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          config.yaml: line 3: maxPods: is text, must be a number"#]],
    );
    of(
        "config.yaml",
        "maxPods: 1\nmaxPods: 2\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          config.yaml: line 4: key "maxPods" is given twice, first in line 3"#]],
    );
    of(
        "config.yaml",
        "authentication:\n  webhook:\n    cacheTTL: 5\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          config.yaml: line 5: authentication.webhook.cacheTTL: is a number, must be text"#]],
    );
    of(
        "config.yaml",
        "apiVersion: v1\nkind: KubeletConfiguration\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          config.yaml: apiVersion and kind are "v1" and "KubeletConfiguration", must be kubelet.config.k8s.io/v1beta1 and KubeletConfiguration"#]],
    );
    of(
        "d/1.conf",
        "evictionHardd: {}\nauthentication: {webhook: {enable: true}}\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          d/1.conf: line 3: evictionHardd: unknown field; did you mean evictionHard?
          d/1.conf: line 4: authentication.webhook.enable: unknown field; did you mean enabled?"#]],
    );
    of(
        "d/1.conf",
        "maxPods: 0x\n",
        expect![[r#"
        the kubelet's configuration cannot be used:
          d/1.conf: line 3: maxPods: is text, must be a number"#]],
    );
}

#[test]
fn values_that_cannot_be_are_told_all_at_once() {
    let files = Files::new(&[
        (
            "config.yaml",
            "maxPods: -1
port: 70000
nodeLeaseDurationSeconds: -3
syncFrequency: 1m
fileCheckFrequency: -1s
clusterDNS: [10.96.0.10, nowhere]
evictionHard: {memory.availabel: 1Gi, nodefs.available: 120%, pid.available: '0'}
evictionSoft: {memory.available: 1Gi}
imageGCHighThresholdPercent: 50
imageGCLowThresholdPercent: 60
systemReserved: {gpu: '1', cpu: '-1', memory: lots}
kubeReserved: {cpu: '1'}
enforceNodeAllocatable: [pods, kube-reserved, all]
authorization: {mode: Never}
tlsCertFile: /a.crt
allowedUnsafeSysctls: ['kernel.shm*', '**']
registerWithTaints: [{key: a, effect: Sometimes}]
crashLoopBackOff: {maxContainerRestartPeriod: 10m}
containerLogMaxSize: much
",
        ),
        ("d/a.conf", "shutdownGracePeriodCriticalPods: 10s\n"),
    ]);
    files.refused(&expect![[r#"
        the kubelet's configuration cannot be used:
          config.yaml: line 4: port: is 70000, must be between 1 and 65535
          config.yaml: line 16: authorization.mode: is "Never", must be one of: AlwaysAllow, Webhook
          tlsPrivateKeyFile: is missing beside tlsCertFile
          config.yaml: line 19: registerWithTaints[0].effect: is "Sometimes", must be NoSchedule, PreferNoSchedule or NoExecute
          config.yaml: line 5: nodeLeaseDurationSeconds: is -3, must be at least 1
          config.yaml: line 8: clusterDNS[1]: "nowhere" is not an IP address
          config.yaml: line 20: crashLoopBackOff.maxContainerRestartPeriod: must be between 1s and 300s
          config.yaml: line 18: allowedUnsafeSysctls[1]: the sysctls "**" are not known to be namespaced
          config.yaml: line 3: maxPods: is -1, must be at least 1
          config.yaml: line 21: containerLogMaxSize: "much" is not a quantity; a number with an optional unit is, such as 250m, 0.5, 64Mi or 1G
          config.yaml: line 7: fileCheckFrequency: is -1s, must not be negative
          config.yaml: line 12: imageGCLowThresholdPercent: is 60, must be less than imageGCHighThresholdPercent, 50
          evictionSoftGracePeriod: memory.available has none, and evictionSoft names it
          config.yaml: line 9: evictionHard[memory.availabel]: is not a signal; there are: memory.available, allocatableMemory.available, nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, containerfs.available, containerfs.inodesFree, pid.available
          config.yaml: line 9: evictionHard[nodefs.available]: "120%" must be between 0% and 100%
          config.yaml: line 9: evictionHard[pid.available]: "0" must be more than nothing
          config.yaml: line 13: systemReserved[cpu]: is -1, must not be negative
          config.yaml: line 13: systemReserved[gpu]: cannot be reserved; cpu, memory, ephemeral-storage and pid can
          config.yaml: line 13: systemReserved[memory]: "lots" is not a quantity; a number with an optional unit is, such as 250m, 0.5, 64Mi or 1G
          kubeReservedCgroup: is missing, and enforceNodeAllocatable names kube-reserved
          config.yaml: line 15: enforceNodeAllocatable: "all" is not one of: none (alone), pods, system-reserved, system-reserved-compressible, kube-reserved, kube-reserved-compressible
          d/a.conf: line 3: shutdownGracePeriodCriticalPods: must not be more than shutdownGracePeriod"#]]);
}

#[test]
fn a_field_of_another_version_is_left_out_with_a_word() {
    let loaded = Files::new(&[("config.yaml", "maxPodz: 5\nbrandNew: {a: 1}\nclusterDomain: c.example\n")]).load(&[]);
    let loaded = loaded.unwrap();
    let said: Vec<_> =
        loaded.warnings.iter().map(|line| line.rsplit_once('/').map_or(line.as_str(), |(_, end)| end)).collect();
    expect![[r#"
        config.yaml: line 3: maxPodz: unknown field; did you mean maxPods?; it is left out
        config.yaml: line 4: brandNew: unknown field; known here: enableServer, staticPodPath, podLogsDir, syncFrequency, fileCheckFrequency, httpCheckFrequency, staticPodURL, staticPodURLHeader, address, port, readOnlyPort, tlsCertFile; it is left out"#]].assert_eq(&said.join("\n"));
    assert_eq!(loaded.configuration.dns.domain, "c.example");
}

#[test]
fn what_is_asked_for_and_not_done_is_said() {
    let files = Files::new(&[("config.yaml", "cpuManagerPolicy: static\nseccompDefault: true\nhairpinMode: none\n")]);
    expect![[r#"
        seccompDefault has no effect here: only containers that name a seccomp profile have one
        cpuManagerPolicy has no effect here: no container has cpus of its own"#]]
    .assert_eq(&files.load(&[]).unwrap().warnings.join("\n"));
}

#[test]
fn relative_paths_are_relative_to_their_file() {
    let files = Files::new(&[("config.yaml", "staticPodPath: manifests\nresolvConf: ''\n")]);
    let config = files.load(&[]).unwrap().configuration;
    assert_eq!(config.static_pods.path, Some(files.0.path().join("manifests")));
    assert_eq!(config.dns.resolv_conf, None);
}

#[test]
fn sums_and_groups_are_the_kubelets() {
    let config = loaded(&[(
        "config.yaml",
        "nodeStatusUpdateFrequency: 4s
podsPerCore: 10
shutdownGracePeriod: 30s
shutdownGracePeriodCriticalPods: 10s
systemReserved: {cpu: 500m, memory: 1Gi, pid: '1000'}
kubeReserved: {cpu: '1', ephemeral-storage: 1Gi}
mergeDefaultEvictionSettings: true
evictionHard: {memory.available: 0%, nodefs.available: 12.5%}
evictionSoft: {memory.available: 1Gi}
evictionSoftGracePeriod: {memory.available: 1m30s}
evictionMaxPodGracePeriod: -1
serializeImagePulls: false
containerLogMaxSize: '-1'
staticPodURL: https://a.example/
staticPodURLHeader: {Token: [hush]}
",
    )]);
    assert_eq!(config.heartbeat.report, seconds(4), "who sets one gets the other");
    assert_eq!((config.pods.most(4), config.pods.most(64)), (40, 110));
    let groups: Vec<_> = config.shutdown.iter().map(|group| (group.priority, group.grace.as_secs())).collect();
    assert_eq!(groups, [(0, 20), (2_000_000_000, 10)]);
    let total = config.reservations.total();
    assert_eq!((total.cpu_millis, total.memory_bytes, total.pids), (1_500, 1 << 30, 1_000));
    assert_eq!(config.eviction.hard.get(&Signal::MemoryAvailable), None, "0% turns it off");
    assert_eq!(config.eviction.hard[&Signal::NodefsAvailable].of(1_000), 125);
    assert_eq!(config.eviction.hard.len(), 4);
    assert_eq!(config.eviction.soft[&Signal::MemoryAvailable].1, seconds(90));
    assert_eq!(config.eviction.max_pod_grace, None);
    assert!(config.images.parallel_pulls.is_some_and(|pulls| pulls > 1_000));
    assert_eq!(config.pods.logs.max_size, None);
    assert_eq!(config.static_pods.headers, ["Token:hush"]);
    assert!(!format!("{config:?}").contains("hush"), "a header is shown");
}

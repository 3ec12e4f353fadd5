//! The kubelet's flags: which field each one stands for, and which of them mean nothing to this agent.
//!
//! Facts: `cmd/kubelet/app/options` of Kubernetes 1.36, and the flags that went since 1.20: units that kubeadm wrote for
//! those versions still pass them.

use super::Setting;
use crate::yaml::{Kind, Node};

/// How a flag's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    /// A number, or true and false.
    Plain,
    /// Separated by commas.
    List,
    /// `key<separator>value`, separated by commas.
    Pairs(char),
    /// `Gate=true`, added to those of the files.
    Gates,
    /// `NAME:VALUE`, separated by commas.
    Headers,
    /// `key=value:Effect`, separated by commas.
    Taints,
    /// `module=verbosity`, separated by commas.
    Modules,
}

/// A flag that stands for a field of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// The field.
    pub field: &'static str,
    /// For `--help`; nothing where the kubelet's own documentation has to do.
    pub help: &'static str,
    form: Form,
    /// It may stand without a value: true.
    pub is_switch: bool,
}

const fn flag(name: &'static str, field: &'static str, form: Form) -> Flag {
    Flag { name, field, help: "", form, is_switch: false }
}

const fn shown(name: &'static str, field: &'static str, form: Form, help: &'static str) -> Flag {
    Flag { help, ..flag(name, field, form) }
}

const fn switch(name: &'static str, field: &'static str) -> Flag {
    Flag { is_switch: true, ..flag(name, field, Form::Plain) }
}

/// Flags that stand for fields.
pub const FLAGS: &[Flag] = &[
    shown("max-pods", "maxPods", Form::Plain, "How many pods may run here"),
    shown("cluster-dns", "clusterDNS", Form::List, "Name servers for pods with dnsPolicy ClusterFirst"),
    shown("cluster-domain", "clusterDomain", Form::Text, "Domain of the names in the pods' search list"),
    shown(
        "register-with-taints",
        "registerWithTaints",
        Form::Taints,
        "Taints of a Node that is registered anew: key=value:Effect",
    ),
    shown("cgroup-root", "cgroupRoot", Form::Text, "The cgroup below which kubepods is made"),
    shown("pod-logs-dir", "podLogsDir", Form::Text, "The pods' logs"),
    shown(
        "allowed-unsafe-sysctls",
        "allowedUnsafeSysctls",
        Form::List,
        "Sysctls beside the safe ones that pods may set; a pattern may end in *",
    ),
    shown(
        "resolv-conf",
        "resolvConf",
        Form::Text,
        "The node's own resolver configuration; nothing gives pods none of it",
    ),
    shown(
        "container-log-max-size",
        "containerLogMaxSize",
        Form::Text,
        "Size from which on a container's log is rotated",
    ),
    shown(
        "container-log-max-files",
        "containerLogMaxFiles",
        Form::Plain,
        "How many log files of a container there are at most",
    ),
    shown(
        "node-status-update-frequency",
        "nodeStatusUpdateFrequency",
        Form::Text,
        "How often the node's status is computed",
    ),
    Flag {
        is_switch: true,
        ..shown("rotate-certificates", "rotateCertificates", Form::Plain, "Renew the client certificate before it ends")
    },
    Flag {
        is_switch: true,
        ..shown(
            "rotate-server-certificates",
            "serverTLSBootstrap",
            Form::Plain,
            "Ask the cluster for the serving certificate",
        )
    },
    Flag { is_switch: true, ..shown("fail-swap-on", "failSwapOn", Form::Plain, "Refuse to start while there is swap") },
    shown("v", "logging.verbosity", Form::Plain, "How much is logged, as klog counts: 2 tells what happens, 4 why"),
    shown("vmodule", "logging.vmodule", Form::Modules, "Modules that log more or less: pods=4,runtime=0"),
    shown("logging-format", "logging.format", Form::Text, "text or json"),
    flag("pod-manifest-path", "staticPodPath", Form::Text),
    flag("sync-frequency", "syncFrequency", Form::Text),
    flag("file-check-frequency", "fileCheckFrequency", Form::Text),
    flag("http-check-frequency", "httpCheckFrequency", Form::Text),
    flag("manifest-url", "staticPodURL", Form::Text),
    flag("manifest-url-header", "staticPodURLHeader", Form::Headers),
    switch("enable-server", "enableServer"),
    flag("address", "address", Form::Text),
    flag("port", "port", Form::Plain),
    flag("read-only-port", "readOnlyPort", Form::Plain),
    flag("healthz-port", "healthzPort", Form::Plain),
    flag("healthz-bind-address", "healthzBindAddress", Form::Text),
    switch("fail-cgroupv1", "failCgroupV1"),
    switch("anonymous-auth", "authentication.anonymous.enabled"),
    switch("authentication-token-webhook", "authentication.webhook.enabled"),
    flag("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", Form::Text),
    flag("client-ca-file", "authentication.x509.clientCAFile", Form::Text),
    flag("authorization-mode", "authorization.mode", Form::Text),
    flag("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", Form::Text),
    flag("authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", Form::Text),
    flag("tls-cert-file", "tlsCertFile", Form::Text),
    flag("tls-private-key-file", "tlsPrivateKeyFile", Form::Text),
    flag("tls-cipher-suites", "tlsCipherSuites", Form::List),
    flag("tls-min-version", "tlsMinVersion", Form::Text),
    flag("registry-qps", "registryPullQPS", Form::Plain),
    flag("registry-burst", "registryBurst", Form::Plain),
    flag("event-qps", "eventRecordQPS", Form::Plain),
    flag("event-burst", "eventBurst", Form::Plain),
    switch("enable-debugging-handlers", "enableDebuggingHandlers"),
    switch("contention-profiling", "enableContentionProfiling"),
    flag("oom-score-adj", "oomScoreAdj", Form::Plain),
    flag("volume-plugin-dir", "volumePluginDir", Form::Text),
    flag("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Form::Text),
    shown(
        "minimum-image-ttl-duration",
        "imageMinimumGCAge",
        Form::Text,
        "An unused image is kept for so long at least",
    ),
    shown(
        "image-gc-high-threshold",
        "imageGCHighThresholdPercent",
        Form::Plain,
        "How full the images' disk may be before unused images are removed; 100 for never",
    ),
    shown(
        "image-gc-low-threshold",
        "imageGCLowThresholdPercent",
        Form::Plain,
        "How full the images' disk may be afterwards",
    ),
    flag("volume-stats-agg-period", "volumeStatsAggPeriod", Form::Text),
    flag("feature-gates", "featureGates", Form::Gates),
    flag("kubelet-cgroups", "kubeletCgroups", Form::Text),
    flag("system-cgroups", "systemCgroups", Form::Text),
    flag("provider-id", "providerID", Form::Text),
    switch("cgroups-per-qos", "cgroupsPerQOS"),
    flag("cgroup-driver", "cgroupDriver", Form::Text),
    flag("cpu-manager-policy", "cpuManagerPolicy", Form::Text),
    flag("cpu-manager-policy-options", "cpuManagerPolicyOptions", Form::Pairs('=')),
    flag("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Form::Text),
    flag("qos-reserved", "qosReserved", Form::Pairs('=')),
    flag("topology-manager-policy", "topologyManagerPolicy", Form::Text),
    flag("topology-manager-scope", "topologyManagerScope", Form::Text),
    flag("topology-manager-policy-options", "topologyManagerPolicyOptions", Form::Pairs('=')),
    flag("memory-manager-policy", "memoryManagerPolicy", Form::Text),
    flag("runtime-request-timeout", "runtimeRequestTimeout", Form::Text),
    flag("hairpin-mode", "hairpinMode", Form::Text),
    flag("pod-max-pids", "podPidsLimit", Form::Plain),
    switch("runonce", "runOnce"),
    switch("cpu-cfs-quota", "cpuCFSQuota"),
    flag("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Form::Text),
    switch("enable-controller-attach-detach", "enableControllerAttachDetach"),
    switch("make-iptables-util-chains", "makeIPTablesUtilChains"),
    flag("iptables-drop-bit", "iptablesDropBit", Form::Plain),
    flag("node-status-max-images", "nodeStatusMaxImages", Form::Plain),
    switch("kernel-memcg-notification", "kernelMemcgNotification"),
    switch("local-storage-capacity-isolation", "localStorageCapacityIsolation"),
    flag("max-open-files", "maxOpenFiles", Form::Plain),
    flag("kube-api-content-type", "contentType", Form::Text),
    flag("kube-api-qps", "kubeAPIQPS", Form::Plain),
    flag("kube-api-burst", "kubeAPIBurst", Form::Plain),
    switch("serialize-image-pulls", "serializeImagePulls"),
    shown(
        "eviction-hard",
        "evictionHard",
        Form::Pairs('<'),
        "Below these a pod ends at once, such as memory.available<100Mi,nodefs.available<10%; 0% turns one off",
    ),
    shown("eviction-soft", "evictionSoft", Form::Pairs('<'), "Below these a pod ends after a grace period"),
    shown(
        "eviction-soft-grace-period",
        "evictionSoftGracePeriod",
        Form::Pairs('='),
        "How long each of these may last, such as memory.available=1m30s",
    ),
    shown(
        "eviction-pressure-transition-period",
        "evictionPressureTransitionPeriod",
        Form::Text,
        "How long the node says that it is short of something after it was",
    ),
    shown(
        "eviction-max-pod-grace-period",
        "evictionMaxPodGracePeriod",
        Form::Plain,
        "Seconds that such a pod has to end; less where its own grace period is less",
    ),
    shown(
        "eviction-minimum-reclaim",
        "evictionMinimumReclaim",
        Form::Pairs('='),
        "How much more than needed is freed, such as nodefs.available=500Mi",
    ),
    flag("pods-per-core", "podsPerCore", Form::Plain),
    switch("protect-kernel-defaults", "protectKernelDefaults"),
    flag("reserved-cpus", "reservedSystemCPUs", Form::Text),
    flag("system-reserved", "systemReserved", Form::Pairs('=')),
    flag("kube-reserved", "kubeReserved", Form::Pairs('=')),
    flag("enforce-node-allocatable", "enforceNodeAllocatable", Form::List),
    flag("system-reserved-cgroup", "systemReservedCgroup", Form::Text),
    flag("kube-reserved-cgroup", "kubeReservedCgroup", Form::Text),
    switch("register-node", "registerNode"),
    switch("seccomp-default", "seccompDefault"),
    flag("image-service-endpoint", "imageServiceEndpoint", Form::Text),
];

/// Flags that mean nothing to an agent with a runtime, a pod network and logs of its own, and take a value.
pub const WITHOUT_MEANING: &[&str] = &[
    "container-runtime",
    "container-runtime-endpoint",
    "pod-infra-container-image",
    "runtime-cgroups",
    "image-credential-provider-config",
    "image-credential-provider-bin-dir",
    "image-pull-progress-deadline",
    "cloud-provider",
    "cloud-config",
    "lock-file",
    "network-plugin",
    "network-plugin-mtu",
    "cni-conf-dir",
    "cni-bin-dir",
    "cni-cache-dir",
    "non-masquerade-cidr",
    "docker",
    "docker-endpoint",
    "dynamic-config-dir",
    "master-service-namespace",
    "experimental-mounter-path",
    "minimum-container-ttl-duration",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "reserved-memory",
    "log-dir",
    "log-file",
    "log-file-max-size",
    "log-flush-frequency",
    "log-backtrace-at",
    "log-text-info-buffer-size",
    "log-json-info-buffer-size",
    "stderrthreshold",
    "housekeeping-interval",
    "max-housekeeping-interval",
    "global-housekeeping-interval",
    "application-metrics-count-limit",
    "boot-id-file",
    "machine-id-file",
    "container-hints",
    "containerd",
    "containerd-namespace",
    "event-storage-age-limit",
    "event-storage-event-limit",
    "storage-driver-user",
    "storage-driver-password",
    "storage-driver-host",
    "storage-driver-db",
    "storage-driver-table",
    "storage-driver-buffer-duration",
    "show-hidden-metrics-for-version",
];

/// The same, and may stand without a value.
pub const SWITCHES_WITHOUT_MEANING: &[&str] = &[
    "exit-on-lock-contention",
    "experimental-allocatable-ignore-eviction",
    "experimental-kernel-memcg-notification",
    "keep-terminated-pod-volumes",
    "redirect-container-streaming",
    "logtostderr",
    "alsologtostderr",
    "add-dir-header",
    "skip-headers",
    "skip-log-headers",
    "one-output",
    "log-text-split-stream",
    "log-json-split-stream",
    "enable-load-reader",
    "log-cadvisor-usage",
    "storage-driver-secure",
];

impl Flag {
    /// What the flag sets, given once or several times: lists grow, of everything else the last one counts.
    ///
    /// # Errors
    /// What is wrong with the text; never the text of a header.
    pub fn setting(&self, given: &[String]) -> Result<Setting, String> {
        let last = given.last().map(String::as_str).unwrap_or_default();
        let pieces = || given.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|piece| !piece.is_empty());
        let kind = match self.form {
            Form::Text => Kind::Text(last.to_owned()),
            Form::Plain => Kind::Plain(last.to_owned()),
            Form::List => Kind::List(pieces().map(text).collect()),
            Form::Pairs(by) => Kind::Map(pairs(pieces(), by, text)?),
            Form::Gates => Kind::Map(pairs(pieces(), '=', plain)?),
            Form::Headers => headers(pieces())?,
            Form::Modules => Kind::List(pieces().map(module).collect::<Result<_, _>>()?),
            Form::Taints => Kind::List(pieces().map(taint).collect::<Result<_, _>>()?),
        };
        Ok(Setting { flag: self.name, field: self.field, value: node(kind), adds: self.form == Form::Gates })
    }
}

fn node(kind: Kind) -> Node {
    Node { line: 0, kind }
}

fn text(text: &str) -> Node {
    node(Kind::Text(text.to_owned()))
}

fn plain(text: &str) -> Node {
    node(Kind::Plain(text.to_owned()))
}

fn pairs<'a>(
    pieces: impl Iterator<Item = &'a str>,
    by: char,
    value: impl Fn(&str) -> Node,
) -> Result<Vec<(String, Node)>, String> {
    let mut entries: Vec<(String, Node)> = Vec::new();
    for piece in pieces {
        let (key, text) = piece.split_once(by).ok_or_else(|| format!("{piece:?} is not of the form key{by}value"))?;
        entries.retain(|(known, _)| known != key.trim());
        entries.push((key.trim().to_owned(), value(text.trim())));
    }
    Ok(entries)
}

fn headers<'a>(pieces: impl Iterator<Item = &'a str>) -> Result<Kind, String> {
    let mut entries: Vec<(String, Node)> = Vec::new();
    for piece in pieces {
        let (name, value) = piece.split_once(':').ok_or("a header is not of the form NAME:VALUE")?;
        match entries.iter_mut().find(|(known, _)| known == name) {
            Some((_, Node { kind: Kind::List(values), .. })) => values.push(text(value)),
            _ => entries.push((name.to_owned(), node(Kind::List(vec![text(value)])))),
        }
    }
    Ok(Kind::Map(entries))
}

/// `module=verbosity`.
fn module(piece: &str) -> Result<Node, String> {
    let (name, verbosity) =
        piece.split_once('=').ok_or_else(|| format!("{piece:?} is not of the form MODULE=VERBOSITY"))?;
    let entries = [("filePattern", text(name.trim())), ("verbosity", plain(verbosity.trim()))];
    Ok(node(Kind::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())))
}

/// `key=value:Effect`, `key:Effect`.
fn taint(piece: &str) -> Result<Node, String> {
    let (rest, effect) =
        piece.rsplit_once(':').ok_or_else(|| format!("{piece:?} is not of the form key=value:Effect"))?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let mut entries = vec![("key".to_owned(), text(key)), ("effect".to_owned(), text(effect))];
    if !value.is_empty() {
        entries.push(("value".to_owned(), text(value)));
    }
    Ok(node(Kind::Map(entries)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::kubelet::load;

    fn set(name: &str, given: &[&str]) -> Result<Setting, String> {
        let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap();
        flag.setting(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_flag_sets_a_field_that_there_is() {
        for flag in FLAGS {
            let given = match flag.form {
                Form::Plain if flag.is_switch => "false",
                Form::Plain => "1",
                Form::Text => "1s",
                Form::List => "a,b",
                Form::Pairs('<') => "a<b",
                Form::Pairs(_) => "a=b",
                Form::Gates => "A=true",
                Form::Headers => "A:b",
                Form::Taints => "k=v:NoSchedule",
                Form::Modules => "pods=4",
            };
            let said = load(None, None, &[flag.setting(&[given.to_owned()]).unwrap()]);
            let said = said.map(drop).map_err(|error| error.to_string()).err().unwrap_or_default();
            // A value may be wrong for its field; the field must be known, and take values of this form.
            let wrong = [
                "unknown field",
                "must be text",
                "must be a number",
                "must be a list",
                "must be a mapping",
                "must be true",
            ];
            assert!(!wrong.iter().any(|words| said.contains(words)), "--{}: {said}", flag.name);
        }
        let names: Vec<_> = FLAGS
            .iter()
            .map(|flag| flag.name)
            .chain(WITHOUT_MEANING.iter().copied())
            .chain(SWITCHES_WITHOUT_MEANING.iter().copied())
            .collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a flag stands twice");
    }

    #[test]
    fn flags_are_read_as_the_kubelet_reads_them() {
        let flags = [
            set("max-pods", &["10", "20"]),
            set("cluster-dns", &["192.0.2.1,192.0.2.2", "192.0.2.3"]),
            set("eviction-hard", &["memory.available<1Gi,nodefs.available<10%"]),
            set("system-reserved", &["cpu=500m,memory=1Gi"]),
            set("register-with-taints", &["node-role.kubernetes.io/control-plane:NoSchedule,k=v:NoExecute"]),
            set("manifest-url-header", &["A:b,A:c"]),
            set("anonymous-auth", &["true"]),
        ];
        let config = load(None, None, &flags.map(Result::unwrap)).unwrap().configuration;
        assert_eq!((config.pods.max, config.dns.servers.len(), config.eviction.hard.len()), (20, 3, 2));
        assert_eq!(config.reservations.system.cpu_millis, 500);
        let taints: Vec<_> =
            config.registration.taints.into_iter().map(|taint| (taint.key, taint.value, taint.effect)).collect();
        assert_eq!(taints[0], ("node-role.kubernetes.io/control-plane".into(), None, "NoSchedule".into()));
        assert_eq!(taints[1], ("k".into(), Some("v".into()), "NoExecute".into()));
        assert_eq!(config.static_pods.headers, ["A:b", "A:c"]);
        assert!(config.server.authentication.anonymous);
    }

    #[test]
    fn a_bad_value_names_its_flag() {
        let bad = |name: &str, given: &str| match set(name, &[given]) {
            Ok(setting) => load(None, None, &[setting]).unwrap_err().to_string(),
            Err(problem) => problem,
        };
        assert!(bad("max-pods", "many").contains("--max-pods: is text, must be a number"));
        assert!(bad("max-pods", "-5").contains("--max-pods: maxPods: is -5, must be at least 1"));
        assert!(bad("system-reserved", "cpu").contains("\"cpu\" is not of the form key=value"));
        assert!(bad("register-with-taints", "k=v:NoWay").contains("registerWithTaints[0].effect"));
        assert!(!bad("manifest-url-header", "hush").contains("hush"));
    }
}

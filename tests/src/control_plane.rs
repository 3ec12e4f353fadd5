//! A real control plane under test: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in a network namespace
//! of their own, with certificates made for them. `tests/tools/control-plane` builds the programs once.
//!
//! The namespace holds the bridge `lan`, 192.0.2.1/24; [`ControlPlane::attach`] plugs nodes into it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::agent::Place;
use crate::cluster_trust::Authority;

/// Where the API server is, seen from every node.
pub const SERVER: &str = "https://192.0.2.1:6443";
/// The bootstrap token that is there from the start.
pub const TOKEN: &str = "abcdef.0123456789abcdef";

/// As kubeadm makes it, and with what a test can tell from a default. Machines of CI have swap.
const KUBELET_CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
failSwapOn: false
maxPods: 77
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
";

const LOOK: Duration = Duration::from_millis(50);
/// Go programs of this size on a loaded machine of two cores; nothing is retried within.
const PATIENCE: Duration = Duration::from_secs(120);

/// One control plane. Dropping it ends its processes and removes its namespace.
pub struct ControlPlane {
    netns: String,
    /// Certificates, kubeconfigs, logs, data.
    pub dir: tempfile::TempDir,
    programs: PathBuf,
    authority: Authority,
    running: Vec<(&'static str, Child)>,
    attached: AtomicU32,
}

/// The folder of the programs, or why the suite cannot run.
///
/// # Errors
/// In CI, and where a folder was named, when they are not there. At a desk that is `None`, and the reason is printed.
pub fn programs() -> Result<Option<PathBuf>> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let found = Command::new(top.join("tests/tools/control-plane")).arg("--print").output()?;
    let etcd =
        Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    match (found.status.success(), etcd) {
        (true, true) => Ok(Some(String::from_utf8(found.stdout)?.trim().into())),
        _ if std::env::var_os("CI").is_none() && found.status.code() == Some(3) => {
            #[expect(clippy::print_stderr, reason = "a silent skip reads as a pass")]
            {
                eprintln!("SKIPPED: no control plane here; tests/tools/packages cluster && tests/tools/control-plane");
            }
            Ok(None)
        }
        (true, false) => bail!("etcd is missing: tests/tools/packages cluster"),
        _ => bail!("no control plane (tests/tools/control-plane): {}", String::from_utf8_lossy(&found.stderr)),
    }
}

impl ControlPlane {
    /// Everything started and answering; `None` at a desk that has no programs for it.
    ///
    /// # Errors
    /// What did not start, with the end of its log.
    pub fn start() -> Result<Option<Self>> {
        Self::start_signing_for(None)
    }

    /// The same, with certificates that are good for so many seconds.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn start_signing_for(signing_for: Option<u32>) -> Result<Option<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(programs) = programs()? else { return Ok(None) };
        let dir = tempfile::Builder::new().prefix("longshore-cp-").tempdir()?;
        let netns = format!("cp{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let authority = Authority::make(dir.path())?;
        ip(&["netns", "add", &netns])?;
        let mut plane = Self { netns, dir, programs, authority, running: Vec::new(), attached: AtomicU32::new(0) };
        for line in
            ["link set lo up", "link add lan type bridge", "address add 192.0.2.1/24 dev lan", "link set lan up"]
        {
            ip(&[&["-n", plane.netns.as_str()][..], &line.split(' ').collect::<Vec<_>>()].concat())?;
        }
        plane.write_configs()?;
        plane.start_etcd()?;
        plane.start_api_server()?;
        plane.start_managers(signing_for)?;
        plane.prepare()?;
        Ok(Some(plane))
    }

    /// A file of the control plane.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The name of its network namespace.
    pub fn netns(&self) -> &str {
        &self.netns
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The pin of the authority, as `--discovery-token-ca-cert-hash` takes it.
    pub fn ca_hash(&self) -> &str {
        &self.authority.pin
    }

    /// Makes a kubeconfig for a user and a group, and says where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let (certificate, key) = self.authority.client(user, group)?;
        std::fs::write(self.path(&format!("{file}.crt")), certificate)?;
        std::fs::write(self.path(&format!("{file}.key")), key)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": SERVER, "certificate-authority": self.shown("ca.crt")}}],
            "users": [{"name": "c", "user": {"client-certificate": format!("{file}.crt"), "client-key": format!("{file}.key")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        let path = self.path(file);
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Makes a certificate for a node's own API, `<name>-serving.crt` and `.key`, that the API server believes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn serving_certificate(&self, name: &str, address: &str) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = self.authority.server(&format!("system:node:{name}"), &[name, address])?;
        let (certificate_file, key_file) =
            (self.path(&format!("{name}-serving.crt")), self.path(&format!("{name}-serving.key")));
        std::fs::write(&key_file, key)?;
        std::fs::write(&certificate_file, certificate)?;
        Ok((certificate_file, key_file))
    }

    /// A kubeconfig with a bootstrap token.
    pub fn bootstrap_kubeconfig(&self, token: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": SERVER, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "c", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        })
    }

    /// Certificate and key of a user, good until the year 2020.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn ended_certificate(&self, user: &str, group: &str) -> Result<(String, String)> {
        self.authority.ended_client(user, group)
    }

    fn write_configs(&self) -> Result<()> {
        self.kubeconfig("admin.conf", "kubernetes-admin", Some("system:masters"))?;
        self.kubeconfig("controller-manager.conf", "system:kube-controller-manager", None)?;
        self.kubeconfig("scheduler.conf", "system:kube-scheduler", None)?;
        let (certificate, key) = self.authority.client("kube-apiserver-kubelet-client", Some("system:masters"))?;
        std::fs::write(self.path("kubelet-client.crt"), certificate)?;
        std::fs::write(self.path("kubelet-client.key"), key)?;
        let of_nodes = json!({"level": "Metadata", "userGroups": ["system:nodes"]});
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [of_nodes],
            "omitStages": ["RequestReceived"]});
        Ok(std::fs::write(self.path("audit-policy.json"), policy.to_string())?)
    }

    fn start_etcd(&mut self) -> Result<()> {
        let data = format!("--data-dir={}", self.shown("etcd"));
        // Nothing here need outlive a power cut, and fsync on a busy disk would be waited for all day.
        self.spawn("etcd", Path::new("etcd"), &["--log-level=warn", "--unsafe-no-fsync", &data])
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// When it is not within two minutes.
    pub fn start_api_server(&mut self) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        let flags = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--advertise-address=192.0.2.1".into(),
            "--secure-port=6443".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth=true".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--allow-privileged=true".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--shutdown-delay-duration=0s".into(),
            file("audit-policy-file", "audit-policy.json"),
            file("audit-log-path", "audit.log"),
            file("cert-dir", "apiserver-pki"),
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("client-ca-file", "ca.crt"),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            file("kubelet-client-certificate", "kubelet-client.crt"),
            file("kubelet-client-key", "kubelet-client.key"),
            file("kubelet-certificate-authority", "ca.crt"),
        ];
        self.spawn_own("kube-apiserver", &flags)?;
        self.wait("a ready API server", |plane| {
            Ok(plane.kubectl(&["get", "--raw", "/readyz"])?.status.success().then_some(()))
        })
    }

    fn start_managers(&mut self, signing_for: Option<u32>) -> Result<()> {
        let dir = self.dir.path().to_owned();
        let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        let mut manager = vec![
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".into(),
            "--controllers=*,bootstrapsigner,tokencleaner".into(),
            "--allocate-node-cidrs=true".into(),
            "--cluster-cidr=10.244.0.0/16".into(),
            "--use-service-account-credentials=true".into(),
            file("kubeconfig", "controller-manager.conf"),
            file("root-ca-file", "ca.crt"),
            file("service-account-private-key-file", "sa.key"),
            file("cluster-signing-cert-file", "ca.crt"),
            file("cluster-signing-key-file", "ca.key"),
            file("cert-dir", "manager-pki"),
        ];
        if let Some(seconds) = signing_for {
            // In 1.20 the five minutes by which certificates are dated back are part of their life.
            let back = if self.minor()? <= 20 { 300 } else { 0 };
            manager.push(format!("--cluster-signing-duration={}s", seconds + back));
        }
        self.spawn_own("kube-controller-manager", &manager)?;
        let scheduler = [
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".into(),
            file("kubeconfig", "scheduler.conf"),
            file("cert-dir", "scheduler-pki"),
        ];
        self.spawn_own("kube-scheduler", &scheduler)
    }

    /// What `kubeadm init` would put into a fresh cluster for nodes that join.
    fn prepare(&mut self) -> Result<()> {
        let bootstrappers = "system:bootstrappers:kubeadm:default-node-token";
        let (id, secret) = TOKEN.split_once('.').context("the token")?;
        let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": {"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true", "auth-extra-groups": bootstrappers}});
        let config = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": {
            "server": SERVER, "certificate-authority-data": self.authority.certificate_base64()}}]});
        let info = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": config.to_string()}});
        let rbac = "rbac.authorization.k8s.io";
        let reader = json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}]});
        let anyone = json!({"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "cluster-info"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "system:anonymous"}]});
        let binding = |name: &str, role: &str, group: &str| {
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": rbac, "kind": "Group", "name": group}]})
        };
        let requests = "system:certificates.k8s.io:certificatesigningrequests";
        let [kubelet, its_role, its_binding] = self.kubelet_config(bootstrappers)?;
        let items = [
            kubelet,
            its_role,
            its_binding,
            token,
            info,
            reader,
            anyone,
            binding("bootstrap", "system:node-bootstrapper", bootstrappers),
            binding("approve", &format!("{requests}:nodeclient"), bootstrappers),
            binding("renew", &format!("{requests}:selfnodeclient"), "system:nodes"),
            binding("nodes-proxy", "system:node-proxier", "system:nodes"),
        ];
        self.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
        self.wait("the default service account", |plane| {
            Ok(plane.kubectl(&["get", "serviceaccount", "default"])?.status.success().then_some(()))
        })
    }

    /// `20` of 1.20.
    fn minor(&self) -> Result<u32> {
        let version = self.get("/version")?.context("the version")?;
        let minor = version["minor"].as_str().unwrap_or_default().trim_end_matches('+');
        minor.parse().with_context(|| format!("{version}"))
    }

    /// The cluster's configuration of its kubelets, under the name that its version uses, and the right to read it.
    fn kubelet_config(&self, bootstrappers: &str) -> Result<[Value; 3]> {
        let name = match self.minor()? {
            minor @ ..=23 => format!("kubelet-config-1.{minor}"),
            _ => "kubelet-config".to_owned(),
        };
        let rbac = "rbac.authorization.k8s.io";
        let meta = json!({"name": name, "namespace": "kube-system"});
        let group = |name: &str| json!({"apiGroup": rbac, "kind": "Group", "name": name});
        Ok([
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"kubelet": KUBELET_CONFIG}}),
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": meta,
                "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get"]}]}),
            json!({"apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                "subjects": [group(bootstrappers), group("system:nodes")]}),
        ])
    }

    /// `kubectl …` as the administrator.
    ///
    /// # Errors
    /// When it cannot be run; its exit code is the caller's to judge.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.command(Path::new("kubectl"));
        // Its cache of what the server has would be shared with every other control plane at this address.
        command.env("HOME", self.dir.path()).arg("--kubeconfig").arg(self.path("admin.conf"));
        command.args(arguments).stdin(Stdio::null()).output().context("running kubectl")
    }

    /// What `kubectl …` prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn print(&self, arguments: &[&str]) -> Result<String> {
        let output = self.kubectl(arguments)?;
        ensure!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Creates or changes objects.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let file = self.path("applied.json");
        std::fs::write(&file, object.to_string())?;
        // Validation would fetch the whole OpenAPI document each time; the server validates anyway.
        self.print(&["apply", "--validate=false", "-f", &file.display().to_string()]).map(drop)
    }

    /// One object, if it is there.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        let output = self.kubectl(&["get", "--raw", path])?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Some(serde_json::from_slice(&output.stdout)?)),
            false if said.contains("NotFound") => Ok(None),
            false => bail!("kubectl get --raw {path}: {said}"),
        }
    }

    /// Watches a path from now on.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn watch(&self, path: &str) -> Result<Watch> {
        self.begin(&["get", "--raw", &format!("{path}&watch=true")])
    }

    /// Starts `kubectl …` as the administrator, and goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&self, arguments: &[&str]) -> Result<Watch> {
        let file = tempfile::NamedTempFile::new_in(self.dir.path())?;
        let mut command = self.command(Path::new("kubectl"));
        command.env("HOME", self.dir.path()).arg("--kubeconfig").arg(self.path("admin.conf")).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(file.reopen()?).spawn()?;
        Ok(Watch { child, file })
    }

    /// What the node's credentials were used for so far, `update leases` and the like. Each word stands once for a request
    /// that has ended, and once for a watch that has begun.
    ///
    /// # Errors
    /// When the API server's audit log cannot be read.
    pub fn asked_by(&self, node: &str) -> Result<Vec<String>> {
        let user = format!("system:node:{node}");
        let log = std::fs::read_to_string(self.path("audit.log")).context("the audit log")?;
        // The last one may not be whole yet.
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_node = entries.filter(|entry| entry["user"]["username"] == user.as_str());
        Ok(of_node.filter_map(|entry| asked(&entry)).collect())
    }

    /// Looks until `look` finds something.
    ///
    /// # Errors
    /// After two minutes, or when a part of the control plane has ended; with the ends of the logs.
    pub fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let by = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            for (name, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    let log = std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default();
                    bail!("while waiting for {what}, {name} ended: {status}\n{}", tail(&log));
                }
            }
            if Instant::now() > by {
                bail!("no {what} within {PATIENCE:?}\n{}", self.logs());
            }
            thread::sleep(LOOK);
        }
    }

    /// Ends one part: `kube-apiserver`, `etcd`….
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&mut self, name: &str) -> Result<()> {
        let at = self.running.iter().position(|(running, _)| *running == name).with_context(|| format!("no {name}"))?;
        let (_, mut child) = self.running.remove(at);
        child.kill()?;
        child.wait().map(drop).context("waiting for its end")
    }

    /// Plugs the network namespace of a place into the control plane's bridge, as 192.0.2.`last`, instead of the uplink that
    /// it was made with.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn attach(&self, place: &Place, last: u8) -> Result<()> {
        let port = format!("n{}", self.attached.fetch_add(1, Ordering::Relaxed));
        let lines = [
            format!("-n {} link del uplink", place.name),
            format!("-n {} link add {port} type veth peer name uplink netns {}", self.netns, place.name),
            format!("-n {} link set {port} up master lan", self.netns),
            format!("-n {} address add 192.0.2.{last}/24 dev uplink", place.name),
            format!("-n {} link set uplink up", place.name),
            format!("-n {} route add default via 192.0.2.1", place.name),
        ];
        lines.iter().try_for_each(|line| ip(&line.split(' ').collect::<Vec<_>>()))
    }

    /// A command inside the control plane's network namespace.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program);
        command
    }

    fn spawn_own(&mut self, name: &'static str, flags: &[String]) -> Result<()> {
        let program = self.programs.join(name);
        self.spawn(name, &program, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn spawn(&mut self, name: &'static str, program: &Path, flags: &[&str]) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        let mut command = self.command(program);
        command.current_dir(self.dir.path()).args(flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.running.push((name, command.spawn().with_context(|| format!("starting {name}"))?));
        Ok(())
    }

    /// The end of each log.
    pub fn logs(&self) -> String {
        let log = |name: &str| std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        self.running.iter().map(|(name, _)| format!("--- {name}\n{}\n", tail(&log(name)))).collect()
    }
}

/// A kubectl that runs. Dropping it ends it.
pub struct Watch {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Watch {
    /// What it has printed so far.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn text(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.file.path())?)
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The events so far.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(&self) -> Result<Vec<Value>> {
        let text = self.text()?;
        // The last one may not be whole yet.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `update leases`, `patch nodes/status` of an entry of the audit log. A watch has two, and counts when it begins.
fn asked(entry: &Value) -> Option<String> {
    let (verb, of) = (entry["verb"].as_str()?, &entry["objectRef"]);
    let is_counted = (verb == "watch") == (entry["stage"] == "ResponseStarted");
    let what = of["resource"].as_str().or(entry["requestURI"].as_str())?;
    let within = of["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
    is_counted.then(|| format!("{verb} {what}{within}"))
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output()?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test's own output is where one looks")]
            {
                eprintln!("--- the control plane printed:\n{}", self.logs());
            }
        }
        for (_, child) in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = ip(&["netns", "del", &self.netns]);
    }
}

//! The embedded runtime under test, without an agent: in a network namespace, folders and a cgroup of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_proto::{Deadline, Runtime, v1};
use nix::sched::{CloneFlags, setns};
use runtime::images::RegistryConfig;
use runtime::{Embedded, Options};

use crate::agent::Place;

/// Longer than anything takes on a busy machine; a call that needs it is broken.
pub const SOON: Duration = Duration::from_secs(30);

/// The image that every node here has: busybox with its applets, a root, a user `app` (1000:1000).
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// A machine with an embedded runtime.
pub struct Node {
    /// Where it works.
    pub place: Arc<Place>,
    runtime: Mutex<Option<Arc<Embedded>>>,
}

impl Node {
    /// The runtime. Whoever holds it keeps it from going [`Node::away`].
    ///
    /// # Panics
    /// When it is away.
    pub fn runtime(&self) -> Arc<Embedded> {
        self.slot().clone().expect("the runtime is there")
    }

    /// The runtime goes away as it does when its agent ends: containers run on.
    ///
    /// # Errors
    /// Somebody still uses it, so that it cannot go.
    pub async fn away(&self) -> Result<()> {
        let runtime = self.slot().take().context("the runtime is away already")?;
        runtime.detach().await;
        Arc::into_inner(runtime).context("somebody still uses the runtime")?;
        Ok(())
    }

    /// The runtime is opened again.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn back(&self) -> Result<Arc<Embedded>> {
        let runtime = Embedded::open(options(&self.place)).await.context("opening the runtime again")?;
        *self.slot() = Some(runtime.clone());
        Ok(runtime)
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Embedded>>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `test` with a runtime of its own inside a fresh network namespace, and expects that it has removed its pods:
/// then nothing may be left.
///
/// # Errors
/// What `test` says, or what was left.
pub fn on_a_node<F>(test: impl FnOnce(Arc<Node>) -> F + Send) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let place = Arc::new(Place::new()?);
    inside(&place, async {
        let runtime = Embedded::open(options(&place)).await.context("opening the runtime")?;
        import(&runtime, &place).await?;
        let node = Arc::new(Node { place: place.clone(), runtime: Mutex::new(Some(runtime)) });
        let result = test(node.clone()).await;
        let runtime = node.slot().take();
        if let Some(runtime) = runtime {
            runtime.close().await?;
        }
        result?;
        let left = left(&place);
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

/// Runs a future on threads inside the place's network namespace.
///
/// # Errors
/// What the future says.
///
/// # Panics
/// When the future does.
pub fn inside(place: &Place, test: impl Future<Output = Result<()>>) -> Result<()> {
    let netns = File::open(Path::new("/run/netns").join(&place.name))?;
    setns(&netns, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
    // Its threads are made by this one, and so begin where it is.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(test)
}

/// How the runtime of a place is opened.
pub fn options(place: &Place) -> Options {
    options_below(place.dir.path())
}

/// How a runtime is opened whose folders are below `dir`.
pub fn options_below(dir: &Path) -> Options {
    Options {
        root: dir.join("root"),
        run: dir.join("run"),
        network: cni::NetworkConfig {
            bridge: "longshore0".to_owned(),
            pod_cidr: "10.99.0.0/24".parse().expect("a network"),
            no_masquerade: Vec::new(),
            leases: dir.join("root/leases"),
            mtu: None,
            instance: cni::Instance::of_root(dir),
        },
        registries: RegistryConfig::default(),
    }
}

/// Puts [`IMAGE`] into the store.
///
/// # Errors
/// When busybox-static is not installed, or the import fails.
pub async fn import(runtime: &Embedded, place: &Place) -> Result<()> {
    let folder = place.path("image");
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("etc"))?;
    fs::create_dir_all(folder.join("tmp"))?;
    fs::copy("/bin/busybox", folder.join("bin/busybox")).context("busybox-static is needed")?;
    fs::set_permissions(folder.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for applet in [
        "sh", "sleep", "cat", "echo", "id", "hostname", "ls", "nc", "httpd", "wget", "ps", "mount", "stty", "head",
        "dd", "tail", "mkdir", "ip", "kill", "true", "false", "grep", "od", "tr", "setsid",
    ] {
        symlink("busybox", folder.join("bin").join(applet))?;
    }
    fs::write(folder.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")?;
    fs::write(folder.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")?;
    runtime.images().import(&folder, Some(&IMAGE.parse()?)).await?;
    Ok(())
}

/// What is left of a runtime: processes, mounts, cgroups, links, rules, pods' and containers' folders.
pub fn left(place: &Place) -> Vec<String> {
    let mut left = place.leftovers();
    for folder in ["run/pods", "root/snapshots", "root/leases"] {
        let entries = fs::read_dir(place.path(folder)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    left
}

/// The configuration of a pod that is called `name`.
pub fn pod(place: &Place, name: &str) -> v1::PodSandboxConfig {
    pod_below(place.dir.path(), &place.cgroup(), name)
}

/// The configuration of a pod whose logs are below `dir` and whose cgroup is below `cgroup`.
pub fn pod_below(dir: &Path, cgroup: &str, name: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: dir.join("podlogs").join(name).display().to_string(),
        dns_config: Some(v1::DnsConfig { servers: vec!["192.0.2.53".to_owned()], ..Default::default() }),
        labels: HashMap::from([("app".to_owned(), name.to_owned())]),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("{cgroup}/pod-{name}"),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What the kubelet asks for unless a pod says otherwise: pids are a container's own.
pub fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() }
}

/// The configuration of a container that runs `script` in a shell.
pub fn container(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        labels: HashMap::from([("part".to_owned(), name.to_owned())]),
        log_path: format!("{name}/0.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources::default()),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A pod with calls that are made again and again; works with every implementation of the trait.
pub struct Pod {
    runtime: Arc<dyn Runtime>,
    config: v1::PodSandboxConfig,
    /// Its sandbox id.
    pub id: String,
}

impl Pod {
    /// Runs its sandbox.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn run(runtime: Arc<dyn Runtime>, config: v1::PodSandboxConfig) -> Result<Self> {
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = runtime.run_pod_sandbox(request, by()).await?.pod_sandbox_id;
        Ok(Self { runtime, config, id })
    }

    /// A pod that is there already.
    pub fn found(runtime: Arc<dyn Runtime>, config: v1::PodSandboxConfig, id: String) -> Self {
        Self { runtime, config, id }
    }

    /// Makes a container; its id comes back.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn create(&self, config: v1::ContainerConfig) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        Ok(self.runtime.create_container(request, by()).await?.container_id)
    }

    /// Makes and starts a container that runs `script`; its id comes back.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn start(&self, name: &str, script: &str) -> Result<String> {
        self.start_with(container(name, script)).await
    }

    /// Makes and starts a container; its id comes back.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn start_with(&self, config: v1::ContainerConfig) -> Result<String> {
        let id = self.create(config).await?;
        self.runtime.start_container(v1::StartContainerRequest { container_id: id.clone() }, by()).await?;
        Ok(id)
    }

    /// The status of its sandbox.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn status(&self) -> Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        self.runtime.pod_sandbox_status(request, by()).await?.status.context("no status")
    }

    /// The status of a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn look(&self, container: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false };
        self.runtime.container_status(request, by()).await?.status.context("no status")
    }

    /// Waits until a container has ended; its last status comes back.
    ///
    /// # Errors
    /// It does not end.
    pub async fn ended(&self, container: &str) -> Result<v1::ContainerStatus> {
        let until = Instant::now() + SOON;
        loop {
            let status = self.look(container).await?;
            if status.state() == v1::ContainerState::ContainerExited {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "container {container} does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn exec(&self, container: &str, script: &str) -> Result<v1::ExecSyncResponse> {
        let cmd = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let request = v1::ExecSyncRequest { container_id: container.to_owned(), cmd, timeout: 20 };
        Ok(self.runtime.exec_sync(request, by()).await?)
    }

    /// What a command in a container prints.
    ///
    /// # Errors
    /// It fails.
    pub async fn print(&self, container: &str, script: &str) -> Result<String> {
        let answer = self.exec(container, script).await?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(answer.exit_code == 0, "{script}: exit code {}: {said}", answer.exit_code);
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// What a container has logged so far: stream and text of each line.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn log(&self, container: &str) -> Result<Vec<String>> {
        let path = PathBuf::from(self.look(container).await?.log_path);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest).to_owned()).collect())
    }

    /// Waits until a container has logged a line with `text`.
    ///
    /// # Errors
    /// It does not.
    pub async fn says(&self, container: &str, text: &str) -> Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let log = self.log(container).await.unwrap_or_default();
            if log.iter().any(|line| line.contains(text)) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "container {container} does not say {text:?}: {log:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The first process of a running container, as the node sees it.
    ///
    /// # Errors
    /// It does not run.
    pub async fn pid(&self, container: &str) -> Result<i32> {
        let request = v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        let info = self.runtime.container_status(request, by()).await?.info;
        let pid: i32 = info.get("pid").context("no pid")?.parse()?;
        ensure!(pid > 0, "container {container} does not run");
        Ok(pid)
    }

    /// Stops a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn stop_container(&self, container: &str, grace: i64) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: container.to_owned(), timeout: grace };
        self.runtime.stop_container(request, by()).await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove_container(&self, container: &str) -> Result<()> {
        self.runtime.remove_container(v1::RemoveContainerRequest { container_id: container.to_owned() }, by()).await?;
        Ok(())
    }

    /// Stops and removes it with its containers, and removes the cgroup that a kubelet would have made.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove(&self) -> Result<()> {
        let pod_sandbox_id = self.id.clone();
        self.runtime
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }, by())
            .await?;
        self.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }, by()).await?;
        let cgroup = self.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        crate::agent::remove_cgroup(&cgroup)
    }
}

/// Soon enough for every call.
pub fn by() -> Deadline {
    Deadline::within(SOON)
}

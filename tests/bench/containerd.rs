//! The same pods through containerd's CRI, with runc and the bridge plugin: no kubelet, so less work than ours.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_proto::{Client, Deadline, Runtime, v1};
use tests::agent::{Place, busybox, packed};

use crate::fifo::{Lines, command};
use crate::{AT_ONCE, IN_A_ROW, Starts, Times};

/// A containerd of its own: socket, state and images in a place that goes away.
struct Containerd {
    place: Place,
    child: Child,
}

impl Containerd {
    fn start() -> Result<Self> {
        for program in ["containerd", "runc"] {
            ensure!(Command::new("which").arg(program).stdout(Stdio::null()).status()?.success(), "no {program} here");
        }
        ensure!(std::path::Path::new("/usr/lib/cni/bridge").exists(), "no containernetworking-plugins here");
        let place = Place::new()?;
        let path = |name: &str| place.path(name).display().to_string();
        std::fs::create_dir_all(place.path("cni"))?;
        std::fs::write(place.path("cni/10-bench.conflist"), CNI)?;
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = \"docker.io/library/pause:bench\"\nrestrict_oom_score_adj = true\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n",
            path("root"),
            path("state"),
            path("socket"),
            path("cni")
        );
        std::fs::write(place.path("config.toml"), config)?;
        let log = std::fs::File::create(place.path("log"))?;
        let child = place
            .command("containerd")
            .args(["--config", &path("config.toml")])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let it = Self { place, child };
        it.wait_for_socket()?;
        it.import(busybox()?)?;
        it.import(packed("pause.tar", &["docker.io/library/pause:bench", "sleep", "1000000"])?)?;
        Ok(it)
    }

    fn socket(&self) -> PathBuf {
        self.place.path("socket")
    }

    fn wait_for_socket(&self) -> Result<()> {
        let by = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            ensure!(Instant::now() < by, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn import(&self, image: PathBuf) -> Result<()> {
        let socket = self.socket().display().to_string();
        let output =
            Command::new("ctr").args(["-a", &socket, "-n", "k8s.io", "images", "import"]).arg(image).output()?;
        ensure!(output.status.success(), "ctr: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const CNI: &str = r#"{"cniVersion": "1.0.0", "name": "bench", "plugins": [{"type": "bridge", "bridge": "bench0",
  "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/16"}]],
  "routes": [{"dst": "0.0.0.0/0"}]}}, {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

pub(crate) fn measure() -> Result<Starts> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let containerd = Containerd::start()?;
    let lines = Lines::in_folder(&containerd.place.path("host/bench"))?;
    let starts = runtime.block_on(async {
        let client = Client::connect(containerd.socket()).await.context("containerd")?;
        let pods = Pods { client, bench: lines.folder().display().to_string(), cgroup: containerd.place.cgroup() };
        let mut times = Vec::new();
        let mut made = Vec::new();
        for n in 0..IN_A_ROW {
            let name = format!("row-{n}");
            let asked = Instant::now();
            made.push(pods.start(&name).await?);
            times.push(lines.wait(&name)?.duration_since(asked));
        }
        let asked = Instant::now();
        let names: Vec<_> = (0..AT_ONCE).map(|n| format!("burst-{n}")).collect();
        made.extend(together(names.iter().map(|name| pods.start(name))).await?);
        let at_once = lines.wait_for(AT_ONCE)?.duration_since(asked);
        for id in made {
            pods.remove(id).await?;
        }
        anyhow::Ok(Starts { in_a_row: Times::of(times), at_once })
    })?;
    Ok(starts)
}

/// All of them at the same time.
async fn together<T>(work: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    futures::future::try_join_all(work).await
}

struct Pods {
    client: Client,
    bench: String,
    cgroup: String,
}

impl Pods {
    async fn start(&self, name: &str) -> Result<String> {
        let by = Deadline::within(Duration::from_secs(120));
        let metadata =
            v1::PodSandboxMetadata { name: name.into(), uid: name.into(), namespace: "bench".into(), attempt: 0 };
        let linux = v1::LinuxPodSandboxConfig { cgroup_parent: self.cgroup.clone(), ..Default::default() };
        let config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.into(),
            linux: Some(linux),
            ..Default::default()
        };
        let sandbox = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let pod_sandbox_id = self.client.run_pod_sandbox(sandbox, by).await?.pod_sandbox_id;
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "docker.io/library/busybox:latest".into(), ..Default::default() }),
            command: command(name),
            mounts: vec![v1::Mount {
                container_path: "/bench".into(),
                host_path: self.bench.clone(),
                ..Default::default()
            }],
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let create = v1::CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container_id = self.client.create_container(create, by).await?.container_id;
        self.client.start_container(v1::StartContainerRequest { container_id }, by).await?;
        Ok(pod_sandbox_id)
    }

    async fn remove(&self, pod_sandbox_id: String) -> Result<()> {
        let by = Deadline::within(Duration::from_secs(120));
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.client.stop_pod_sandbox(stop, by).await?;
        self.client.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }, by).await?;
        Ok(())
    }
}

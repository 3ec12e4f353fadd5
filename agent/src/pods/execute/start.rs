use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cri_proto::{Kind, v1};
use k8s_openapi::api::core::v1::{Container, VolumeDevice};

use super::setup::make_dir;
use super::{Failed, Job};
use crate::container::env::{EnvFiles, EnvInputs, env, files_of};
use crate::container::hostname::hostname;
use crate::container::hosts::hosts_file;
use crate::container::mounts::{ImageSource, OwnFiles, Source, mounts, sub_path};
use crate::container::{ContainerInputs, container_config, logs, on_host_network};
use crate::errors::chain;
use crate::events::EventType::{Normal, Warning};
use crate::pods::roles::{self, Member};
use crate::pods::step::Start;
use crate::resources::cgroup_values;
use crate::volumes::SubPath;

/// The node's own hosts file may be long, but not this long.
const HOSTS_MAX: u64 = 1 << 20;
/// A container wrote it: variables of this size would not fit into a process.
const ENV_FILE_MAX: u64 = 1 << 20;

impl Job {
    /// Makes and starts a container, and runs its postStart hook.
    pub(super) async fn start(&self, start: Start) -> Result<(), Failed> {
        let Some(member) = roles::member(self.pod(), &start.container) else {
            return Err(Failed::new("CreateContainerConfigError", "the pod has no such container"));
        };
        if let Some(old) = &start.replaces {
            self.discard(old).await?;
        }
        let restarts = start.restarts.unwrap_or_else(|| self.restarts_by_logs(&start.container));
        let config = self.config(&member, restarts).await.map_err(|text| self.refused(&start, text))?;
        let id = self.create(&start, config).await?;
        if self.ending.is_cancelled() {
            return Ok(());
        }
        let request = v1::StartContainerRequest { container_id: id.clone() };
        if let Err(error) = self.tools.runtime.start_container(request, self.tools.soon()).await {
            // People know the container by its name.
            let text = error.to_string().replace(&id, &start.container);
            return Err(self.failed(&start.container, "RunContainerError", text));
        }
        self.tools.say_of(self.pod(), &start.container, Normal, "Started", "Container started");
        self.link_log(&start.container, restarts, &id);
        self.post_start(&member.container, &id).await
    }

    async fn create(&self, start: &Start, config: v1::ContainerConfig) -> Result<String, Failed> {
        let sandbox = self.sandbox_config(self.attempt, false).await;
        let sandbox = sandbox.map_err(|text| self.refused(start, text))?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: start.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        match self.tools.runtime.create_container(request, self.tools.soon()).await {
            Ok(made) => {
                self.tools.say_of(self.pod(), &start.container, Normal, "Created", "Container created");
                Ok(made.container_id)
            }
            Err(error) => Err(self.failed(&start.container, "CreateContainerError", error.to_string())),
        }
    }

    async fn discard(&self, id: &str) -> Result<(), Failed> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        match self.tools.runtime.remove_container(request, self.tools.soon()).await {
            Err(error) if error.kind != Kind::NotFound => {
                Err(Failed::new("CreateContainerError", format!("removing what was made before: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn refused(&self, start: &Start, text: String) -> Failed {
        self.failed(&start.container, "CreateContainerConfigError", text)
    }

    fn failed(&self, container: &str, reason: &'static str, text: String) -> Failed {
        self.tools.say_of(self.pod(), container, Warning, "Failed", format!("Error: {text}"));
        Failed::new(reason, text)
    }

    /// Everything that the runtime is told; files that the container mounts are written on the way.
    async fn config(&self, member: &Member<'_>, restarts: u32) -> Result<v1::ContainerConfig, String> {
        let (tools, pod, container) = (&self.tools, self.pod(), &*member.container);
        let image = self.image.clone().unwrap_or_default();
        let env = env(&EnvInputs {
            pod,
            container,
            objects: &self.want.within.objects,
            allocatable: &tools.allocatable,
            pod_ips: &self.ips,
            host_ips: &tools.node_ips(),
            files: &self.env_files(container),
        })
        .map_err(|error| chain(&error))?;
        let sources = self.sources(container, |name| env.text(name)).await?;
        let own = self.own_files(container).map_err(|error| format!("writing files for the container: {error}"))?;
        let log_dir = logs::pod_dir(&tools.config.dirs.logs, pod).join(&container.name);
        make_dir(&log_dir, 0o755).map_err(|error| format!("making the log directory: {error}"))?;
        let config = container_config(ContainerInputs {
            pod,
            container,
            image: &image,
            restarts,
            env: &env,
            mounts: mounts(container, &sources, &own),
            resources: cgroup_values::container_resources(pod, container, &tools.cgroup_facts),
            seccomp_profiles: &tools.config.dirs.seccomp(),
            ids: self.ids()?,
        });
        let mut config = config.map_err(|error| chain(&error))?;
        self.join_groups(&mut config);
        config.devices = self.devices(container)?;
        if let Some(target) = member.target {
            self.join_processes(&mut config, target).await?;
        }
        Ok(config)
    }

    /// Block volumes, where the container wants them.
    fn devices(&self, container: &Container) -> Result<Vec<v1::Device>, String> {
        let volumes = self.volumes.clone().unwrap_or_default();
        let one = |wanted: &VolumeDevice| match volumes.get(&wanted.name).filter(|volume| volume.device) {
            Some(volume) => Ok(v1::Device {
                container_path: wanted.device_path.clone(),
                host_path: volume.host_path.display().to_string(),
                permissions: if volume.read_only { "r" } else { "mrw" }.to_owned(),
            }),
            None => Err(format!("container {} uses volume {:?}, which is no device", container.name, wanted.name)),
        };
        container.volume_devices.iter().flatten().map(one).collect()
    }

    /// Every container of the pod is in the groups that its volumes' files belong to.
    fn join_groups(&self, config: &mut v1::ContainerConfig) {
        let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        if let (Some(security), Some(volumes)) = (security, &self.volumes) {
            let more = volumes.groups(&security.supplemental_groups);
            security.supplemental_groups.extend(more);
        }
    }

    /// An ephemeral container sees the processes of its target, where each container has its own.
    async fn join_processes(&self, config: &mut v1::ContainerConfig, target: &str) -> Result<(), String> {
        let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        let Some(options) = security.and_then(|security| security.namespace_options.as_mut()) else { return Ok(()) };
        if options.pid() != v1::NamespaceMode::Container {
            return Ok(());
        }
        let seen = self.present().await.map_err(|failed| failed.message)?;
        let found = seen.newest(target).ok_or_else(|| format!("unable to find target container {target}"))?;
        options.pid = v1::NamespaceMode::Target as i32;
        options.target_id = found.id.clone();
        Ok(())
    }

    /// The files that variables come from; a volume that is not mounted has none.
    fn env_files(&self, container: &Container) -> EnvFiles {
        let volumes = self.volumes.clone().unwrap_or_default();
        let read = |(volume, path): (&str, &str)| {
            let root = volumes.host_path(volume)?;
            Some(((volume.to_owned(), path.to_owned()), read_below(root, path).ok()))
        };
        files_of(container).filter_map(read).collect()
    }

    async fn sources(
        &self,
        container: &Container,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<Source>, String> {
        let volumes = self.volumes.clone().unwrap_or_default();
        let mut sources = Vec::new();
        for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let volume = volumes.get(&mount.name).ok_or_else(|| {
                format!("container {} mounts volume {:?}, which is not mounted", container.name, mount.name)
            })?;
            let wanted = sub_path(mount, &lookup).map_err(|error| chain(&error))?;
            let image = volume
                .image
                .as_ref()
                .map(|image| ImageSource { reference: image.name(), sub_path: wanted.clone().unwrap_or_default() });
            let host_path = match &wanted {
                Some(path) if image.is_none() => {
                    let sub = SubPath { volume: &mount.name, container: &container.name, index, path };
                    let made = self.tools.volumes.subpath(&self.uid, sub, &volumes).await;
                    made.map_err(|error| chain(&error))?
                }
                _ => volume.host_path.clone(),
            };
            sources.push(Source { host_path, read_only: volume.read_only, managed: volume.managed, image });
        }
        Ok(sources)
    }

    fn own_files(&self, container: &Container) -> io::Result<OwnFiles> {
        let dir = self.tools.memory.dir(&self.uid);
        let has_hosts = on_host_network(self.pod()) || !self.ips.is_empty();
        let hosts = if has_hosts { Some(self.hosts(&dir)?) } else { None };
        let messages = dir.join("containers").join(&container.name);
        make_dir(&messages, 0o750)?;
        Ok(OwnFiles { hosts, message: message_file(&messages)? })
    }

    /// Written in place: containers that run have this very file mounted.
    fn hosts(&self, dir: &Path) -> io::Result<PathBuf> {
        let config = &self.tools.config;
        let name = hostname(self.pod(), &config.dns.cluster_domain).map_err(io::Error::other)?;
        let node = if on_host_network(self.pod()) { read_capped(&config.dns.hosts)? } else { String::new() };
        let text = hosts_file(self.pod(), &self.ips, &name, &node);
        let path = dir.join("etc-hosts");
        if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        Ok(path)
    }

    fn restarts_by_logs(&self, container: &str) -> u32 {
        let dir = logs::pod_dir(&self.tools.config.dirs.logs, self.pod()).join(container);
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        logs::restarts_after(names.iter().map(String::as_str))
    }

    /// The legacy link is a courtesy to log collectors: without it the container runs all the same.
    fn link_log(&self, container: &str, restarts: u32, id: &str) {
        let dirs = &self.tools.config.dirs;
        let Some(links) = &dirs.log_links else { return };
        let log = logs::pod_dir(&dirs.logs, self.pod()).join(logs::relative(container, restarts));
        let link = links.join(logs::link_name(self.pod(), container, id));
        if let Err(error) = std::os::unix::fs::symlink(&log, &link) {
            tracing::debug!(link = %link.display(), %error, "linking a container's log");
        }
    }
}

/// A fresh file that the container may write its last words to, whoever it runs as.
fn message_file(dir: &Path) -> io::Result<PathBuf> {
    let mut random = [0_u8; 4];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let path = dir.join(format!("{:08x}", u32::from_be_bytes(random)));
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

/// Links lead nowhere but below `root`, as they do for whoever wrote the file.
fn read_below(root: &Path, path: &str) -> io::Result<String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A pipe without a writer must not hold the pod up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let file = fs::File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(ENV_FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > ENV_FILE_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn read_capped(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    match fs::File::open(path) {
        Ok(file) => file.take(HOSTS_MAX).read_to_string(&mut text).map(|_| text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(text),
        Err(error) => Err(error),
    }
}

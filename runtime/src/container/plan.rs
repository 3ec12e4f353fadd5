//! What will be started, decided from configuration, image, sandbox and machine, and written where the shim looks.

use std::path::{Path, PathBuf};

use cri_proto::Kind;
use cri_proto::v1::{self, NamespaceMode};
use oci_spec::runtime::{LinuxSeccomp, Spec};
use tracing::warn;

use super::Container;
use crate::cgroups::{CgroupError, CgroupPath, DeviceRule};
use crate::containers::{
    DeviceFacts, Identity, ImageDefaults, LaunchFacts, SandboxFacts, SandboxNamespaces, launch, propagation, seccomp,
    spec,
};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::ids::ContainerId;
use crate::images::users::{self, GroupsPolicy, UserSpec};
use crate::images::{Image, Snapshot};
use crate::sandbox::{self, Sandbox};
use crate::service::view;
use crate::state::facts;
use crate::state::files::replace;
use crate::state::records::UserRecord;

/// Decides what will be started, and writes it where the shim looks.
pub(super) fn plan(
    core: &Core,
    sandbox: &Sandbox,
    container: &Container,
    image: &Image,
    snapshot: &Snapshot,
    images: &[(usize, PathBuf)],
) -> Result<(), LifeError> {
    let mut config = v1::ContainerConfig::clone(&container.config());
    for (at, place) in images {
        if let Some(mount) = config.mounts.get_mut(*at) {
            mount.host_path = place.to_string_lossy().into_owned();
        }
    }
    propagation::check(&config).doing(|| "checking its mounts".into())?;
    if sandbox.users().is_some() {
        super::mapped::map(sandbox, container, &mut config)?;
    }
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    let identity = identify(&security, image, snapshot).doing(|| "finding out who it runs as".into())?;
    let cgroup = CgroupPath::new(&container.record().cgroup).doing(|| "naming its cgroup".into())?;
    let built = spec::build(&spec::Request {
        id: container.id.as_str(),
        sandbox_id: sandbox.id.as_str(),
        config: &config,
        pod: &sandbox.config,
        image: &defaults(image),
        identity: &identity,
        sandbox: &sandbox_facts(sandbox, &options(&config))?,
        host: &core.host,
        devices: &DeviceFacts::read(&config).doing(|| "looking for its devices".into())?,
        seccomp_profile: seccomp_profile(&security)?.as_ref(),
        root: &snapshot.root,
        cgroup: &cgroup,
    })
    .doing(|| "deciding its configuration".into())?;
    for warning in &built.warnings {
        warn!(container = %container.id, name = %container.name, "{warning}");
    }
    make_mount_sources(&built.mount_sources)?;
    write(core, sandbox, container, &cgroup, &built.spec)?;
    let user = UserRecord { uid: identity.uid, gid: identity.gid, groups: identity.groups };
    container.made(user).doing(|| "writing its record".into())
}

fn write(
    core: &Core,
    sandbox: &Sandbox,
    container: &Container,
    cgroup: &CgroupPath,
    spec: &Spec,
) -> Result<(), LifeError> {
    restrict_devices(core, cgroup, spec).doing(|| "restricting its devices".into())?;
    let facts = LaunchFacts {
        cgroups: core.cgroups.entry_files(cgroup),
        cgroup_binds: core.cgroups.container_binds(cgroup),
        programs: &core.programs,
    };
    let launch = launch::container(spec, &facts).doing(|| "deciding how it is started".into())?;
    let (dir, config) = (&container.dir, container.config());
    let text = serde_json::to_vec(spec).doing(|| "encoding its OCI spec".into())?;
    let log = view::log_path(&sandbox.config, &config);
    make_log_dir(&log)?;
    let stdin = match (config.stdin, config.stdin_once) {
        (false, _) => "no",
        (true, true) => "once",
        (true, false) => "open",
    };
    let files: [(_, &[u8]); 4] = [
        (dir.spec(), &text),
        (dir.launch(), &launch.encode()),
        (dir.log(), log.as_bytes()),
        (dir.stdin(), stdin.as_bytes()),
    ];
    files.iter().try_for_each(|(path, content)| replace(path, content)).doing(|| "writing what to start".into())
}

/// Its limits are there already; what it may do with devices follows from its spec.
fn restrict_devices(core: &Core, cgroup: &CgroupPath, spec: &Spec) -> Result<(), CgroupError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref()).map(|rules| DeviceRule::of_spec(rules));
    // No rules at all would mean no restriction at all.
    let rules = rules.unwrap_or_else(|| vec![DeviceRule::NOTHING]);
    core.cgroups.restrict_devices(cgroup, &rules)
}

/// The kubelet makes it; other callers may not.
fn make_log_dir(log: &str) -> Result<(), LifeError> {
    let Some(parent) = Path::new(log).parent().filter(|parent| !log.is_empty() && !parent.is_dir()) else {
        return Ok(());
    };
    std::fs::create_dir_all(parent).doing(|| format!("making its log directory {}", parent.display()))
}

pub(super) fn make_mount_sources(sources: &[PathBuf]) -> Result<(), LifeError> {
    let missing = sources.iter().filter(|source| !source.exists());
    missing.into_iter().try_for_each(|source| {
        std::fs::create_dir_all(source).doing(|| format!("making the missing mount source {}", source.display()))
    })
}

fn defaults(image: &Image) -> ImageDefaults {
    let config = image.config.clone();
    ImageDefaults {
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        env: config.env,
        working_dir: config.working_dir,
        stop_signal: config.stop_signal.unwrap_or_default(),
    }
}

fn seccomp_profile(security: &v1::LinuxContainerSecurityContext) -> Result<Option<LinuxSeccomp>, LifeError> {
    match &security.seccomp {
        Some(profile)
            if profile.profile_type() == v1::security_profile::ProfileType::Localhost && !security.privileged =>
        {
            let path = Path::new(&profile.localhost_ref);
            seccomp::read_profile(path).map(Some).doing(|| format!("reading the seccomp profile {}", path.display()))
        }
        _ => Ok(None),
    }
}

/// What the container takes from its sandbox.
fn sandbox_facts(sandbox: &Sandbox, options: &v1::NamespaceOption) -> Result<SandboxFacts, LifeError> {
    let own = |mode: NamespaceMode| mode != NamespaceMode::Node;
    let pod = sandbox.namespace_options();
    let pause = facts::process(&sandbox.dir.pause_pid()).doing(|| "looking for the pause".into())?;
    let gone = || LifeError::new(Kind::FailedPrecondition, "the sandbox has no pause");
    let held = SandboxNamespaces::of_process(pause.ok_or_else(gone)?.pid);
    let (network, ipc) = (own(pod.network()), own(pod.ipc()));
    Ok(SandboxFacts {
        namespaces: SandboxNamespaces {
            network: sandbox.netns(),
            ipc: held.ipc.filter(|_| ipc),
            uts: held.uts.filter(|_| network),
            pid: held.pid.filter(|_| pod.pid() == NamespaceMode::Pod),
            user: sandbox.users(),
        },
        target_pid: target(sandbox, options)?,
        hostname: match sandbox.config.hostname.as_str() {
            name if network && !name.is_empty() => name.to_owned(),
            _ => sandbox::make::node_name(),
        },
        resolv_conf: Some(sandbox.dir.resolv_conf()),
        hostname_file: Some(sandbox.dir.hostname()),
        hosts_file: Some(sandbox.dir.hosts()),
        shm: ipc.then(|| sandbox.dir.shm()),
    })
}

/// The process whose pid namespace an ephemeral container joins.
fn target(sandbox: &Sandbox, options: &v1::NamespaceOption) -> Result<Option<i32>, LifeError> {
    if options.pid() != NamespaceMode::Target {
        return Ok(None);
    }
    let id = &options.target_id;
    let container = ContainerId::try_from(id.as_str()).ok().and_then(|id| sandbox.container(&id));
    let running = container.and_then(|container| container.running());
    let why =
        || LifeError::new(Kind::FailedPrecondition, format!("the target container {id:?} does not run in its sandbox"));
    running.map(|running| Some(running.pid)).ok_or_else(why)
}

/// Looks the user up in the image's own files.
fn identify(
    security: &v1::LinuxContainerSecurityContext,
    image: &Image,
    snapshot: &Snapshot,
) -> Result<Identity, LifeError> {
    let spec = user_spec(security, &image.config.user)?;
    let policy = match security.supplemental_groups_policy() {
        v1::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        v1::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    };
    let found = users::resolve(&snapshot.root, &spec, policy)
        .map_err(|error| LifeError::new(Kind::InvalidArgument, chain(&error)))?;
    Ok(Identity { uid: found.uid, gid: found.gid, groups: found.groups })
}

/// A number of the pod wins over its name, and both over the image.
fn user_spec(security: &v1::LinuxContainerSecurityContext, of_image: &str) -> Result<UserSpec, LifeError> {
    let id = |number: i64| {
        let why = || LifeError::new(Kind::InvalidArgument, format!("{number} is no user or group id"));
        u32::try_from(number).ok().filter(|id| *id <= users::MAX_ID).ok_or_else(why)
    };
    let user = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(number), _) => id(number.value)?.to_string(),
        (None, "") => of_image.to_owned(),
        (None, name) => name.to_owned(),
    };
    let group = security.run_as_group.as_ref().map(|number| id(number.value)).transpose()?;
    let extra = security.supplemental_groups.iter().map(|number| id(*number)).collect::<Result<_, _>>()?;
    Ok(UserSpec { user, group, extra })
}

/// The namespace modes of a container; what it leaves out is `POD`.
pub(super) fn options(config: &v1::ContainerConfig) -> v1::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_id_is_refused_and_never_wrapped() {
        let with = |value| v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value }),
            ..Default::default()
        };
        assert_eq!(user_spec(&with(1000), "app").unwrap().user, "1000");
        for bad in [-1, 1 << 32, i64::MAX, i64::from(u32::MAX)] {
            assert_eq!(user_spec(&with(bad), "app").unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
        assert_eq!(user_spec(&v1::LinuxContainerSecurityContext::default(), "app").unwrap().user, "app");
    }
}

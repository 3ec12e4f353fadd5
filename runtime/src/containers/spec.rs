//! A CRI container configuration as an OCI spec, as containerd's CRI plugin would make it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use cri_proto::v1::{self, security_profile::ProfileType};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxSeccomp, Root, Spec};

use super::capabilities::{Granted, granted};
use super::mounts::Circumstances;
use super::{
    DeviceFacts, HostFacts, Identity, ImageDefaults, SandboxFacts, SpecError, Warning, devices, mounts, namespaces,
    process, resources, seccomp,
};
use crate::cgroups::CgroupPath;

/// Version of the OCI runtime specification that the spec follows.
const OCI_VERSION: &str = "1.0.2";

/// Everything a container's spec is made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Container id; the last part of its cgroup.
    pub id: &'a str,
    /// Sandbox id, for the annotations.
    pub sandbox_id: &'a str,
    /// What is wanted.
    pub config: &'a v1::ContainerConfig,
    /// The sandbox's configuration.
    pub pod: &'a v1::PodSandboxConfig,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// Who the process is.
    pub identity: &'a Identity,
    /// What the sandbox holds.
    pub sandbox: &'a SandboxFacts,
    /// What the machine can.
    pub host: &'a HostFacts,
    /// Devices the container names ([`DeviceFacts::read`]).
    pub devices: &'a DeviceFacts,
    /// The profile of a Localhost seccomp reference ([`seccomp::read_profile`]), where the container names one.
    pub seccomp_profile: Option<&'a LinuxSeccomp>,
    /// The container's mounted root file system on the host.
    pub root: &'a Path,
    /// The container's own cgroup ([`cgroup_path`]).
    pub cgroup: &'a CgroupPath,
}

/// A spec and what comes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Built {
    /// To be written as the bundle's `config.json`.
    pub spec: Spec,
    /// To be logged once.
    pub warnings: Vec<Warning>,
    /// Host paths of mounts: to be made as directories (0755) where they are missing, before the start.
    pub mount_sources: Vec<PathBuf>,
}

/// The container's cgroup: its id below the pod's, or below `/longshore` for a pod that names none.
///
/// # Errors
/// [`crate::cgroups::CgroupError`] for a parent that is no path, or a systemd slice.
pub fn cgroup_path(pod: &v1::PodSandboxConfig, id: &str) -> Result<CgroupPath, crate::cgroups::CgroupError> {
    let parent = pod.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
    CgroupPath::new(if parent.is_empty() { "/longshore" } else { parent })?.child(id)
}

/// Decides the whole spec.
///
/// # Errors
/// [`SpecError`]: what is wanted contradicts itself, or cannot be had here.
pub fn build(request: &Request<'_>) -> Result<Built, SpecError> {
    refuse_foreign(request.config)?;
    let security = security(request.config);
    let mut warnings = Vec::new();
    warnings.extend(selinux(&security, request.host)?);
    let (granted, warning) = granted(security.capabilities.as_ref(), security.privileged, request.host.capabilities)?;
    warnings.extend(warning);
    let (apparmor, warning) = apparmor(&security, request.host)?;
    warnings.extend(warning);
    let (score, warning) = score(request)?;
    warnings.extend(warning);
    let options = security.namespace_options.as_ref();
    let mounts = mounts::mounts(
        &request.config.mounts,
        &Circumstances {
            sandbox: request.sandbox,
            privileged: security.privileged,
            readonly_root: security.readonly_rootfs,
            node_ipc: options.is_some_and(|options| options.ipc == v1::NamespaceMode::Node as i32),
        },
    )?;
    let process = process::process(&process::Parts {
        config: request.config,
        image: request.image,
        identity: request.identity,
        hostname: &request.sandbox.hostname,
        host: request.host,
        granted,
        apparmor,
        oom_score_adj: Some(score),
    })?;
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root(request.root, security.readonly_rootfs)))
        .set_process(Some(process))
        .set_mounts(Some(mounts.list))
        // The UTS namespace is the sandbox's; a name here would rename it.
        .set_hostname(None)
        .set_annotations(Some(annotations(request)))
        .set_linux(Some(linux(request, &security, granted, mounts.root_propagation)?));
    Ok(Built { spec, warnings, mount_sources: mounts.sources })
}

fn security(config: &v1::ContainerConfig) -> v1::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

fn refuse_foreign(config: &v1::ContainerConfig) -> Result<(), SpecError> {
    if config.windows.is_some() && config.linux.is_none() {
        return Err(SpecError::Windows);
    }
    match config.cdi_devices.first() {
        Some(device) => Err(SpecError::CdiDevice(device.name.clone())),
        None => Ok(()),
    }
}

fn root(path: &Path, readonly: bool) -> Root {
    let mut root = Root::default();
    root.set_path(path.to_owned()).set_readonly(Some(readonly));
    root
}

/// Every field that `oci_spec` would fill in by itself is set.
fn linux(
    request: &Request<'_>,
    security: &v1::LinuxContainerSecurityContext,
    granted: Granted,
    propagation: Option<&'static str>,
) -> Result<Linux, SpecError> {
    let devices = devices::devices(&request.config.devices, security.privileged, request.devices)?;
    let wanted = request.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let namespaces = namespaces::namespaces(
        security.namespace_options.as_ref(),
        security.privileged,
        request.sandbox,
        request.host.cgroups,
    )?;
    let hidden = |paths: &[String]| Some(if security.privileged { Vec::new() } else { paths.to_vec() });
    let ids = request.sandbox.namespaces.user.as_ref();
    let mut linux = Linux::default();
    linux
        .set_uid_mappings(ids.map(|ids| vec![mapping(ids.uid, ids.length)]))
        .set_gid_mappings(ids.map(|ids| vec![mapping(ids.gid, ids.length)]))
        .set_namespaces(Some(namespaces))
        .set_resources(Some(resources::resources(wanted, devices.rules)))
        .set_devices(Some(devices.nodes))
        .set_cgroups_path(Some(request.cgroup.as_str().into()))
        .set_seccomp(seccomp(security, granted, request)?)
        .set_rootfs_propagation(propagation.map(str::to_owned))
        .set_masked_paths(hidden(&security.masked_paths))
        .set_readonly_paths(hidden(&security.readonly_paths))
        .set_mount_label(None)
        .set_sysctl(None);
    Ok(linux)
}

fn mapping(host: u32, length: u32) -> LinuxIdMapping {
    let made = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(host).size(length).build();
    // It fails only where a field is left out.
    made.unwrap_or_default()
}

/// Without a word about seccomp the default profile holds: less confined only by request.
fn seccomp(
    security: &v1::LinuxContainerSecurityContext,
    granted: Granted,
    request: &Request<'_>,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    if security.privileged {
        return Ok(None);
    }
    let (kind, reference) = match &security.seccomp {
        Some(profile) => (profile.profile_type, profile.localhost_ref.as_str()),
        None => (ProfileType::RuntimeDefault as i32, ""),
    };
    match ProfileType::try_from(kind) {
        Ok(ProfileType::RuntimeDefault) => Ok(Some(seccomp::runtime_default(granted.set))),
        Ok(ProfileType::Unconfined) => Ok(None),
        Ok(ProfileType::Localhost) => {
            let missing = || SpecError::SeccompProfileMissing(reference.to_owned());
            request.seccomp_profile.cloned().map(Some).ok_or_else(missing)
        }
        Err(_) => Err(SpecError::UnknownValue { field: "seccomp", value: kind }),
    }
}

/// As in containerd: nothing said means the default profile, and a privileged container has none of it.
fn apparmor(
    security: &v1::LinuxContainerSecurityContext,
    host: &HostFacts,
) -> Result<(Option<String>, Option<Warning>), SpecError> {
    let kind = security.apparmor.as_ref().map(|profile| ProfileType::try_from(profile.profile_type));
    let kind = kind.transpose().map_err(|error| SpecError::UnknownValue { field: "apparmor", value: error.0 })?;
    let name = security.apparmor.as_ref().map_or("", |profile| profile.localhost_ref.as_str());
    match (host.apparmor, kind) {
        (_, Some(ProfileType::Unconfined)) | (false, None) => Ok((None, None)),
        (false, Some(ProfileType::RuntimeDefault)) => Err(SpecError::NoAppArmor("runtime/default".to_owned())),
        (false, Some(ProfileType::Localhost)) => Err(SpecError::NoAppArmor(name.to_owned())),
        (true, Some(ProfileType::Localhost)) if name.is_empty() => Err(SpecError::NoAppArmor(String::new())),
        (true, Some(ProfileType::Localhost)) => Ok((Some(name.to_owned()), None)),
        (true, _) if security.privileged => Ok((None, None)),
        (true, asked) => match &host.apparmor_default {
            Some(profile) => Ok((Some(profile.clone()), None)),
            None => Ok((None, asked.map(|_| Warning::NoDefaultAppArmor))),
        },
    }
}

fn selinux(security: &v1::LinuxContainerSecurityContext, host: &HostFacts) -> Result<Option<Warning>, SpecError> {
    let asked = security.selinux_options.as_ref().is_some_and(|options| *options != v1::SeLinuxOption::default());
    match (asked, host.selinux) {
        (false, _) => Ok(None),
        (true, false) => Ok(Some(Warning::SelinuxIgnored)),
        (true, true) => Err(SpecError::SelinuxActive),
    }
}

fn score(request: &Request<'_>) -> Result<(i32, Option<Warning>), SpecError> {
    let resources = request.config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    process::oom_score_adj(resources.map_or(0, |resources| resources.oom_score_adj), request.host)
}

/// Facts about the container alone: nothing of the image's labels or the pod's annotations gets in here, where
/// a hook or another runtime might act on it.
fn annotations(request: &Request<'_>) -> HashMap<String, String> {
    let pod = request.pod.metadata.clone().unwrap_or_default();
    let name = request.config.metadata.clone().unwrap_or_default().name;
    let image = request.config.image.clone().unwrap_or_default().image;
    let all = [
        ("container-type", "container".to_owned()),
        ("container-name", name),
        ("image-name", image),
        ("sandbox-id", request.sandbox_id.to_owned()),
        ("sandbox-name", pod.name),
        ("sandbox-namespace", pod.namespace),
        ("sandbox-uid", pod.uid),
    ];
    all.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value)).collect()
}

#[cfg(test)]
mod tests;

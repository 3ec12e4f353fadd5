//! What each volume of a pod has to hold: values in, values out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume, VolumeDevice, VolumeMount, VolumeProjection};

use super::attach::{Attach, Group, Source};
use super::claims::Claim;
use super::device::Device;
use super::empty_dir::EmptyDir;
use super::host_path::Expected;
use super::ownership::Policy;
use super::payload::{Payload, check_path, plain};
use super::tokens::Issued;
use super::{ImageVolume, SetUpError, VolumeError, config_map, downward_api, empty_dir, projected, secret};
use crate::fields::Allocatable;
use crate::names::ObjectName;
use crate::sources::Objects;

const CONFIG_MAP: &str = "kubernetes.io~configmap";
const SECRET: &str = "kubernetes.io~secret";
const PROJECTED: &str = "kubernetes.io~projected";

/// One volume to be made.
#[derive(Debug)]
pub(super) struct Planned {
    pub name: String,
    pub what: What,
    /// The group that gets access, where the kind allows it.
    pub fs_group: Option<Group>,
    /// Some container wants what is mounted in it to propagate.
    pub shared: bool,
    /// See [`super::MountedVolume::gid`].
    pub gid: Option<i64>,
}

/// What a volume is.
#[derive(Debug)]
pub(super) enum What {
    EmptyDir(EmptyDir),
    HostPath {
        path: PathBuf,
        expected: Expected,
        read_only: bool,
    },
    Attach(Attach),
    Device(Device),
    Image(ImageVolume),
    /// Whatever its claim is bound to.
    Claim(Claim),
    /// Files whose source nobody has told yet: what a former run wrote.
    Left {
        plugin: &'static str,
        on_tmpfs: bool,
    },
    Files {
        plugin: &'static str,
        /// On tmpfs of this size; `None` is a plain directory.
        tmpfs: Option<u64>,
        payload: Payload,
        /// Directories that other mounts of a container go on: the volume is read-only by then.
        mount_points: BTreeSet<String>,
    },
}

impl Planned {
    /// Something has to be found for it first.
    pub(super) fn is_claim(&self) -> bool {
        matches!(self.what, What::Claim(_))
    }

    /// Its content can change while the pod runs.
    pub(super) fn changes(&self) -> bool {
        matches!(self.what, What::Files { .. })
    }
}

/// What the volumes that containers mount have to be, in the order of the pod.
pub(super) fn plan(
    pod: &Pod,
    objects: &Objects,
    node: &Allocatable,
    issued: &Issued,
) -> Result<Vec<Planned>, VolumeError> {
    let Some(spec) = &pod.spec else { return Ok(Vec::new()) };
    let used = used(spec)?;
    let volumes = spec.volumes.iter().flatten().filter(|volume| used.contains(volume.name.as_str()));
    let fs_group = fs_group(spec);
    volumes
        .map(|volume| match what(volume, pod, spec, objects, node, issued) {
            Ok(what) => {
                let (name, shared) = (volume.name.clone(), is_shared(spec, &volume.name));
                Ok(Planned { name, what, fs_group, shared, gid: None })
            }
            Err(source) => Err(VolumeError::SetUp { volume: volume.name.clone(), source }),
        })
        .collect()
}

/// Puts in what each claim has. None is left waiting behind another: all that fail are named.
pub(super) fn with_claims(
    plan: Vec<Planned>,
    mut resolve: impl FnMut(&str, &Claim) -> Result<(What, Option<i64>), SetUpError>,
) -> Result<Vec<Planned>, VolumeError> {
    let unmounted: Vec<_> = plan.iter().map(|planned| planned.name.clone()).collect();
    let (mut found, mut failed, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for mut planned in plan {
        if let What::Claim(claim) = &planned.what {
            match resolve(&planned.name, claim) {
                Ok((what, gid)) => (planned.what, planned.gid) = (what, gid),
                // The kubelet finds out when it mounts, not when it looks claims up.
                Err(source @ SetUpError::InUse) => return Err(VolumeError::SetUp { volume: planned.name, source }),
                Err(error) => {
                    failed.push(planned.name.clone());
                    errors.push(error);
                    continue;
                }
            }
        }
        found.push(planned);
    }
    let source = match errors.len() {
        0 => return Ok(found),
        1 => Box::new(errors.remove(0)),
        _ => Box::new(SetUpError::Several(errors)),
    };
    Err(VolumeError::Claims { unmounted: unmounted.join(" "), failed: failed.join(" "), source })
}

fn fs_group(spec: &PodSpec) -> Option<Group> {
    let context = spec.security_context.as_ref()?;
    let policy = match context.fs_group_change_policy.as_deref() {
        Some("OnRootMismatch") => Policy::OnRootMismatch,
        _ => Policy::Always,
    };
    Some(Group { id: u32::try_from(context.fs_group?).ok()?, policy })
}

fn is_shared(spec: &PodSpec, volume: &str) -> bool {
    let mut mounts = mounting(spec).flat_map(|(_, mounts)| mounts);
    mounts.any(|mount| mount.name == volume && mount.mount_propagation.as_deref().is_some_and(|kind| kind != "None"))
}

/// Every container's name with its mounts, of ephemeral ones too: they may be the only ones that mount a volume.
fn mounting(spec: &PodSpec) -> impl Iterator<Item = (&str, &[VolumeMount])> {
    let lasting = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lasting = lasting.map(|own| (own.name.as_str(), own.volume_mounts.as_deref().unwrap_or_default()));
    let added = spec.ephemeral_containers.iter().flatten();
    lasting.chain(added.map(|own| (own.name.as_str(), own.volume_mounts.as_deref().unwrap_or_default())))
}

/// The same with the block devices that they use.
fn using(spec: &PodSpec) -> impl Iterator<Item = (&str, &[VolumeDevice])> {
    let lasting = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lasting = lasting.map(|own| (own.name.as_str(), own.volume_devices.as_deref().unwrap_or_default()));
    let added = spec.ephemeral_containers.iter().flatten();
    lasting.chain(added.map(|own| (own.name.as_str(), own.volume_devices.as_deref().unwrap_or_default())))
}

/// Some container uses the volume as a device.
fn is_device(spec: &PodSpec, volume: &str) -> bool {
    using(spec).flat_map(|(_, devices)| devices).any(|device| device.name == volume)
}

/// Only what a container mounts or uses as a device is made and waited for.
fn used(spec: &PodSpec) -> Result<BTreeSet<&str>, VolumeError> {
    let mounts = mounting(spec).flat_map(|(own, mounts)| mounts.iter().map(move |mount| (own, mount.name.as_str())));
    let devices = using(spec).flat_map(|(own, devices)| devices.iter().map(move |device| (own, device.name.as_str())));
    let mut used = BTreeSet::new();
    for (container, name) in mounts.chain(devices) {
        if !spec.volumes.iter().flatten().any(|volume| volume.name == name) {
            return Err(VolumeError::NoSuchVolume { container: container.to_owned(), volume: name.to_owned() });
        }
        used.insert(name);
    }
    Ok(used)
}

fn what(
    volume: &Volume,
    pod: &Pod,
    spec: &PodSpec,
    objects: &Objects,
    node: &Allocatable,
    issued: &Issued,
) -> Result<What, SetUpError> {
    let named = |name: &str| ObjectName::new(pod.metadata.namespace.as_deref().unwrap_or("default"), name);
    let files = |plugin, on_tmpfs: bool, payload| {
        let tmpfs = on_tmpfs.then(|| empty_dir::memory_size(None, spec, node));
        What::Files { plugin, tmpfs, payload, mount_points: mount_points(spec, &volume.name) }
    };
    let block = is_device(spec, &volume.name);
    if let Some((plugin, on_tmpfs)) = of_api_objects(volume).filter(|_| objects.as_left) {
        return Ok(What::Left { plugin, on_tmpfs });
    }
    if let Some(source) = &volume.empty_dir {
        return Ok(What::EmptyDir(EmptyDir::of(source, spec, node)?));
    }
    if let Some(source) = &volume.host_path {
        let expected = Expected::of(source.type_.as_deref().unwrap_or_default())?;
        return Ok(What::HostPath { path: PathBuf::from(&source.path), expected, read_only: false });
    }
    if let Some(source) = &volume.persistent_volume_claim {
        let read_only = source.read_only == Some(true);
        return Ok(What::Claim(Claim { name: named(&source.claim_name), template: None, read_only, block }));
    }
    if let Some(template) = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) {
        let name = format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name);
        let template = Some(Box::new(template.spec.clone()));
        return Ok(What::Claim(Claim { name: named(&name), template, read_only: false, block }));
    }
    if let Some(source) = &volume.image {
        return Ok(What::Image(ImageVolume::of(source)));
    }
    if let Some(source) = &volume.nfs {
        let (server, path) = (source.server.clone(), source.path.clone());
        let read_only = source.read_only == Some(true);
        let name = volume.name.clone();
        return Ok(What::Attach(Attach { name, source: Source::Nfs { server, path }, read_only, options: Vec::new() }));
    }
    if let Some(source) = &volume.config_map {
        let wanted = config_map::Wanted {
            name: named(&source.name),
            items: source.items.as_deref(),
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        };
        return Ok(files(CONFIG_MAP, false, config_map::payload(&wanted, objects)?));
    }
    if let Some(source) = &volume.secret {
        let wanted = secret::Wanted {
            name: named(source.secret_name.as_deref().unwrap_or_default()),
            items: source.items.as_deref(),
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        };
        return Ok(files(SECRET, true, secret::payload(&wanted, objects)?));
    }
    if let Some(source) = &volume.downward_api {
        let payload = downward_api::payload(source.items.as_deref(), source.default_mode, pod, node)?;
        return Ok(files("kubernetes.io~downward-api", true, payload));
    }
    if let Some(source) = &volume.projected {
        return Ok(files(PROJECTED, true, projected::payload(source, pod, objects, node, issued)?));
    }
    Err(SetUpError::Unsupported("this kind of volume is not supported on its own yet".to_owned()))
}

/// Plugin and place of a volume whose files come from objects of the API.
fn of_api_objects(volume: &Volume) -> Option<(&'static str, bool)> {
    let asks = |source: &VolumeProjection| source.downward_api.is_none();
    let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    match (volume.config_map.is_some(), volume.secret.is_some()) {
        (true, _) => Some((CONFIG_MAP, false)),
        (_, true) => Some((SECRET, true)),
        _ => projected.filter(|sources| sources.iter().any(asks)).map(|_| (PROJECTED, true)),
    }
}

/// Where in `volume` other volumes of the same container are mounted, relative to its root.
fn mount_points(spec: &PodSpec, volume: &str) -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for (_, mounts) in mounting(spec) {
        let outer = mounts.iter().filter(|mount| mount.name == volume && mount.sub_path.is_none());
        for outer in outer.filter(|mount| mount.sub_path_expr.is_none()) {
            let root = format!("{}/", outer.mount_path.trim_end_matches('/'));
            let inner = mounts.iter().filter_map(|mount| mount.mount_path.strip_prefix(&root));
            points.extend(inner.filter(|path| check_path(path).is_ok()).map(plain));
        }
    }
    points
}

#[cfg(test)]
mod tests;

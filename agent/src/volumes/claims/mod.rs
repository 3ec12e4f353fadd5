//! PersistentVolumeClaims of pods: which volume each has, who uses it, and what is mounted for it.
//!
//! `bind` decides (with `fits` for one volume and one claim), this file remembers: all bindings in one file, and for
//! each volume of a pod what was mounted for it, in the pod's directory. A pod that has its volume keeps it, whatever
//! becomes of the manifests; a restart of the agent mounts what was mounted.

mod bind;
mod fits;

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec};
use rustix::fs::CWD;
use serde::{Deserialize, Serialize};

use self::bind::{Bindings, Bound, Key};
use super::attach::{Attach, Source};
use super::device::Device;
use super::error::io;
use super::host_path::Expected;
use super::plan::What;
use super::{SetUpError, layout, remove};
use crate::names::{ObjectName, PodUid};
use crate::selectors::Labels;
use crate::sources::Objects;

const BINDINGS: &str = "bindings.json";
/// Annotation of a PersistentVolume whose files belong to a group: every pod that uses it is in that group.
const GID: &str = "pv.beta.kubernetes.io/gid";
/// Many thousand bindings.
const LARGEST: u64 = 16 << 20;
/// In a pod's `plugins`: what was mounted for each of its volumes.
const MOUNTED: &str = "longshore~claims";

/// A pod's volume that is a claim.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim {
    /// The claim.
    pub name: ObjectName,
    /// What it is made from, where it lives and ends with the pod.
    pub template: Option<Box<PersistentVolumeClaimSpec>>,
    /// For this pod.
    pub read_only: bool,
    /// Containers name it in `volumeDevices`.
    pub block: bool,
}

/// What manifests say about storage.
#[derive(Clone, Default)]
pub(super) struct Stored {
    volumes: bind::Volumes,
    claims: bind::Claims,
}

impl Stored {
    pub(super) fn of(objects: &Objects) -> Self {
        let key = |name: &ObjectName| Key { name: name.clone(), owner: None };
        let claims = &objects.persistent_volume_claims;
        Self {
            volumes: objects.persistent_volumes.clone(),
            claims: claims.iter().map(|(name, claim)| (key(name), Arc::clone(claim))).collect(),
        }
    }
}

/// What was mounted for a pod's volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mounted {
    /// The PersistentVolume's name, or that of the provisioned directory.
    volume: String,
    what: Kind,
    /// The group of its files, as the PersistentVolume's annotation says.
    #[serde(default)]
    gid: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Attach(Attach),
    HostPath { path: PathBuf, kind: String, read_only: bool },
    Device(Device),
}

/// All claims of this node.
#[derive(Clone)]
pub(super) struct ClaimStore {
    /// Bindings, and the directories that were provisioned.
    dir: PathBuf,
    pods: PathBuf,
    node: Arc<Labels>,
    /// Two pods must not bind, or take a volume for one pod alone, at the same time.
    alone: Arc<Mutex<()>>,
}

impl ClaimStore {
    pub(super) fn new(dir: PathBuf, pods: PathBuf, node_name: &str) -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let labels =
            [("kubernetes.io/hostname", node_name), ("kubernetes.io/os", "linux"), ("kubernetes.io/arch", arch)];
        let node = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { dir, pods, node: Arc::new(node), alone: Arc::default() }
    }

    /// What is to be mounted for the volume `name` of a pod, and the group of its files. Noted in the pod's directory
    /// before it is mounted.
    pub(super) fn resolve(
        &self,
        pod: &Path,
        uid: &PodUid,
        name: &str,
        claim: &Claim,
        stored: &Stored,
    ) -> Result<(What, Option<i64>), SetUpError> {
        let note = pod.join(layout::PLUGINS).join(MOUNTED).join(name);
        if let Some(mounted) = read::<Mounted>(&note)? {
            return Ok((mounted.what.planned()?, mounted.gid));
        }
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let (mounted, sole) = self.choose(uid, claim, stored)?;
        if sole && self.is_used_elsewhere(uid, &mounted.volume)? {
            return Err(SetUpError::InUse);
        }
        let what = mounted.what.clone().planned()?;
        let dir = note.parent().unwrap_or(pod);
        make_dir(dir)?;
        write(&note, &mounted)?;
        Ok((what, mounted.gid))
    }

    /// What the claim has, and whether only one pod at a time may have it.
    fn choose(&self, uid: &PodUid, claim: &Claim, stored: &Stored) -> Result<(Mounted, bool), SetUpError> {
        let failed = |reason: String| SetUpError::Claim { claim: claim.name.clone(), reason };
        let mut stored = stored.clone();
        let owner = claim.template.is_some().then(|| uid.clone());
        let key = Key { name: claim.name.clone(), owner };
        if let Some(template) = &claim.template {
            if stored.claims.contains_key(&Key { owner: None, ..key.clone() }) {
                return Err(failed("it exists, and was not created for this pod (pod is not owner)".to_owned()));
            }
            let own = PersistentVolumeClaim { spec: Some((**template).clone()), ..PersistentVolumeClaim::default() };
            stored.claims.insert(key.clone(), Arc::new(own));
        }
        let Some(wanted) = stored.claims.get(&key) else {
            let name = &claim.name.name;
            return Err(failed(format!(
                "failed to fetch PVC from API server: persistentvolumeclaims \"{name}\" not found"
            )));
        };
        let bindings = self.bound(&stored)?;
        match bindings.get(&key) {
            None => {
                let why = bind::why_not(&key, wanted, &stored.volumes, &bindings, &self.node);
                Err(failed(format!("PVC is not bound: {why}")))
            }
            Some(Bound::Directory(name)) => {
                as_asked(name, false, claim).map_err(failed)?;
                let sole = only_once(wanted.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()));
                Ok((self.provisioned(name, claim)?, sole))
            }
            Some(Bound::Volume(name)) => match stored.volumes.get(name) {
                Some(volume) => self.of_volume(name, volume, claim, failed),
                None => Err(failed(format!(
                    "failed to fetch PV {name} from API server: persistentvolumes \"{name}\" not found"
                ))),
            },
        }
    }

    /// All bindings as they are now, on disk before anybody is told.
    fn bound(&self, stored: &Stored) -> Result<Bindings, SetUpError> {
        let path = self.dir.join(BINDINGS);
        let before: Bindings = read::<Vec<(Key, Bound)>>(&path)?.unwrap_or_default().into_iter().collect();
        let now = bind::bind(&stored.claims, &stored.volumes, &before, &self.node);
        if now != before {
            self.save(&now)?;
        }
        Ok(now)
    }

    fn save(&self, bindings: &Bindings) -> Result<(), SetUpError> {
        make_dir(&self.dir)?;
        write(&self.dir.join(BINDINGS), &bindings.iter().collect::<Vec<_>>())
    }

    fn provisioned(&self, name: &str, claim: &Claim) -> Result<Mounted, SetUpError> {
        let dir = self.dir.join(name);
        if !dir.is_dir() {
            make_dir(&dir)?;
            // As an emptyDir: whoever the pod's processes are, they may write. Nobody else gets as far as this.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(&dir, open).map_err(io("changing the mode of", &dir))?;
        }
        let attach = Attach {
            name: name.to_owned(),
            source: Source::Local(dir),
            read_only: claim.read_only,
            options: Vec::new(),
        };
        Ok(Mounted { volume: name.to_owned(), what: Kind::Attach(attach), gid: None })
    }

    fn of_volume(
        &self,
        name: &str,
        volume: &PersistentVolume,
        claim: &Claim,
        failed: impl Fn(String) -> SetUpError,
    ) -> Result<(Mounted, bool), SetUpError> {
        let spec = volume.spec.clone().unwrap_or_default();
        let block = spec.volume_mode.as_deref() == Some("Block");
        as_asked(name, block, claim).map_err(&failed)?;
        if !fits::reaches(&spec, &self.node) {
            return Err(failed(format!(
                "MountVolume.NodeAffinity check failed for volume \"{name}\" : no matching NodeSelectorTerms"
            )));
        }
        let options = spec.mount_options.clone().unwrap_or_default();
        let sole = only_once(spec.access_modes.as_deref());
        let attach = |source, read_only| {
            Kind::Attach(Attach { name: name.to_owned(), source, read_only, options: options.clone() })
        };
        let what = if let Some(local) = spec.local.as_ref().filter(|_| block) {
            let path = PathBuf::from(&local.path);
            Kind::Device(Device { name: name.to_owned(), path, read_only: claim.read_only })
        } else if block {
            return Err(failed(format!("volume {name} has volumeMode Block, which only local volumes can have")));
        } else if let Some(local) = &spec.local {
            attach(Source::Local(PathBuf::from(&local.path)), claim.read_only)
        } else if let Some(nfs) = &spec.nfs {
            let source = Source::Nfs { server: nfs.server.clone(), path: nfs.path.clone() };
            attach(source, claim.read_only || nfs.read_only == Some(true))
        } else if let Some(host) = &spec.host_path {
            if !options.is_empty() {
                return Err(failed(format!(
                    "MountVolume.MountOptionSupport check failed for volume \"{name}\" : Mount options are not \
                     supported by a hostPath volume"
                )));
            }
            let kind = host.type_.clone().unwrap_or_default();
            Kind::HostPath { path: PathBuf::from(&host.path), kind, read_only: claim.read_only }
        } else {
            return Err(failed(format!(
                "volume {name} is of a kind that is not supported; local, hostPath and nfs are"
            )));
        };
        let gid = volume.metadata.annotations.as_ref().and_then(|notes| notes.get(GID)?.parse().ok());
        Ok((Mounted { volume: name.to_owned(), what, gid }, sole))
    }

    /// Another pod has the volume mounted, or is just getting it.
    fn is_used_elsewhere(&self, uid: &PodUid, volume: &str) -> Result<bool, SetUpError> {
        for pod in names(&self.pods)?.into_iter().filter(|pod| pod != uid.as_str()) {
            let notes = self.pods.join(pod).join(layout::PLUGINS).join(MOUNTED);
            for name in names(&notes)? {
                if read::<Mounted>(&notes.join(name))?.is_some_and(|mounted| mounted.volume == volume) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The pod has unmounted everything: nobody needs to wait for its volumes any more.
    pub(super) fn unmounted(pod: &Path) -> io::Result<()> {
        remove::entry(CWD, &pod.join(layout::PLUGINS).join(MOUNTED))
    }

    /// The pod is gone for good: its own claims end with it, and the directories that were made for them. Can be
    /// repeated.
    pub(super) fn forget(&self, uid: &PodUid) -> Result<(), SetUpError> {
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(BINDINGS);
        let before: Bindings = read::<Vec<(Key, Bound)>>(&path)?.unwrap_or_default().into_iter().collect();
        let is_its = |key: &Key| key.owner.as_ref() == Some(uid);
        if !before.keys().any(is_its) {
            return Ok(());
        }
        for bound in before.iter().filter(|(key, _)| is_its(key)).map(|(_, bound)| bound) {
            if let Bound::Directory(name) = bound {
                let dir = self.dir.join(name);
                remove::entry(CWD, &dir).map_err(io("removing", &dir))?;
            }
        }
        self.save(&before.into_iter().filter(|(key, _)| !is_its(key)).collect())
    }
}

impl Kind {
    fn planned(self) -> Result<What, SetUpError> {
        Ok(match self {
            Self::Attach(attach) => What::Attach(attach),
            Self::HostPath { path, kind, read_only } => {
                What::HostPath { path, expected: Expected::of(&kind)?, read_only }
            }
            Self::Device(device) => What::Device(device),
        })
    }
}

/// A device is used as a device, and files are mounted.
fn as_asked(volume: &str, block: bool, claim: &Claim) -> Result<(), String> {
    let (mode, place) = match (block, claim.block) {
        (true, false) => ("Block", "volumeMounts"),
        (false, true) => ("Filesystem", "volumeDevices"),
        _ => return Ok(()),
    };
    Err(format!("volume {volume} has volumeMode {mode}, but is specified in {place}"))
}

/// ReadWriteOncePod counts where it is the only mode: with others nobody knows which one a pod means.
fn only_once(modes: Option<&[String]>) -> bool {
    modes == Some(&["ReadWriteOncePod".to_owned()])
}

fn make_dir(dir: &Path) -> Result<(), SetUpError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("creating", dir))
}

fn names(dir: &Path) -> Result<Vec<String>, SetUpError> {
    match fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(io("listing", dir)(error)),
        Ok(found) => {
            let names = found.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            Ok(names.filter(|name| !name.starts_with("..")).collect())
        }
    }
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, SetUpError> {
    let mut text = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut text)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("reading", path)(error)),
        Ok(_) => serde_json::from_slice(&text).map(Some).map_err(|error| io("reading", path)(io::Error::from(error))),
    }
}

/// Under another name, then renamed, and on the disk itself: a binding that a power cut forgets gives one pod's files
/// to another.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), SetUpError> {
    let save = || -> io::Result<()> {
        // Outside of the folder's own names, which are those of volumes.
        let next = path.with_file_name("..next");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        file.sync_all()?;
        fs::rename(next, path)
    };
    save().map_err(io("writing", path))
}

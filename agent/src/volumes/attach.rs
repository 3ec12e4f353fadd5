//! Volumes that are mounted from somewhere else into a directory of the pod: local ones and NFS shares.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use super::error::io;
use super::mounts::Mounts;
use super::{SetUpError, layout, nfs, ownership, set_up};

/// Local volumes' directory in a pod's `volumes`.
pub(super) const LOCAL: &str = "kubernetes.io~local-volume";
/// Plugins whose directories only ever have something of others mounted on them: nothing in them is ours to remove.
pub(super) const PLUGINS: [&str; 2] = [LOCAL, nfs::PLUGIN];

/// What is mounted, as it is remembered while the pod has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attach {
    /// Name of its directory: the volume's own, or the PersistentVolume's.
    pub name: String,
    pub source: Source,
    /// Mounted so that nobody can write.
    pub read_only: bool,
    /// Mount options beside `ro`.
    pub options: Vec<String>,
}

/// Where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Source {
    /// A directory of this node.
    Local(PathBuf),
    /// A share of an NFS server.
    Nfs {
        /// Its name or address.
        server: String,
        /// The exported path.
        path: String,
    },
}

/// Whose group its files get, and whether all of them are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub id: u32,
    pub policy: ownership::Policy,
}

impl Attach {
    /// Its plugin's directory.
    pub(super) fn plugin(&self) -> &'static str {
        match self.source {
            Source::Local(_) => LOCAL,
            Source::Nfs { .. } => nfs::PLUGIN,
        }
    }

    /// Mounts it, and gives it to the group, once: what the pod changes later stays.
    pub(super) fn set_up(&self, pod: &Path, group: Option<Group>, mounts: &dyn Mounts) -> Result<PathBuf, SetUpError> {
        let dir = layout::volume(pod, self.plugin(), &self.name);
        let ready = layout::ready(pod, self.plugin(), &self.name);
        let mounted = mounts.is_mounted(&dir).map_err(io("looking at", &dir))?;
        if mounted && ready.exists() {
            return Ok(dir);
        }
        set_up::make_dir(&dir)?;
        match &self.source {
            Source::Local(path) => self.local(path, &dir, mounted, group, mounts)?,
            Source::Nfs { server, path } if !mounted => self.nfs(server, path, &dir)?,
            Source::Nfs { .. } => {}
        }
        let marker = ready.parent().unwrap_or(pod);
        fs::DirBuilder::new().recursive(true).mode(0o750).create(marker).map_err(io("creating", marker))?;
        fs::write(&ready, []).map_err(io("creating", &ready))?;
        Ok(dir)
    }

    fn local(
        &self,
        path: &Path,
        dir: &Path,
        mounted: bool,
        group: Option<Group>,
        mounts: &dyn Mounts,
    ) -> Result<(), SetUpError> {
        if !mounted {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let source = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
                Errno::NOENT => SetUpError::Unsupported(format!("path {:?} does not exist", path.display())),
                Errno::NOTDIR => SetUpError::Unsupported(format!(
                    "path {:?} is not a directory: a local volume is a directory or a file system mounted on one",
                    path.display()
                )),
                other => io("opening", path)(other),
            })?;
            mounts.bind(source.as_fd(), dir).map_err(io("binding a local volume to", dir))?;
        }
        if let Some(group) = group.filter(|_| !self.read_only) {
            ownership::give_with(dir, group.id, false, group.policy)?;
        }
        let read_only = if self.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        match flags(&self.options)? | read_only {
            flags if flags.is_empty() => Ok(()),
            flags => mounts.restrict(dir, flags).map_err(io("setting the mount options of", dir)),
        }
    }

    fn nfs(&self, server: &str, path: &str, dir: &Path) -> Result<(), SetUpError> {
        let read_only = self.read_only.then(|| "ro".to_owned());
        let options = read_only.into_iter().chain(self.options.iter().cloned()).collect();
        nfs::Share { server: server.to_owned(), path: path.to_owned(), options }.mount(dir)
    }
}

/// Mount options of a bind, as mount(8) spells them.
fn flags(options: &[String]) -> Result<MountFlags, SetUpError> {
    options.iter().try_fold(MountFlags::empty(), |flags, option| {
        Ok(flags
            | match option.as_str() {
                "bind" | "rbind" | "rw" | "defaults" => MountFlags::empty(),
                "ro" => MountFlags::RDONLY,
                "noexec" => MountFlags::NOEXEC,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noatime" => MountFlags::NOATIME,
                "nodiratime" => MountFlags::NODIRATIME,
                "relatime" => MountFlags::RELATIME,
                other => {
                    return Err(SetUpError::Unsupported(format!(
                        "mount option {other:?} is not supported for a local volume; ro, noexec, nosuid, nodev, \
                         noatime, nodiratime and relatime are"
                    )));
                }
            })
    })
}

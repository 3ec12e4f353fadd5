//! What an embedded runtime is opened with, and why it may not be.

use std::io;
use std::path::PathBuf;

use crate::cgroups::CgroupError;
use crate::containers::HostError;
use crate::images::{ImageError, RegistryConfig};
use crate::state::files::FileError;

/// Where an embedded runtime lives, and what its pods are connected to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Images and snapshots, such as `/var/lib/longshore`. Made when missing.
    pub root: PathBuf,
    /// Sandboxes and containers, such as `/run/longshore`; best on tmpfs. Made when missing.
    pub run: PathBuf,
    /// The pods' network.
    pub network: cni::NetworkConfig,
    /// Where images come from.
    pub registries: RegistryConfig,
}

/// An embedded runtime could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by process {pid}", run.display())]
    InUse {
        /// The run directory.
        run: PathBuf,
        /// Who.
        pid: String,
    },
    /// The lock could not be taken.
    #[error("locking {}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file or directory of ours.
    #[error("preparing the run directory")]
    Files(#[from] FileError),
    /// The boot id of the kernel.
    #[error("reading the kernel's boot id")]
    Boot(#[source] io::Error),
    /// The machine's cgroups.
    #[error("looking for cgroups")]
    Cgroups(#[from] CgroupError),
    /// What this process may do.
    #[error("finding out what this process may do")]
    Host(#[from] HostError),
    /// The image store.
    #[error("opening the image store")]
    Images(#[from] ImageError),
    /// The pods' network.
    #[error("setting up the pod network")]
    Network(#[from] cni::NetworkError),
    /// The streaming server.
    #[error("listening for exec, attach and port-forward on 127.0.0.1")]
    Streams(#[source] io::Error),
}

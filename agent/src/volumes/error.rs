use std::io;
use std::path::PathBuf;

use crate::errors::chain;
use crate::fields::FieldError;
use crate::names::ObjectName;

/// Why a volume could not be made, changed or taken away. See [`VolumeError::for_people`] for the event's text.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A problem with one volume.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" ")]
    SetUp {
        /// The volume's name in the pod.
        volume: String,
        /// What is wrong with it.
        source: SetUpError,
    },
    /// Claims of the pod have no volume, or not one that can be used here. The text is the kubelet's.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{unmounted}], unattached volumes=[], failed to process volumes=[{failed}]"
    )]
    Claims {
        /// All volumes of the pod.
        unmounted: String,
        /// Those with a claim that failed.
        failed: String,
        /// Why.
        source: Box<SetUpError>,
    },
    /// A container mounts a volume that the pod does not have.
    #[error("container {container} mounts volume {volume:?}, which the pod does not have")]
    NoSuchVolume {
        /// The container.
        container: String,
        /// The name it uses.
        volume: String,
    },
    /// A sub path that may not or cannot be used; the text is the kubelet's, which hides paths of the node.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\"")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// Why: for the log, not for users.
        source: Box<SetUpError>,
    },
    /// Taking a pod's volumes away.
    #[error("removing {}", path.display())]
    TearDown {
        /// What was being removed.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Finding out how large something is.
    #[error("measuring {}", path.display())]
    Measure {
        /// What was measured.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Looking for pod directories.
    #[error("listing {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file system or the kernel does not answer; the work goes on by itself.
    #[error("no answer within {seconds} s: a file system behind the pod's volumes hangs; it is tried again")]
    NoAnswer {
        /// How long was waited.
        seconds: u64,
    },
    /// No thread to do the work on.
    #[error("starting a thread for the pod's volumes")]
    Thread(#[source] io::Error),
    /// The work was cut off because the agent ends.
    #[error("the agent is stopping")]
    Stopping,
}

/// What is wrong with one volume.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// What it holds comes from the API server, which has not answered since the agent began, and no former run left it.
    #[error("what it holds is not known before the API server answers")]
    NotToldYet,
    /// The object is not there.
    #[error("secret \"{}\" not found", .0.name)]
    SecretMissing(ObjectName),
    /// The object is not there.
    #[error("configmap \"{}\" not found", .0.name)]
    ConfigMapMissing(ObjectName),
    /// The key is not in the Secret.
    #[error("references non-existent secret key: {0}")]
    SecretKey(String),
    /// The key is not in the ConfigMap.
    #[error("configmap references non-existent config key: {0}")]
    ConfigMapKey(String),
    /// A path inside the volume that could leave it, or is too long.
    #[error("invalid path {path:?}: {reason}")]
    Path {
        /// As written.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A downward API field.
    #[error("downward API item {path:?}")]
    Field {
        /// The file.
        path: String,
        /// Why.
        source: FieldError,
    },
    /// A hostPath that is not what `type` says.
    #[error("hostPath type check failed: {} is not a {expected}", path.display())]
    HostPath {
        /// The path.
        path: PathBuf,
        /// `directory`, `file`, `socket file`, `character device` or `block device`.
        expected: &'static str,
    },
    /// Something that this agent does not have.
    #[error("{0}")]
    Unsupported(String),
    /// No token of a service account, in the kubelet's words.
    #[error("{0}")]
    Token(String),
    /// No trust anchors, in the kubelet's words.
    #[error("{0}")]
    TrustBundle(String),
    /// A claim that cannot be used, in the kubelet's words.
    #[error("error processing PVC {claim}: {reason}")]
    Claim {
        /// The claim.
        claim: ObjectName,
        /// Why not.
        reason: String,
    },
    /// Another pod has it.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    /// The file system behind it does not answer.
    #[error("no answer within {seconds} s: the file system behind it hangs; it is tried again")]
    NoAnswer {
        /// How long was waited.
        seconds: u64,
    },
    /// A program that mounts failed: how it ended, what it was called with, and what it said.
    #[error("mount failed: {0}")]
    Helper(String),
    /// Several sources of a projected volume failed.
    #[error("{}", .0.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; "))]
    Several(Vec<SetUpError>),
    /// The disk or the kernel.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried, such as `creating`.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Says what was tried on which path.
pub(super) fn io<E: Into<io::Error>>(what: &'static str, path: &std::path::Path) -> impl FnOnce(E) -> SetUpError {
    let path = path.to_owned();
    move |error| SetUpError::Io { what, path, source: error.into() }
}

impl VolumeError {
    /// What an event or a waiting container says: the whole chain, except where it would show the node's inside.
    pub fn for_people(&self) -> String {
        match self {
            Self::SubPath { .. } => self.to_string(),
            _ => chain(self),
        }
    }
}

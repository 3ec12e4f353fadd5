//! Why a container configuration was refused, and what was changed without refusing it.

use std::fmt;

/// A container configuration that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Neither the container nor the image says what to run.
    #[error("no command: neither the container nor image {image:?} names one")]
    NoCommand {
        /// The image's name.
        image: String,
    },
    /// Ids of a user namespace in a sandbox that has none.
    #[error("{what} asks for a user namespace that its sandbox does not have")]
    UserNamespace {
        /// `the pod` or the mount.
        what: String,
    },
    /// SELinux options on a machine that enforces SELinux.
    #[error("SELinux labels are not supported by this runtime, and SELinux is active on this machine")]
    SelinuxActive,
    /// CDI devices.
    #[error("CDI device {0} is not supported by this runtime")]
    CdiDevice(String),
    /// A volume whose content is an image, and nobody mounted the image.
    #[error("the image to be mounted at {0} was not prepared")]
    ImageMount(String),
    /// A Windows configuration.
    #[error("a Windows container cannot run here")]
    Windows,
    /// A capability name this program does not know.
    #[error("unknown capability {0:?}")]
    UnknownCapability(String),
    /// An ambient capability the container does not have.
    #[error("ambient capability {0:?} is not among the container's capabilities")]
    AmbientCapability(String),
    /// A mount without an absolute path.
    #[error("mount of {source_path:?} at {target:?}: {reason}")]
    Mount {
        /// Path on the host.
        source_path: String,
        /// Path in the container.
        target: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Recursively read-only and writable, or propagated, at once.
    #[error("mount at {target:?} cannot be recursively read-only: {reason}")]
    RecursiveReadOnly {
        /// Path in the container.
        target: String,
        /// What contradicts it.
        reason: &'static str,
    },
    /// A namespace is to be joined that the sandbox does not have.
    #[error("the sandbox has no {0} namespace to join")]
    NoNamespace(&'static str),
    /// A value that is not a number of its range.
    #[error("{field} {value} is out of range")]
    OutOfRange {
        /// The field's name in the CRI.
        field: &'static str,
        /// What it holds.
        value: i64,
    },
    /// A namespace mode or profile type this program does not know.
    #[error("{field} has the unknown value {value}")]
    UnknownValue {
        /// The field's name in the CRI.
        field: &'static str,
        /// What it holds.
        value: i32,
    },
    /// An AppArmor profile where the kernel cannot enforce one.
    #[error("AppArmor profile {0:?} cannot be enforced: AppArmor is not active on this machine")]
    NoAppArmor(String),
    /// A Localhost seccomp profile was asked for and not handed in.
    #[error("seccomp profile {0:?} was not loaded")]
    SeccompProfileMissing(String),
    /// A device whose numbers were not handed in.
    #[error("device {0} was not found on this machine")]
    DeviceMissing(String),
    /// Device permissions other than a subset of `rwm`.
    #[error("device {path} has the permissions {permissions:?}, which are not some of \"rwm\"")]
    DevicePermissions {
        /// Path on the host.
        path: String,
        /// What was asked for.
        permissions: String,
    },
    /// An environment variable or argument that no process can be given.
    #[error("{0} holds a NUL byte")]
    NulByte(&'static str),
    /// An environment variable without a name, or with `=` in it.
    #[error("environment variable name {0:?} is empty or holds '='")]
    EnvName(String),
    /// A working directory that is not absolute.
    #[error("working directory {0:?} is not absolute")]
    RelativeWorkingDir(String),
}

/// Something was asked for that this machine cannot give, and the container starts without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Without CAP_SYS_RESOURCE the value cannot go below our own.
    OomScoreAdjRaised {
        /// What was asked for.
        asked: i32,
        /// What the container gets.
        given: i32,
    },
    /// SELinux options on a machine without SELinux.
    SelinuxIgnored,
    /// AppArmor is active, and no profile that stands for the default one is loaded.
    NoDefaultAppArmor,
    /// Capabilities that the kernel or we ourselves do not have.
    CapabilitiesMissing(Vec<String>),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OomScoreAdjRaised { asked, given } => {
                write!(f, "oom_score_adj {asked} raised to {given}: CAP_SYS_RESOURCE is missing")
            }
            Self::SelinuxIgnored => write!(f, "SELinux options ignored: SELinux is not active"),
            Self::NoDefaultAppArmor => {
                write!(f, "no default AppArmor profile is loaded: the container runs without one")
            }
            Self::CapabilitiesMissing(names) => {
                write!(f, "capabilities left out because this machine lacks them: {}", names.join(", "))
            }
        }
    }
}

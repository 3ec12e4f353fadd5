use crate::fields::FieldError;
use crate::names::ObjectName;

/// Why a container or sandbox cannot be configured; the texts are the kubelet's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Defaults were not applied.
    #[error("nil pod.spec.enableServiceLinks encountered, cannot construct envvars")]
    NoServiceLinks,
    /// An object that is not there.
    #[error("configmap \"{}\" not found", .0.name)]
    NoConfigMap(ObjectName),
    /// An object that is not there.
    #[error("secret \"{}\" not found", .0.name)]
    NoSecret(ObjectName),
    /// A key that is not in its object.
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object.
        name: ObjectName,
    },
    /// A `fileKeyRef` to a volume that is not mounted.
    #[error("cannot find the volume {0:?} referenced by FileKeyRef")]
    NoEnvVolume(String),
    /// A file of a `fileKeyRef` that is not there, or holds something else.
    #[error("couldn't parse env file")]
    EnvFile,
    /// A key that its file does not have.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoEnvKey {
        /// The key.
        key: String,
        /// The file, inside its volume.
        path: String,
    },
    /// A field reference without a value.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Variables of a `subPathExpr`.
    #[error("missing value for {0}")]
    NoValueFor(String),
    /// `runAsNonRoot` with `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy {at}")]
    RunAsUserIsRoot {
        /// Pod and container.
        at: String,
    },
    /// `runAsNonRoot` with an image whose user is a name.
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {at}")]
    ImageUserUnknown {
        /// The image's user.
        user: String,
        /// Pod and container.
        at: String,
    },
    /// `runAsNonRoot` with an image that runs as root.
    #[error("container has runAsNonRoot and image will run as root {at}")]
    ImageIsRoot {
        /// Pod and container.
        at: String,
    },
    /// A localhost seccomp profile needs a name.
    #[error("localhostProfile must be set if seccompProfile type is Localhost")]
    SeccompWithoutName,
    /// A seccomp profile outside of the profile folder.
    #[error("seccomp profile {0:?} must be a path inside the profile folder")]
    SeccompOutside(String),
    /// The kernel would cut the name.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {length} characters requested)"
    )]
    FqdnTooLong {
        /// The name.
        fqdn: String,
        /// Its length.
        length: usize,
    },
    /// Something that this agent does not have.
    #[error("{0}")]
    Unsupported(String),
}

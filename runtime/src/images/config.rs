//! An image's configuration: what its author set for containers that say nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::digest::{DiffId, Digest};

/// What a container takes from its image unless it says otherwise. Absent fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments; a container's `command` replaces it, and `cmd` with it.
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint; a container's `args` replace them.
    pub cmd: Vec<String>,
    /// `NAME=value`, in the author's order.
    pub env: Vec<String>,
    /// An absolute path in the image, or empty.
    pub working_dir: String,
    /// `""`, `user`, `uid`, `user:group`, `uid:gid`; see [`super::users`].
    pub user: String,
    /// A signal's name or number, such as `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Paths that the author declared as volumes.
    pub volumes: BTreeSet<String>,
    /// `80/tcp` and the like. Information only.
    pub exposed_ports: BTreeSet<String>,
    /// The author's labels. They never control the runtime (CVE-2026-53488).
    pub labels: BTreeMap<String, String>,
}

/// The parts of a configuration blob that a store needs.
///
/// Own types, not those of `oci-spec`: Docker writes `null` for empty lists and maps, and one such field must not make
/// a whole image unreadable.
#[derive(Debug, Deserialize)]
pub(crate) struct ConfigBlob {
    #[serde(default)]
    pub(crate) config: Option<RawConfig>,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) rootfs: RawRootfs,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawRootfs {
    #[serde(default)]
    pub(crate) diff_ids: Vec<DiffId>,
}

type Keys = Option<BTreeMap<String, serde::de::IgnoredAny>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    volumes: Keys,
    exposed_ports: Keys,
    labels: Option<BTreeMap<String, String>>,
}

impl ConfigBlob {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The checked form; `json` must be what this was parsed from.
    pub(crate) fn image_config(&mut self) -> ImageConfig {
        let raw = self.config.take().unwrap_or_default();
        let keys = |map: Keys| map.unwrap_or_default().into_keys().collect();
        ImageConfig {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            user: raw.user.unwrap_or_default(),
            stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
            volumes: keys(raw.volumes),
            exposed_ports: keys(raw.exposed_ports),
            labels: raw.labels.unwrap_or_default(),
        }
    }
}

/// An image that is in the store, whole: its layers are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration.
    pub id: super::ImageId,
    /// Full names with tags, sorted: CRI's `repo_tags`.
    pub tags: Vec<String>,
    /// `repository@sha256:…` of the manifests or indexes it was pulled by, sorted: CRI's `repo_digests`.
    pub digests: Vec<String>,
    /// Bytes on disk of its unpacked layers, shared ones included.
    pub size: u64,
    /// What containers take from it.
    pub config: ImageConfig,
    /// The configuration as its author wrote it, JSON.
    pub raw_config: String,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
    /// Whether an operator forbade its collection.
    pub pinned: bool,
}

/// One unpacked layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Bytes on disk, unpacked.
    pub size: u64,
    /// Files, folders and links in it.
    pub inodes: u64,
}

/// What the image spec says of an image id: digest of the configuration's exact bytes.
pub(crate) fn image_id(raw_config: &[u8]) -> super::ImageId {
    super::ImageId(Digest::sha256_of(raw_config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_nulls_are_empty() {
        let json = br#"{"os":"linux","architecture":"amd64","history":null,"rootfs":{"type":"layers","diff_ids":[]},
            "config":{"Cmd":["sh"],"Entrypoint":null,"Env":null,"Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},
            "Labels":null,"StopSignal":"","User":"","WorkingDir":"/","Healthcheck":{"Test":["x"]},"OnBuild":null}}"#;
        let config = ConfigBlob::parse(json).unwrap().image_config();
        expect_test::expect![[r#"
            ImageConfig {
                entrypoint: [],
                cmd: [
                    "sh",
                ],
                env: [],
                working_dir: "/",
                user: "",
                stop_signal: None,
                volumes: {
                    "/data",
                },
                exposed_ports: {
                    "80/tcp",
                },
                labels: {},
            }
        "#]]
        .assert_debug_eq(&config);
    }

    #[test]
    fn a_configuration_without_config_is_fine() {
        let mut blob = ConfigBlob::parse(br#"{"os":"linux","rootfs":{"diff_ids":[]},"config":null}"#).unwrap();
        assert_eq!(blob.image_config(), ImageConfig::default());
    }
}

//! Manifests and indexes, OCI's and Docker's, and the choice among platforms.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;

/// The bound that registries themselves put on a manifest.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// Configurations carry labels and history, rarely over 100 KiB; containerd stops at 8 MiB as well.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Overlayfs takes 500 lower layers.
pub(crate) const MAX_LAYERS: usize = 500;

#[cfg(test)]
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Layers under licences that forbade registries to hold them; their URLs are not followed.
const FOREIGN: [&str; 2] =
    ["application/vnd.docker.image.rootfs.foreign.diff", "application/vnd.oci.image.layer.nondistributable."];

/// A pointer to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// The value of an annotation, if it is there and not empty.
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether this layer lies where its licence wants it, and not in the registry.
    pub(crate) fn is_foreign(&self) -> bool {
        FOREIGN.iter().any(|kind| self.media_type.starts_with(kind))
    }
}

/// An operating system and an architecture, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// Such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Such as `amd64` or `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// Such as `v7` for `arm`; empty where there is one only.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// What this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "riscv64" => ("riscv64", ""),
            "s390x" => ("s390x", ""),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() }
    }

    /// How well an image for `other` suits here: less is better, `None` does not run.
    fn distance(&self, other: &Self) -> Option<u8> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let level = |platform: &Self| {
            let variant = platform.variant.strip_prefix('v').and_then(|v| v.split('.').next()?.parse::<u8>().ok());
            variant.unwrap_or(match platform.architecture.as_str() {
                "arm64" => 8,
                "arm" => 7,
                _ => 1,
            })
        };
        // A processor runs what was built for an older one of its kind.
        level(self).checked_sub(level(other))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// What a registry or a layout has under a digest or a tag.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

/// Why a manifest or an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no JSON, or lacks a field.
    #[error("the manifest is malformed")]
    Json(#[source] serde_json::Error),
    /// Docker's first format, which nobody has written since 2017.
    #[error(
        "the manifest is of Docker's schema 1, which has no digests to check; push the image again with a newer tool"
    )]
    Schema1,
    /// An artifact of another kind, such as a Helm chart.
    #[error("it is no image: its configuration is of type {0:?}")]
    NotAnImage(String),
    /// More layers than overlayfs can stack.
    #[error("the image has {0} layers; {MAX_LAYERS} are possible")]
    TooManyLayers(usize),
    /// A layer that registries do not hold.
    #[error("layer {0} is a foreign layer, kept outside the registry; such images are not supported")]
    Foreign(Digest),
    /// There is nothing for this machine.
    #[error("there is no image for {wanted}; there is: {found}")]
    NoPlatform {
        /// This machine.
        wanted: String,
        /// What there is, separated by commas.
        found: String,
    },
    /// Indexes within indexes within indexes.
    #[error("the index holds indexes within indexes, deeper than any tool writes them")]
    TooDeep,
    /// The configuration lists other layers than the manifest.
    #[error("the manifest has {manifest} layers, the configuration {config}")]
    LayerCount {
        /// Layers in the manifest.
        manifest: usize,
        /// Layers in the configuration.
        config: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl Document {
    /// The content decides what it is: a media type may be missing, and the two kinds have no field in common.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawDocument = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        if raw.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        if let Some(manifests) = raw.manifests {
            return Ok(Self::Index(manifests));
        }
        let missing = |field| ManifestError::Json(serde::de::Error::missing_field(field));
        let config = raw.config.ok_or_else(|| missing("config"))?;
        let layers = raw.layers.unwrap_or_default();
        if !config.media_type.is_empty() && !is_image_config(&config.media_type) {
            return Err(ManifestError::NotAnImage(config.media_type));
        }
        if layers.len() > MAX_LAYERS {
            return Err(ManifestError::TooManyLayers(layers.len()));
        }
        match layers.iter().find(|layer| layer.is_foreign()) {
            Some(layer) => Err(ManifestError::Foreign(layer.digest.clone())),
            None => Ok(Self::Manifest { config, layers }),
        }
    }
}

fn is_image_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
            // Some builders say no more than that.
            | "application/json"
            | "application/octet-stream"
    )
}

/// The entry that suits `wanted` best; the first of equals. One without a platform is taken when none suits.
pub(crate) fn choose<'a>(index: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, ManifestError> {
    let suits = |entry: &&Descriptor| entry.platform.as_ref().and_then(|platform| wanted.distance(platform));
    let best = index.iter().filter(|entry| suits(entry).is_some()).min_by_key(suits);
    best.or_else(|| index.iter().find(|entry| entry.platform.is_none())).ok_or_else(|| {
        let found: Vec<String> = index.iter().filter_map(|e| e.platform.as_ref()).map(Platform::to_string).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        ManifestError::NoPlatform { wanted: wanted.to_string(), found }
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn entry(size: u64, platform: &str) -> Descriptor {
        let mut parts = platform.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let platform = (!platform.is_empty()).then(|| Platform { os: next(), architecture: next(), variant: next() });
        let digest = Digest::sha256_of(&size.to_le_bytes());
        Descriptor { media_type: OCI_MANIFEST.into(), digest, size, platform, annotations: None }
    }

    fn chosen(wanted: &str, entries: &[&str]) -> String {
        let entries: Vec<Descriptor> = entries.iter().enumerate().map(|(i, p)| entry(i as u64, p)).collect();
        let wanted = entry(0, wanted).platform.unwrap();
        match choose(&entries, &wanted) {
            Ok(entry) => entry.size.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_nearest_platform_that_runs_here_is_taken() {
        let all = ["linux/amd64", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "unknown/unknown"];
        assert_eq!(chosen("linux/amd64", &all), "0");
        assert_eq!(chosen("linux/arm/v6", &all), "2");
        assert_eq!(chosen("linux/arm/v7", &all), "3");
        assert_eq!(chosen("linux/arm64", &all), "4");
        assert_eq!(chosen("linux/amd64", &["linux/amd64/v3", "linux/amd64"]), "1");
        assert_eq!(chosen("linux/amd64", &["windows/amd64", ""]), "1");
    }

    #[test]
    fn a_platform_that_is_missing_is_named_with_what_there_is() {
        expect!["there is no image for linux/s390x; there is: linux/amd64, linux/arm/v7"]
            .assert_eq(&chosen("linux/s390x", &["linux/amd64", "linux/arm/v7"]));
        expect!["there is no image for linux/amd64; there is: linux/amd64/v3"]
            .assert_eq(&chosen("linux/amd64", &["linux/amd64/v3"]));
        expect!["there is no image for linux/amd64; there is: nothing"].assert_eq(&chosen("linux/amd64", &[]));
    }

    fn refusal(json: &str) -> String {
        let error: Box<dyn std::error::Error> = Box::new(Document::parse(json.as_bytes()).unwrap_err());
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        let digest = Digest::sha256_of(b"");
        let chart = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{digest}","size":1}}}}"#
        );
        expect![[r#"it is no image: its configuration is of type "application/vnd.cncf.helm.config.v1+json""#]]
            .assert_eq(&refusal(&chart));
        expect!["the manifest is of Docker's schema 1, which has no digests to check; push the image again with a newer tool"]
            .assert_eq(&refusal(r#"{"schemaVersion":1,"fsLayers":[]}"#));
        expect!["the manifest is malformed: missing field `config`"].assert_eq(&refusal(r#"{"schemaVersion":2}"#));
        let bad = r#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1}}"#;
        assert!(refusal(bad).contains("is not a digest"), "{}", refusal(bad));
        let negative = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":-1}}}}"#);
        assert!(refusal(&negative).starts_with("the manifest is malformed"));
    }
}

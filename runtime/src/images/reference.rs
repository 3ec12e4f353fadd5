//! Image references: what a person or a manifest writes, parsed once and normalised as Docker does it.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, ImageId};

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
// Bounds of the distribution specification's grammar.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A reference with nothing left out: `busybox` is `docker.io/library/busybox:latest`.
///
/// Source of the grammar: the `reference` package of the distribution project, which kubelet and Docker share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What an image can be looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageQuery {
    /// The digest of an image's configuration, with or without `sha256:` in front.
    Id(ImageId),
    /// A name, with a tag or a digest.
    Name(ImageRef),
}

/// Why a text is no image reference. A kubelet shows it as `InvalidImageName`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is no text.
    #[error("the image name is empty")]
    Empty,
    /// The part before the first slash is not a host.
    #[error("image name {name:?}: {host:?} is not a registry host or host:port")]
    Host {
        /// The whole text.
        name: String,
        /// The part that is wrong.
        host: String,
    },
    /// A part between slashes breaks the rules for repository names.
    #[error(
        "image name {name:?}: {part:?} is not allowed in a repository name: \
         lower-case letters and digits, separated by '.', '_', '__' or '-'s"
    )]
    Path {
        /// The whole text.
        name: String,
        /// The part that is wrong.
        part: String,
    },
    /// The repository's name is too long.
    #[error("image name {name:?}: the repository name is longer than {MAX_REPOSITORY} characters")]
    TooLong {
        /// The beginning of the text.
        name: String,
    },
    /// What follows the colon is not a tag.
    #[error(
        "image name {name:?}: {tag:?} is not a tag: up to {MAX_TAG} letters, digits, '_', '.' or '-', not starting with '.' or '-'"
    )]
    Tag {
        /// The whole text.
        name: String,
        /// The part that is wrong.
        tag: String,
    },
    /// What follows the `@` is not a digest.
    #[error("image name {name:?}: {digest:?} is not a digest: sha256: and 64 lower-case hex digits are wanted")]
    Digest {
        /// The whole text.
        name: String,
        /// The part that is wrong.
        digest: String,
    },
    /// An image id where a name is needed.
    #[error("{name:?} is an image id: an image that is here can be found by it, none can be pulled or named by it")]
    IsAnId {
        /// The whole text.
        name: String,
    },
}

impl ImageRef {
    /// The registry as the name has it, such as `docker.io` or `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository within the registry, such as `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; never empty, absent only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index. When present it decides, whatever the tag says.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path, without tag and digest: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// What a registry is asked for: the digest, else the tag.
    pub(crate) fn selector(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => DEFAULT_TAG,
        }
    }

    /// The same repository at this digest and without a tag.
    pub(crate) fn at_digest(&self, digest: Digest) -> Self {
        Self { host: self.host.clone(), path: self.path.clone(), tag: None, digest: Some(digest) }
    }

    /// The same repository with this tag, if it is one.
    pub(crate) fn at_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        format!("{}:{tag}", self.repository()).parse()
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if as_id(text).is_some() {
            return Err(ReferenceError::IsAnId { name: text.to_owned() });
        }
        // Generous: a repository, a tag and a sha512 digest; what is longer is not quoted whole.
        if text.len() > 600 {
            return Err(ReferenceError::TooLong { name: text.chars().take(80).collect() });
        }
        let (rest, digest) = split_digest(text)?;
        let (rest, tag) = split_tag(text, rest)?;
        let (host, path) = split_host(rest);
        check_host(text, &host)?;
        check_path(text, &path)?;
        if host.len() + 1 + path.len() > MAX_REPOSITORY {
            return Err(ReferenceError::TooLong { name: text.chars().take(80).collect() });
        }
        let tag = match (&tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            _ => tag.map(str::to_owned),
        };
        Ok(Self { host, path, tag, digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageQuery {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        match as_id(text) {
            Some(id) => Ok(Self::Id(id)),
            None => text.parse().map(Self::Name),
        }
    }
}

/// 64 hex digits are an id, never a name: the grammar forbids such names for that reason.
fn as_id(text: &str) -> Option<ImageId> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    format!("sha256:{hex}").parse().ok().map(ImageId)
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => match digest.parse() {
            Ok(parsed) => Ok((rest, Some(parsed))),
            Err(_) => Err(ReferenceError::Digest { name: text.to_owned(), digest: digest.to_owned() }),
        },
    }
}

fn split_tag<'a>(text: &str, rest: &'a str) -> Result<(&'a str, Option<&'a str>), ReferenceError> {
    // A colon before the last slash belongs to the host's port.
    let Some((name, tag)) = rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
        return Ok((rest, None));
    };
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
    if good { Ok((name, Some(tag))) } else { Err(ReferenceError::Tag { name: text.to_owned(), tag: tag.to_owned() }) }
}

/// The first part is a host if it could not be part of a path: it has a dot or a colon, or is `localhost`.
fn split_host(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((host, path)) if looks_like_host(host) => {
            let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
            (host.to_owned(), with_library(host, path))
        }
        _ => (DEFAULT_HOST.to_owned(), with_library(DEFAULT_HOST, name)),
    }
}

fn looks_like_host(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn with_library(host: &str, path: &str) -> String {
    if host == DEFAULT_HOST && !path.contains('/') { format!("library/{path}") } else { path.to_owned() }
}

fn check_host(text: &str, host: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Host { name: text.to_owned(), host: host.to_owned() };
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            ("v6", port.strip_prefix(':').or(port.is_empty().then_some("0")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    let is_label = |label: &str| {
        let alphanumeric = |b: &u8| b.is_ascii_alphanumeric();
        label.as_bytes().first().is_some_and(alphanumeric)
            && label.as_bytes().last().is_some_and(alphanumeric)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_ok = port.is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    if port_ok && name.split('.').all(is_label) { Ok(()) } else { Err(bad()) }
}

fn check_path(text: &str, path: &str) -> Result<(), ReferenceError> {
    match path.split('/').find(|part| !is_path_part(part)) {
        None => Ok(()),
        Some(part) => Err(ReferenceError::Path { name: text.to_owned(), part: part.to_owned() }),
    }
}

/// Runs of lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between two runs.
fn is_path_part(part: &str) -> bool {
    let is_run = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separators = part.split(|c: char| c.is_ascii() && is_run(c as u8)).peekable();
    let (Some(&first), Some(last)) = (separators.peek(), part.bytes().last()) else { return false };
    first.is_empty()
        && is_run(last)
        && separators.all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;

//! What the cluster has told this node and a start needs before the API server answers: one small file.

use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

const FILE: &str = "cluster.json";

/// What was last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // another version's file may lack a field: the rest still counts
pub struct Known {
    /// Where this node's pods get their addresses from.
    pub pod_cidr: Option<Ipv4Net>,
}

/// It could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing what the cluster gave this node to {}", path.display())]
pub struct KnownError {
    path: PathBuf,
    source: io::Error,
}

impl Known {
    /// What a former run heard; nothing where there was none or it cannot be read: then the API server says it again.
    pub fn load(root: &Path) -> Self {
        let path = root.join(FILE);
        let read = std::fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
        read.unwrap_or_else(|error: io::Error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %path.display(), %error, "reading what the cluster gave this node");
            }
            Self::default()
        })
    }

    /// Written under another name, then renamed.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&self, root: &Path) -> Result<(), KnownError> {
        let path = root.join(FILE);
        let next = path.with_extension("json.next");
        let write = || {
            std::fs::create_dir_all(root)?;
            std::fs::write(&next, serde_json::to_vec(self)?)?;
            std::fs::rename(&next, &path)
        };
        write().map_err(|source| KnownError { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_known_to_the_next_run_and_a_torn_file_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        assert_eq!(Known::load(&root), Known::default());
        let known = Known { pod_cidr: Some("10.244.3.0/24".parse().unwrap()) };
        known.save(&root).unwrap();
        assert_eq!(Known::load(&root), known);
        std::fs::write(root.join(FILE), "{\"pod_").unwrap();
        assert_eq!(Known::load(&root), Known::default());
    }
}

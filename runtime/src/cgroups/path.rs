//! A cgroup's place below the root of every hierarchy.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::CgroupError;

/// An absolute path such as `/kubepods/burstable/pod1234`, checked to stay below the hierarchy's root.
///
/// `Display` gives the path with its leading slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// Takes the path of a CRI `cgroup_parent` or `cgroupsPath`.
    ///
    /// # Errors
    /// [`CgroupError::SystemdDriver`] for a slice (`a.slice`, `slice:prefix:name`), [`CgroupError::BadPath`] for anything
    /// relative, empty, with `.`, `..`, NUL or a newline, or longer than 1024 bytes.
    pub fn new(path: &str) -> Result<Self, CgroupError> {
        let bad = || CgroupError::BadPath(path.chars().take(256).collect());
        if path.ends_with(".slice") || path.matches(':').count() == 2 && !path.starts_with('/') {
            return Err(CgroupError::SystemdDriver(path.chars().take(256).collect()));
        }
        if path.len() > 1024 || !path.starts_with('/') || path.contains(['\0', '\n']) {
            return Err(bad());
        }
        let mut clean = String::new();
        for component in Path::new(path).components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => {
                    clean.push('/');
                    clean.push_str(name.to_str().ok_or_else(bad)?);
                }
                _ => return Err(bad()),
            }
        }
        if clean.is_empty() { Err(bad()) } else { Ok(Self(clean)) }
    }

    /// The group `name` below this one.
    ///
    /// # Errors
    /// As for [`CgroupPath::new`]; `name` is one component.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        if name.contains('/') {
            return Err(CgroupError::BadPath(name.chars().take(256).collect()));
        }
        Self::new(&format!("{}/{name}", self.0))
    }

    /// The path with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory of this group below the mount point of a hierarchy.
    pub(super) fn below(&self, root: &Path) -> PathBuf {
        root.join(&self.0[1..])
    }

    /// Every ancestor below the root, the outermost first, this path last: what has to be made, in order.
    pub(super) fn with_ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').skip(1).map(|(at, _)| &self.0[..at]).chain(std::iter::once(self.0.as_str()))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cleaned_and_its_ancestors_come_outermost_first() {
        let path = CgroupPath::new("/kubepods//burstable/pod1/").unwrap();
        assert_eq!(path.as_str(), "/kubepods/burstable/pod1");
        let all: Vec<&str> = path.with_ancestors().collect();
        assert_eq!(all, ["/kubepods", "/kubepods/burstable", "/kubepods/burstable/pod1"]);
        assert_eq!(
            path.below(Path::new("/sys/fs/cgroup/cpu")),
            Path::new("/sys/fs/cgroup/cpu/kubepods/burstable/pod1")
        );
    }

    #[test]
    fn nothing_above_the_root_or_outside_it_is_a_path() {
        for bad in ["", "/", "kubepods", "/a/../b", "/a\nb", "/a\0"] {
            assert!(matches!(CgroupPath::new(bad), Err(CgroupError::BadPath(_))), "{bad:?}");
        }
        assert!(CgroupPath::new("/a").unwrap().child("../b").is_err());
    }

    proptest::proptest! {
        #[test]
        fn what_is_taken_stays_below_the_root(text in "[/a-z.:]{0,20}") {
            if let Ok(path) = CgroupPath::new(&text) {
                let below = path.below(Path::new("/root"));
                proptest::prop_assert!(below.starts_with("/root") && below != Path::new("/root"));
                proptest::prop_assert!(!below.components().any(|part| part == Component::ParentDir));
                proptest::prop_assert_eq!(CgroupPath::new(path.as_str()).ok(), Some(path));
            }
        }
    }

    #[test]
    fn a_slice_is_refused_by_name() {
        for slice in ["/kubepods.slice/kubepods-pod1.slice", "kubepods-pod1.slice:cri-containerd:abc"] {
            assert!(matches!(CgroupPath::new(slice), Err(CgroupError::SystemdDriver(_))), "{slice}");
        }
    }
}

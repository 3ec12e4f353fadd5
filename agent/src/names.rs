//! Names that become paths, keys or words in messages, checked once at the edge.

use std::fmt;

/// A pod's uid: safe as one path component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodUid(String);

/// A uid that cannot be a directory name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a pod uid: it needs 1 to 128 letters, digits, '-' or '_'")]
pub struct BadPodUid(String);

impl PodUid {
    /// A uid of 32 hexadecimal digits.
    pub fn from_number(number: u128) -> Self {
        Self(format!("{number:032x}"))
    }

    /// The uid as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PodUid {
    type Error = BadPodUid;

    fn try_from(uid: String) -> Result<Self, BadPodUid> {
        let fits = (1..=128).contains(&uid.len());
        if fits && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            Ok(Self(uid))
        } else {
            Err(BadPodUid(uid))
        }
    }
}

impl From<PodUid> for String {
    fn from(uid: PodUid) -> Self {
        uid.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A namespaced object's name: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_that_would_leave_its_directory_is_refused() {
        for bad in ["", ".", "..", "a/b", "a.b", "a\0b", &"x".repeat(129)] {
            assert!(PodUid::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
        assert!(PodUid::try_from("0a1b-2c_3d".to_owned()).is_ok());
    }
}

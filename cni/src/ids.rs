//! Ids at the edge: checked once, trusted afterwards.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Ids go into rule comments (256 bytes at most in the kernel) and file contents; runtimes use 64 hex digits.
const LONGEST_SANDBOX_ID: usize = 128;

/// Chains are named `LONGSHORE-<instance>-XXXX`; the kernel allows 28 bytes.
const LONGEST_INSTANCE: usize = 12;

/// Id of a pod sandbox as the runtime names it: 1 to 128 of `A-Z a-z 0-9 - _ .`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

/// Tag of one agent on this machine: 1 to 12 of `a-z 0-9 -`. It is part of every name the agent gives to kernel objects,
/// so that two agents never touch each other's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(String);

/// A text that is not a usable id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} must be 1 to {longest} of {allowed}")]
pub struct BadId {
    what: &'static str,
    text: String,
    longest: usize,
    allowed: &'static str,
}

impl SandboxId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Instance {
    /// A tag derived from an agent's root directory: the same path gives the same tag in every version.
    pub fn of_root(root: &std::path::Path) -> Self {
        let hash = crate::names::hash(&[root.as_os_str().as_encoded_bytes()]);
        Self(format!("{:08x}", hash >> 32))
    }

    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        check("sandbox id", text, LONGEST_SANDBOX_ID, "A-Z a-z 0-9 - _ .", allowed).map(Self)
    }
}

impl FromStr for Instance {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        check("instance", text, LONGEST_INSTANCE, "a-z 0-9 -", allowed).map(Self)
    }
}

fn check(
    what: &'static str,
    text: &str,
    longest: usize,
    allowed: &'static str,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<String, BadId> {
    if (1..=longest).contains(&text.len()) && text.bytes().all(is_allowed) {
        return Ok(text.to_owned());
    }
    // An id this long is cut in the message: it may come from outside.
    Err(BadId { what, text: text.chars().take(longest).collect(), longest, allowed })
}

impl TryFrom<String> for SandboxId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_leave_a_rule_or_a_file_name_is_refused() {
        for text in ["", "a b", "a/b", "a\"b", "a\nb", &"x".repeat(129)] {
            assert!(text.parse::<SandboxId>().is_err(), "{text:?}");
        }
        for text in ["", "Upper", "thirteen-long", "a_b"] {
            assert!(text.parse::<Instance>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_instance_of_a_root_is_a_valid_instance_and_differs_by_root() {
        let one = Instance::of_root("/var/lib/longshore".as_ref());
        assert_eq!(one.as_str().parse::<Instance>(), Ok(one.clone()));
        assert_ne!(one, Instance::of_root("/var/lib/longshore2".as_ref()));
    }
}

//! Names of things: 64 lowercase hexadecimal digits for whatever lasts, as every CRI client expects.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// Text that is not an id of ours: nothing with such a name can exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 64 lowercase hexadecimal digits are")]
pub struct BadId(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new one, never seen before.
            ///
            /// # Errors
            /// When the kernel's random numbers cannot be read.
            pub fn random() -> io::Result<Self> {
                random_hex().map(Self)
            }

            /// The digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                if is_id(&text) { Ok(Self(text)) } else { Err(BadId(clipped(&text))) }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = BadId;
            fn try_from(text: &str) -> Result<Self, BadId> {
                if is_id(text) { Ok(Self(text.to_owned())) } else { Err(BadId(clipped(text))) }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A pod sandbox.
    SandboxId
}
id! {
    /// A container.
    ContainerId
}
id! {
    /// One command executed inside a container.
    ExecId
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Enough to recognise what was asked for; the rest could be of any length.
fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

/// 256 bits as 64 hexadecimal digits.
pub(crate) fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lowercase_digits_are_an_id() {
        let id = ContainerId::random().unwrap();
        assert_eq!(ContainerId::try_from(id.as_str()), Ok(id));
        for bad in ["", "..", "../../etc", &"A".repeat(64), &"a".repeat(63), &"/".repeat(64)] {
            assert!(ContainerId::try_from(bad).is_err(), "{bad:?}");
        }
    }
}

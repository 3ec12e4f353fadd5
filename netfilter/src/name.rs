//! Names that end up in rule comments, hashes and interface matches.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of one service port: `namespace/name`, or `namespace/name:port` when the port has a name.
///
/// Only letters, digits, `-`, `_` and `.` are taken: the name is written into rules, where a quote or a
/// line break would start a rule of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName(Arc<str>);

/// A name that cannot stand in a rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadName {
    /// The part is empty, or longer than its limit.
    #[error("{part} {name:?} must have 1 to {limit} characters")]
    Length {
        /// Which part of the name it is.
        part: &'static str,
        /// The name as given.
        name: String,
        /// The most characters it may have.
        limit: usize,
    },
    /// The part holds a character that rules cannot hold.
    #[error("{part} {name:?} has a character other than letters, digits, '-', '_' and '.'")]
    Character {
        /// Which part of the name it is.
        part: &'static str,
        /// The name as given.
        name: String,
    },
}

/// The longest name the Kubernetes API has (a DNS subdomain).
const LONGEST_NAME: usize = 253;
/// IFNAMSIZ without its final zero byte.
const LONGEST_INTERFACE: usize = 15;

impl ServicePortName {
    /// Joins the parts; `port` is empty for the unnamed port.
    ///
    /// # Errors
    /// If a part is too long, empty (other than `port`), or holds a character that rules cannot hold.
    pub fn new(namespace: &str, name: &str, port: &str) -> Result<Self, BadName> {
        check("namespace", namespace, LONGEST_NAME)?;
        check("service", name, LONGEST_NAME)?;
        if port.is_empty() {
            return Ok(Self(format!("{namespace}/{name}").into()));
        }
        check("port", port, LONGEST_NAME)?;
        Ok(Self(format!("{namespace}/{name}:{port}").into()))
    }

    /// The whole name as it stands in comments.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace of the service.
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name of the service.
    pub fn service(&self) -> &str {
        let name = self.0.split_once('/').map_or("", |(_, name)| name);
        name.split_once(':').map_or(name, |(name, _)| name)
    }

    /// The name of the port, empty when it has none.
    pub fn port(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, port)| port)
    }
}

/// In the order of its text, so that a range of names can be asked for.
impl Borrow<str> for ServicePortName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network interface, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Takes a name of 1 to 15 letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// If it is empty, longer than the kernel's limit, or holds another character.
    pub fn new(name: &str) -> Result<Self, BadName> {
        check("interface", name, LONGEST_INTERFACE)?;
        Ok(Self(name.to_owned()))
    }

    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(part: &'static str, name: &str, limit: usize) -> Result<(), BadName> {
    if name.is_empty() || name.len() > limit {
        return Err(BadName::Length { part, name: name.to_owned(), limit });
    }
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Ok(());
    }
    Err(BadName::Character { part, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_parts_back() {
        let name = ServicePortName::new("demo", "web", "http").unwrap();
        assert_eq!((name.namespace(), name.service(), name.port()), ("demo", "web", "http"));
        let unnamed = ServicePortName::new("demo", "web", "").unwrap();
        assert_eq!((unnamed.as_str(), unnamed.service(), unnamed.port()), ("demo/web", "web", ""));
    }

    #[test]
    fn a_name_that_could_start_a_rule_of_its_own_is_refused() {
        for bad in ["a b", "a\"b", "a\nb", "a/b", "a:b", "ä", ""] {
            assert!(ServicePortName::new("demo", bad, "").is_err(), "{bad:?}");
        }
        assert!(InterfaceName::new("an-interface-too-long").is_err());
    }
}

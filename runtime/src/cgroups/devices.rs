//! Which devices the processes of a group may use: the rules and their form on cgroup v1.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// Block, character or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds; numbers of such a rule count for nothing, as the kernel has it.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Reading from it.
    pub read: bool,
    /// Writing to it.
    pub write: bool,
    /// Making a node for it.
    pub mknod: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// From a text such as `rwm`; `None` for any other letter, or none.
    pub fn parse(text: &str) -> Option<Self> {
        let known = !text.is_empty() && text.chars().all(|letter| "rwm".contains(letter));
        known.then(|| Self { read: text.contains('r'), write: text.contains('w'), mknod: text.contains('m') })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [(self.read, "r"), (self.write, "w"), (self.mknod, "m")];
        letters.iter().filter(|(set, _)| *set).try_for_each(|(_, letter)| f.write_str(letter))
    }
}

/// One rule; of a list of them the last that matches counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Which kind.
    pub kind: DeviceKind,
    /// Device number; `None` is any.
    pub major: Option<u32>,
    /// Device number; `None` is any.
    pub minor: Option<u32>,
    /// What is allowed or denied.
    pub access: Access,
}

impl DeviceRule {
    /// Everything denied: where each list begins.
    pub const NOTHING: Self =
        Self { allow: false, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL };

    /// Everything allowed, as in a privileged container.
    pub const EVERYTHING: Self = Self { allow: true, ..Self::NOTHING };

    /// The rules of an OCI spec; negative numbers (and none) mean any. A rule without an access changes nothing.
    pub fn of_spec(rules: &[LinuxDeviceCgroup]) -> Vec<Self> {
        rules.iter().filter_map(Self::of_spec_rule).collect()
    }

    fn of_spec_rule(rule: &LinuxDeviceCgroup) -> Option<Self> {
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => DeviceKind::Char,
            Some(LinuxDeviceType::P) => return None,
            Some(LinuxDeviceType::A) | None => DeviceKind::All,
        };
        let access = Access::parse(rule.access().as_deref().unwrap_or(""))?;
        Some(Self { allow: rule.allow(), kind, major: number(rule.major()), minor: number(rule.minor()), access })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

/// `(file, line)` for the devices controller of v1, in order.
pub(super) fn v1_lines(rules: &[DeviceRule]) -> Vec<(&'static str, String)> {
    let line = |rule: &DeviceRule| {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        // The kernel takes the bare letter for everything; with numbers behind it the line means the same.
        let everything = rule.kind == DeviceKind::All && rule.access == Access::ALL;
        (file, if everything { "a".to_owned() } else { rule.to_string() })
    };
    // A rule for both kinds but not for all accesses has no line of its own on v1.
    rules.iter().flat_map(split_kinds).map(|rule| line(&rule)).collect()
}

fn split_kinds(rule: &DeviceRule) -> Vec<DeviceRule> {
    match (rule.kind, rule.access == Access::ALL && rule.major.is_none() && rule.minor.is_none()) {
        (DeviceKind::All, false) => {
            [DeviceKind::Block, DeviceKind::Char].map(|kind| DeviceRule { kind, ..*rule }).to_vec()
        }
        _ => vec![*rule],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn char_device(major: u32, minor: Option<u32>, access: &str) -> DeviceRule {
        let access = Access::parse(access).unwrap();
        DeviceRule { allow: true, kind: DeviceKind::Char, major: Some(major), minor, access }
    }

    #[test]
    fn a_container_starts_from_nothing_on_v1() {
        let all_mknod = DeviceRule { access: Access::parse("m").unwrap(), ..DeviceRule::EVERYTHING };
        let rules = [DeviceRule::NOTHING, all_mknod, char_device(1, Some(3), "rwm"), char_device(136, None, "rw")];
        let lines: Vec<String> = v1_lines(&rules).into_iter().map(|(file, line)| format!("{file} {line}\n")).collect();
        expect![[r#"
            devices.deny a
            devices.allow b *:* m
            devices.allow c *:* m
            devices.allow c 1:3 rwm
            devices.allow c 136:* rw
        "#]]
        .assert_eq(&lines.concat());
    }

    #[test]
    fn an_access_is_some_of_three_letters() {
        assert_eq!(Access::parse("mr").map(|access| access.to_string()), Some("rm".to_owned()));
        assert_eq!(Access::parse(""), None);
        assert_eq!(Access::parse("rx"), None);
    }
}

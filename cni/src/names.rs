//! Names that the kernel sees. All of them follow from the instance and the sandbox, so that a later run of the agent
//! finds what an earlier one left; they must never change between versions.

use std::net::Ipv4Addr;

use crate::ids::{Instance, SandboxId};

/// The pod's interface. Kubernetes and CNI call it so everywhere.
pub const POD_INTERFACE: &str = "eth0";

/// Start of every host-side link name.
const HOST_LINK_PREFIX: &str = "ls";

/// Thirteen base-32 digits hold 64 bits; with the prefix that is 15 bytes, the kernel's limit for a link name.
const HASH_DIGITS: usize = 13;

/// FNV-1a, 64 bits, over the parts with a zero byte after each. Chosen because it is a few lines and will not change with
/// the standard library; ids are not chosen by an adversary.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    let bytes = parts.iter().flat_map(|part| part.iter().copied().chain([0]));
    for byte in bytes {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state
}

/// Host side of a sandbox' veth pair.
pub(crate) fn host_link(instance: &Instance, sandbox: &SandboxId) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = hash(&[instance.as_str().as_bytes(), sandbox.as_str().as_bytes()]);
    let digit = |place: usize| char::from(DIGITS[(hash >> (place * 5)) as usize & 31]);
    (0..HASH_DIGITS).map(digit).fold(HOST_LINK_PREFIX.to_owned(), |name, digit| name + digit.encode_utf8(&mut [0; 4]))
}

/// Whether a link name has the shape that [`host_link`] gives.
pub(crate) fn is_host_link(name: &str) -> bool {
    name.len() == HOST_LINK_PREFIX.len() + HASH_DIGITS && name.starts_with(HOST_LINK_PREFIX)
}

/// The bridge's hardware address: locally administered, made of the instance, and given when the link is created. It is
/// how a bridge is known to be ours (no other attribute can be set in the same step), and it stays when ports come and go.
pub(crate) fn bridge_mac(instance: &Instance) -> [u8; 6] {
    let [a, b, c, d, ..] = hash(&[b"bridge", instance.as_str().as_bytes()]).to_be_bytes();
    [0x02, 0x4c, a, b, c, d]
}

/// Link group for links that are about to be removed, far from the small numbers that people use.
pub(crate) fn removal_group(instance: &Instance) -> u32 {
    let [a, b, c, ..] = hash(&[b"removal", instance.as_str().as_bytes()]).to_be_bytes();
    u32::from_be_bytes([0x4c, a, b, c])
}

/// A pod's hardware address: locally administered, made of its address, so that a neighbour's cache entry stays true when
/// the address is given to another pod.
pub(crate) fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x06, 0x4c, a, b, c, d]
}

/// `00:11:22:33:44:55`
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Shown by `ip link`; tells a person, and a later run, whose link this is.
pub(crate) fn link_alias(instance: &Instance, sandbox: &SandboxId) -> String {
    format!("{}{sandbox}", link_alias_prefix(instance))
}

/// What the alias of every link of this instance begins with.
pub(crate) fn link_alias_prefix(instance: &Instance) -> String {
    format!("longshore {instance} sandbox ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_as_they_are_from_version_to_version() {
        let (instance, sandbox) = ("one".parse().unwrap(), "sandbox".parse().unwrap());
        expect_test::expect!["lsucpobncz6if3c"].assert_eq(&host_link(&instance, &sandbox));
        expect_test::expect!["02:4c:8a:0a:9d:10"].assert_eq(&mac_text(bridge_mac(&instance)));
    }

    #[test]
    fn two_instances_name_the_same_sandbox_differently() {
        let sandbox: SandboxId = "sandbox".parse().unwrap();
        let names = ["one", "two"].map(|instance| host_link(&instance.parse().unwrap(), &sandbox));
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| is_host_link(name)));
    }
}

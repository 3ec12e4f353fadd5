//! What the agent is told about the pod network, checked before anything is touched.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::{
    ids::Instance,
    range::{PodRange, RangeError},
};

/// Name of the bridge when none is configured.
pub const DEFAULT_BRIDGE: &str = "longshore0";

/// IFNAMSIZ without its final zero byte.
const LONGEST_LINK_NAME: usize = 15;

/// The least that IPv4 hosts must take, and the most that a veth takes.
const MTU: std::ops::RangeInclusive<u32> = 576..=65535;

/// Settings of one agent's pod network.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 bytes; see [`DEFAULT_BRIDGE`].
    pub bridge: String,
    /// Addresses for pods, /8 to /30; the first one is the bridge's.
    pub pod_cidr: Ipv4Net,
    /// Other networks that pods are known to by their own addresses (the cluster's pod networks on other nodes): traffic
    /// to them is not masqueraded, traffic from them is forwarded to pods.
    pub no_masquerade: Vec<Ipv4Net>,
    /// Directory of the address leases, one per agent. It is created and later removed by us; it must outlive the agent's
    /// process, not the machine's uptime.
    pub leases: PathBuf,
    /// Largest packet on the pod network in bytes; `None` takes that of the interface with the default route.
    pub mtu: Option<u32>,
    /// Which agent of this machine this is; see [`Instance::of_root`].
    pub instance: Instance,
}

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The bridge's name.
    #[error(
        "bridge name {0:?} must be 1 to 15 of A-Z a-z 0-9 - _ . and neither \".\", \"..\" nor shaped like a pod link"
    )]
    Bridge(String),
    /// The pod range.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The largest packet.
    #[error("MTU {0} is outside 576 to 65535")]
    Mtu(u32),
}

impl NetworkConfig {
    /// Checks everything that can be checked without looking at the machine.
    pub(crate) fn check(&self) -> Result<PodRange, ConfigError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name = &self.bridge;
        let usable = (1..=LONGEST_LINK_NAME).contains(&name.len()) && name.bytes().all(allowed);
        // A bridge with the shape of a pod's link would be taken for one and cleaned away.
        if !usable || name == "." || name == ".." || crate::names::is_host_link(name) {
            return Err(ConfigError::Bridge(name.clone()));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(ConfigError::Mtu(mtu));
        }
        Ok(PodRange::new(self.pod_cidr)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut NetworkConfig)) -> Result<PodRange, ConfigError> {
        let mut config = NetworkConfig {
            bridge: DEFAULT_BRIDGE.to_owned(),
            pod_cidr: "10.88.0.0/16".parse().unwrap(),
            no_masquerade: Vec::new(),
            leases: PathBuf::new(),
            mtu: None,
            instance: "one".parse().unwrap(),
        };
        change(&mut config);
        config.check()
    }

    #[test]
    fn a_bad_value_is_found_before_anything_is_touched() {
        assert!(check(|_| ()).is_ok());
        for bridge in ["", "sixteen-bytes-xx", "a/b", "a b", "..", "eth0+", "lsaaaaaaaaaaaaa"] {
            assert_eq!(check(|config| config.bridge = bridge.to_owned()), Err(ConfigError::Bridge(bridge.to_owned())));
        }
        assert_eq!(check(|config| config.mtu = Some(100)), Err(ConfigError::Mtu(100)));
        assert!(matches!(
            check(|config| config.pod_cidr = "10.88.0.0/31".parse().unwrap()),
            Err(ConfigError::Range(RangeError::Size(_)))
        ));
    }
}

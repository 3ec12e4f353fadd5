//! How packets of this node's pods are recognised, from what a person asks for. Pure.

use ipnet::IpNet;
use netfilter::{BadName, InterfaceName, LocalTraffic};

/// kube-proxy's `--detect-local-mode`, in its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LocalMode {
    /// By the cluster's range of pod addresses.
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By this node's own range of pod addresses.
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By the bridge they come from.
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By the beginning of the name of the interface they come from.
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

/// What a person asks for, each where it was given.
#[derive(Clone, Copy, Debug)]
pub struct Detect<'a> {
    /// In which way; by the ranges of `cluster_cidr`, or else by the node's own, where it is not said.
    pub mode: Option<LocalMode>,
    /// The cluster's ranges of pod addresses.
    pub cluster_cidr: &'a [IpNet],
    /// A bridge.
    pub bridge: Option<&'a str>,
    /// The beginning of interfaces' names.
    pub prefix: Option<&'a str>,
}

/// Settings that do not go together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadDetect {
    /// A mode without what it needs.
    #[error("--detect-local-mode={mode} needs {flag}")]
    Missing {
        /// The mode.
        mode: &'static str,
        /// What it needs.
        flag: &'static str,
    },
    /// A setting of another mode, which would have no effect.
    #[error("{flag} has no effect without --detect-local-mode={mode}")]
    Idle {
        /// The setting.
        flag: &'static str,
        /// The mode that it belongs to.
        mode: &'static str,
    },
    /// Only one range of a family can be recognised.
    #[error("--cluster-cidr takes one range of each address family: {0} is the second of its own")]
    TwoRanges(IpNet),
    /// No interface can have such a name.
    #[error("{flag}")]
    Interface {
        /// The setting.
        flag: &'static str,
        /// What is wrong with it.
        source: BadName,
    },
    /// The longest name of an interface would not be longer, and rules need a character more.
    #[error("--pod-interface-name-prefix {0:?} must have 14 characters at most")]
    LongPrefix(String),
}

const BRIDGE: &str = "--pod-bridge-interface";
const PREFIX: &str = "--pod-interface-name-prefix";
/// IFNAMSIZ without its final zero byte and the `+` that stands for any ending.
const LONGEST_PREFIX: usize = 14;

impl Detect<'_> {
    /// How packets are recognised, the first that fits a family; `own` is this node's range of pod addresses, `bridge` its own.
    ///
    /// # Errors
    /// What does not go together, or is none.
    pub fn local_traffic(&self, own: IpNet, bridge: &str) -> Result<Vec<LocalTraffic>, BadDetect> {
        use LocalMode::{BridgeInterface, ClusterCidr, InterfaceNamePrefix, NodeCidr};
        self.has_no_idle()?;
        Ok(match self.mode {
            Some(ClusterCidr) if self.cluster_cidr.is_empty() => {
                return Err(BadDetect::Missing { mode: "ClusterCIDR", flag: "--cluster-cidr" });
            }
            Some(ClusterCidr) => self.ranges()?,
            None if !self.cluster_cidr.is_empty() => self.ranges()?,
            Some(NodeCidr) | None => vec![LocalTraffic::Cidr(own)],
            Some(BridgeInterface) => vec![LocalTraffic::Bridge(interface(BRIDGE, self.bridge.unwrap_or(bridge))?)],
            Some(InterfaceNamePrefix) => {
                let missing = BadDetect::Missing { mode: "InterfaceNamePrefix", flag: PREFIX };
                let prefix = self.prefix.ok_or(missing)?;
                if prefix.len() > LONGEST_PREFIX {
                    return Err(BadDetect::LongPrefix(prefix.to_owned()));
                }
                vec![LocalTraffic::InterfacePrefix(interface(PREFIX, prefix)?)]
            }
        })
    }

    fn has_no_idle(&self) -> Result<(), BadDetect> {
        if self.bridge.is_some() && self.mode != Some(LocalMode::BridgeInterface) {
            return Err(BadDetect::Idle { flag: BRIDGE, mode: "BridgeInterface" });
        }
        if self.prefix.is_some() && self.mode != Some(LocalMode::InterfaceNamePrefix) {
            return Err(BadDetect::Idle { flag: PREFIX, mode: "InterfaceNamePrefix" });
        }
        Ok(())
    }

    fn ranges(&self) -> Result<Vec<LocalTraffic>, BadDetect> {
        let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
        for (at, range) in self.cluster_cidr.iter().enumerate() {
            if self.cluster_cidr[..at].iter().any(|other| is_v4(other) == is_v4(range)) {
                return Err(BadDetect::TwoRanges(*range));
            }
        }
        Ok(self.cluster_cidr.iter().copied().map(LocalTraffic::Cidr).collect())
    }
}

fn interface(flag: &'static str, name: &str) -> Result<InterfaceName, BadDetect> {
    InterfaceName::new(name).map_err(|source| BadDetect::Interface { flag, source })
}

#[cfg(test)]
mod tests {
    use super::LocalMode::{BridgeInterface, ClusterCidr, InterfaceNamePrefix, NodeCidr};
    use super::*;

    fn found(detect: Detect<'_>) -> String {
        match detect.local_traffic("10.88.0.0/16".parse().unwrap(), "longshore0") {
            Ok(all) => all
                .iter()
                .map(|local| match local {
                    LocalTraffic::Cidr(range) => range.to_string(),
                    LocalTraffic::Bridge(name) => format!("bridge {}", name.as_str()),
                    LocalTraffic::InterfacePrefix(name) => format!("prefix {}", name.as_str()),
                    LocalTraffic::Unknown => "unknown".to_owned(),
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("! {}", crate::errors::chain(&error)),
        }
    }

    #[test]
    fn each_mode_takes_its_own_settings() {
        let none = Detect { mode: None, cluster_cidr: &[], bridge: None, prefix: None };
        let ranges = ["10.244.0.0/16", "fd00:244::/56"].map(|range| range.parse().unwrap());
        let cluster = Detect { cluster_cidr: &ranges, ..none };
        let of = |mode, detect: Detect<'static>| Detect { mode: Some(mode), ..detect };
        assert_eq!(found(none), "10.88.0.0/16");
        assert_eq!(found(cluster), "10.244.0.0/16 fd00:244::/56");
        assert_eq!(found(Detect { mode: Some(ClusterCidr), ..cluster }), "10.244.0.0/16 fd00:244::/56");
        assert_eq!(found(Detect { mode: Some(NodeCidr), ..cluster }), "10.88.0.0/16");
        assert_eq!(found(of(BridgeInterface, none)), "bridge longshore0");
        assert_eq!(found(of(BridgeInterface, Detect { bridge: Some("cni0"), ..none })), "bridge cni0");
        assert_eq!(found(of(InterfaceNamePrefix, Detect { prefix: Some("veth"), ..none })), "prefix veth");
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_what_would() {
        let none = Detect { mode: None, cluster_cidr: &[], bridge: None, prefix: None };
        let of = |mode, detect: Detect<'static>| found(Detect { mode: Some(mode), ..detect });
        assert_eq!(of(ClusterCidr, none), "! --detect-local-mode=ClusterCIDR needs --cluster-cidr");
        assert_eq!(
            of(InterfaceNamePrefix, none),
            "! --detect-local-mode=InterfaceNamePrefix needs --pod-interface-name-prefix"
        );
        assert_eq!(
            of(NodeCidr, Detect { bridge: Some("cni0"), ..none }),
            "! --pod-bridge-interface has no effect without --detect-local-mode=BridgeInterface"
        );
        assert_eq!(
            found(Detect { prefix: Some("veth"), ..none }),
            "! --pod-interface-name-prefix has no effect without --detect-local-mode=InterfaceNamePrefix"
        );
        assert!(
            of(BridgeInterface, Detect { bridge: Some("cni0 -j ACCEPT"), ..none }).contains("has a character other")
        );
        assert!(of(InterfaceNamePrefix, Detect { prefix: Some("fifteen-letters"), ..none }).contains("14 characters"));
        let ranges = ["10.1.0.0/16", "10.2.0.0/16"].map(|range| range.parse().unwrap());
        assert!(found(Detect { cluster_cidr: &ranges, ..none }).contains("10.2.0.0/16 is the second"));
    }
}

//! The chains in which every service has rules of its own.

use super::Table;

/// A chain that leads packets to services, shared by all of them. Rules of different services may stand
/// in any order: no packet matches those of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dispatch {
    /// REJECT and DROP for cluster IPs.
    FilterServices,
    /// REJECT and DROP for every other address and for node ports.
    FilterExternalServices,
    /// ACCEPT for health-check node ports.
    FilterNodePorts,
    /// DROP for what source ranges did not let through.
    FilterFirewall,
    /// Node port to service chain.
    NatNodePorts,
    /// Address and port to service chain; its last rule leads to the node ports.
    NatServices,
}

impl Dispatch {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 6] = [
        Self::FilterServices,
        Self::FilterExternalServices,
        Self::FilterNodePorts,
        Self::FilterFirewall,
        Self::NatNodePorts,
        Self::NatServices,
    ];

    /// The table it stands in.
    pub fn table(self) -> Table {
        match self {
            Self::FilterServices | Self::FilterExternalServices | Self::FilterNodePorts | Self::FilterFirewall => {
                Table::Filter
            }
            Self::NatNodePorts | Self::NatServices => Table::Nat,
        }
    }

    /// The name of the chain.
    pub fn chain(self) -> &'static str {
        match self {
            Self::FilterServices | Self::NatServices => "KUBE-SERVICES",
            Self::FilterExternalServices => "KUBE-EXTERNAL-SERVICES",
            Self::FilterNodePorts | Self::NatNodePorts => "KUBE-NODEPORTS",
            Self::FilterFirewall => "KUBE-PROXY-FIREWALL",
        }
    }
}

//! Host ports: what a pod asks for, and who is in whose way.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};

/// Far above what pods ask for; it bounds the rules that one pod can cause.
const MOST_PORTS: usize = 1024;

/// Transport protocol of a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// One port of the node that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Address of the node that the port is bound to; `None` and the unspecified address mean all of them.
    pub host_ip: Option<IpAddr>,
    /// Port on the node, not 0.
    pub host_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod, not 0.
    pub container_port: u16,
}

/// A host port that cannot be given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// Port 0 names no port.
    #[error("{0} uses port 0")]
    Zero(HostPort),
    /// The pod network is IPv4 only.
    #[error("{0} asks for an IPv6 address of the node, but the pod network is IPv4")]
    Family(HostPort),
    /// The same port is asked for twice by one sandbox.
    #[error("{0} is asked for twice")]
    Twice(HostPort),
    /// More ports than one sandbox may have.
    #[error("{0} host ports are more than the {MOST_PORTS} allowed")]
    TooMany(usize),
}

impl Protocol {
    /// As iptables spells it.
    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl HostPort {
    /// The address that limits the port, when one does.
    pub(crate) fn bound_to(&self) -> Option<Ipv4Addr> {
        match self.host_ip {
            Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
            _ => None,
        }
    }

    /// Whether the port must answer on 127.0.0.0/8 of the node.
    pub(crate) fn covers_loopback(&self) -> bool {
        self.bound_to().is_none_or(|address| address.is_loopback())
    }

    /// Whether a packet could be meant for both.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let same_address = match (self.bound_to(), other.bound_to()) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        same_address && (self.host_port, self.protocol) == (other.host_port, other.protocol)
    }
}

/// Checks one sandbox' wishes on their own.
///
/// # Errors
/// The first port that cannot be given, and why.
pub(crate) fn check(ports: &[HostPort]) -> Result<(), PortError> {
    if ports.len() > MOST_PORTS {
        return Err(PortError::TooMany(ports.len()));
    }
    for (place, port) in ports.iter().enumerate() {
        if port.host_port == 0 || port.container_port == 0 {
            return Err(PortError::Zero(port.clone()));
        }
        if matches!(port.host_ip, Some(IpAddr::V6(address)) if !address.is_unspecified()) {
            return Err(PortError::Family(port.clone()));
        }
        if ports[..place].iter().any(|earlier| earlier.conflicts_with(port)) {
            return Err(PortError::Twice(port.clone()));
        }
    }
    Ok(())
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.bound_to().map_or_else(|| "*".to_owned(), |address| address.to_string());
        write!(f, "{address}:{}/{}", self.host_port, self.protocol.keyword())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, host_port: u16, protocol: Protocol) -> HostPort {
        HostPort { host_ip: host_ip.parse().ok(), host_port, protocol, container_port: 80 }
    }

    #[test]
    fn ports_conflict_when_a_packet_could_be_meant_for_both() {
        let any = port("", 80, Protocol::Tcp);
        assert!(any.conflicts_with(&port("10.0.0.1", 80, Protocol::Tcp)));
        assert!(port("0.0.0.0", 80, Protocol::Tcp).conflicts_with(&any));
        assert!(!any.conflicts_with(&port("", 80, Protocol::Udp)));
        assert!(!any.conflicts_with(&port("", 81, Protocol::Tcp)));
        assert!(!port("10.0.0.1", 80, Protocol::Tcp).conflicts_with(&port("10.0.0.2", 80, Protocol::Tcp)));
    }

    #[test]
    fn only_a_port_bound_to_another_address_stays_off_the_loopback() {
        assert!(port("", 80, Protocol::Tcp).covers_loopback());
        assert!(port("127.0.0.1", 80, Protocol::Tcp).covers_loopback());
        assert!(!port("10.0.0.1", 80, Protocol::Tcp).covers_loopback());
    }

    #[test]
    fn wishes_that_cannot_be_met_are_refused() {
        let (v4, v6) = (port("", 80, Protocol::Tcp), port("fd00::1", 80, Protocol::Tcp));
        assert_eq!(check(&[v4.clone(), v4.clone()]), Err(PortError::Twice(v4.clone())));
        assert_eq!(check(std::slice::from_ref(&v6)), Err(PortError::Family(v6.clone())));
        let zero = port("", 0, Protocol::Tcp);
        assert_eq!(check(std::slice::from_ref(&zero)), Err(PortError::Zero(zero.clone())));
        assert_eq!(check(&[v4, port("::", 81, Protocol::Tcp)]), Ok(()));
    }
}

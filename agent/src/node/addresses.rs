//! The node's own addresses, where nobody named them.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Addresses that the kernel would send from, IPv4 before IPv6: asked by connecting a UDP socket to an address that is
/// reserved for documentation, which sends nothing. Empty on a node without a default route.
pub fn primary_addresses() -> Vec<IpAddr> {
    [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")]
        .iter()
        .filter_map(|(own, far)| from(own, far))
        .collect()
}

fn from(own: &str, far: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect(far.parse::<SocketAddr>().ok()?).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

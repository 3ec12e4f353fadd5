//! Ports that are listened on as Go's servers do it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Handshakes that wait to be taken.
const BACKLOG: u32 = 128;

/// Listens on `at`. An address of all zeros takes both families.
///
/// # Errors
/// When another program has the port, or the machine does not have the address.
pub(crate) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    if at.ip() == Ipv4Addr::UNSPECIFIED {
        return TcpListener::from_std(both_families(at.port())?);
    }
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn both_families(port: u16) -> io::Result<std::net::TcpListener> {
    // The standard library leaves IPV6_V6ONLY as the kernel has it, which is off unless somebody changed it.
    let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
    let listener = listener.or_else(|_| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

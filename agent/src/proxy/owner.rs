//! Who may change the rules of Services.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Abstract sockets belong to a network namespace, as rules do: who holds this name owns the KUBE- chains.
const NAME: &str = "longshore-proxy";

/// The right to change the rules of this network namespace. It ends with the process, however that ends.
#[derive(Debug)]
pub struct Owner {
    _socket: UnixListener,
}

/// Another agent works on the same chains.
#[derive(Debug, thiserror::Error)]
#[error("another longshore already programs the Services of this machine; run this one with --proxy-mode=off")]
pub struct Taken {
    #[from]
    source: io::Error,
}

impl Owner {
    /// Takes the right.
    ///
    /// # Errors
    /// Somebody has it.
    pub fn take() -> Result<Self, Taken> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        Ok(Self { _socket: UnixListener::bind_addr(&address)? })
    }
}

//! SCTP packets by hand (RFC 9260), for kernels that have no SCTP of their own: what a node does with packets on their way
//! needs none.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::pod_network::{Netns, PATIENCE};

const IP_HEADER: usize = 20;
const SCTP: u8 = 132;
/// Types of the first two chunks of an association.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
/// What each side wants to be called.
const TAGS: [u32; 2] = [0x0a0a_0a0a, 0x0b0b_0b0b];

/// Hears every packet that comes to a namespace.
#[derive(Debug)]
pub struct Ear(OwnedFd);

impl Ear {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(netns: &Netns) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let open = || socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthIp);
        let ear = netns.run(open)??;
        setsockopt(&ear, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE.as_secs().try_into()?))?;
        Ok(Self(ear))
    }

    /// Source and destination of the next packet that begins an association, or answers to one.
    fn next(&self, kind: u8) -> Result<[SocketAddrV4; 2]> {
        let mut packet = [0; 2048];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty())?;
            if let Some(ends) = ends(&packet[..length], kind) {
                return Ok(ends);
            }
        }
    }
}

fn ends(packet: &[u8], kind: u8) -> Option<[SocketAddrV4; 2]> {
    let is_it = packet.get(9) == Some(&SCTP) && packet.get(IP_HEADER + 12) == Some(&kind);
    let address = |at: usize| Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into());
    let port = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let end = |ip, number| Some(SocketAddrV4::new(address(ip)?, port(number)?));
    if is_it { Some([end(12, IP_HEADER)?, end(16, IP_HEADER + 2)?]) } else { None }
}

/// Begins an association from `client` to a service, and lets the server that hears of it answer. Gives where the packet
/// went to, and where the answer seemed to come from.
///
/// # Errors
/// Either of the two packets did not arrive.
pub fn associate(
    client: (&Netns, SocketAddrV4),
    service: SocketAddrV4,
    server: &Netns,
) -> Result<(SocketAddrV4, SocketAddrV4)> {
    let (at_server, at_client) = (Ear::new(server)?, Ear::new(client.0)?);
    send(client.0, INIT, client.1, service)?;
    let [from, to] = at_server.next(INIT)?;
    send(server, INIT_ACK, to, from)?;
    let [seen, back] = at_client.next(INIT_ACK)?;
    ensure!(back == client.1, "the answer came to {back}");
    Ok((to, seen))
}

fn send(netns: &Netns, kind: u8, from: SocketAddrV4, to: SocketAddrV4) -> Result<()> {
    let packet = packet(kind, from, to)?;
    netns.run(|| -> Result<()> {
        // Of this kind a socket is given whole packets, of any protocol.
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        // What the standard library does for datagrams is what sends them.
        UdpSocket::from(raw).send_to(&packet, SocketAddrV4::new(*to.ip(), 0))?;
        Ok(())
    })?
}

fn packet(kind: u8, from: SocketAddrV4, to: SocketAddrV4) -> Result<Vec<u8>> {
    // Whoever answers calls the other by the name that it gave itself.
    let (called, own) = if kind == INIT { (0, TAGS[0]) } else { (TAGS[0], TAGS[1]) };
    let mut sctp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    sctp.extend(
        [u32::to_be_bytes(called), [0; 4], [kind, 0, 0, 20], own.to_be_bytes(), 65_536_u32.to_be_bytes()].concat(),
    );
    // One stream each way, and the first number of the data to come.
    sctp.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&sum);
    let length = u16::try_from(IP_HEADER + sctp.len())?.to_be_bytes();
    // The kernel fills in the header's checksum.
    let header = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, SCTP, 0, 0];
    Ok([&header[..], &from.ip().octets(), &to.ip().octets(), &sctp].concat())
}

/// The Castagnoli polynomial, from the lowest bit on.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0_u32, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}

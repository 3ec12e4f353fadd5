//! ctnetlink as in linux/netfilter/nfnetlink_conntrack.h: attributes are length, type (two bytes each, in the machine's
//! order) and value padded to four bytes; addresses and ports inside are in network order.

use super::Flow;
use crate::{Family, Protocol};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Linux 5.18 tells only entries whose status has these bits as in STATUS; older kernels tell all.
const STATUS_MASK: u16 = 26;
/// IPS_SEEN_REPLY.
const ANSWERED: u32 = 1 << 1;
/// IPS_DST_NAT.
const TRANSLATED: u32 = 1 << 5;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// CTA_IP_V4_SRC and the like: source, destination.
const ADDRESSES: [(u16, u16); 2] = [(1, 2), (3, 4)];
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Datagrams of a dump are 8 KiB, or 32 KiB if the reader offers so much.
const BUFFER: usize = 1 << 15;
/// The kernel answers at once; a table of a hundred thousand entries takes a tenth of a second.
const PATIENCE: i64 = 5;

/// Forgets the UDP and SCTP connections of a family that are `stale`, in the calling thread's network namespace, and says how
/// many that were. Blocks.
///
/// # Errors
/// The kernel has no connection tracking, or refuses.
pub fn forget(family: Family, stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    forget_among(family, &[], |entry| entry.flow.protocol != Protocol::Tcp && stale(&entry.flow))
}

/// The same for attempts at TCP connections: nobody answered, and they are led nowhere else.
pub(super) fn forget_attempts(family: Family, stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut filter = Vec::new();
    push(&mut filter, STATUS, &0_u32.to_be_bytes());
    push(&mut filter, STATUS_MASK, &(ANSWERED | TRANSLATED).to_be_bytes());
    forget_among(family, &filter, |entry| {
        entry.flow.protocol == Protocol::Tcp && entry.status & (ANSWERED | TRANSLATED) == 0 && stale(&entry.flow)
    })
}

fn forget_among(family: Family, filter: &[u8], stale: impl Fn(&Entry) -> bool) -> io::Result<usize> {
    let socket = open()?;
    let mut keys = Vec::new();
    send(&socket, &message(family, GET, REQUEST | DUMP, filter))?;
    while receive(&socket, |body| keys.extend(entry(body).filter(&stale).map(|entry| entry.key)))? {}
    for key in &keys {
        send(&socket, &message(family, DELETE, REQUEST | ACK, key))?;
        match receive(&socket, |_| ()) {
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => (),
            done => drop(done?),
        }
    }
    Ok(keys.len())
}

fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
    Ok(socket)
}

fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    sendto(socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    Ok(())
}

/// Reads one datagram; false when it was the last one of an answer.
fn receive(socket: &OwnedFd, body: impl FnMut(&[u8])) -> io::Result<bool> {
    let mut datagram = vec![0; BUFFER];
    let length = recv(socket.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
    read(&datagram[..length], body)
}

fn read(mut rest: &[u8], mut body: impl FnMut(&[u8])) -> io::Result<bool> {
    while let Some(length) = u32_at(rest, 0).map(|length| length as usize).filter(|length| *length >= HEADER) {
        let (Some(content), Some(kind)) = (rest.get(HEADER..length), u16_at(rest, 4)) else { break };
        match kind {
            DONE => return Ok(false),
            ERROR => match u32_at(content, 0).map(u32::cast_signed) {
                Some(0) => return Ok(false),
                code => return Err(io::Error::from_raw_os_error(code.map_or(0, i32::saturating_neg))),
            },
            _ => body(content.get(FAMILY_HEADER..).unwrap_or_default()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn message(family: Family, kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind, flags].map(u16::to_ne_bytes).concat());
    // Sequence and port: one request at a time on a socket of its own needs neither.
    bytes.extend([0; 8]);
    // AF_INET or AF_INET6, version 0, no resource.
    bytes.extend([if family == Family::V4 { 2 } else { 10 }, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// A tracked connection.
#[derive(Debug)]
struct Entry {
    flow: Flow,
    status: u32,
    /// What the kernel knows it by.
    key: Vec<u8>,
}

/// `None` for other protocols, and for what cannot be read.
fn entry(body: &[u8]) -> Option<Entry> {
    let (mut original, mut reply, mut status, mut key) = (None, None, None, Vec::new());
    for (kind, value) in attributes(body) {
        match kind {
            TUPLE_ORIGINAL => original = Some(value),
            TUPLE_REPLY => reply = Some(value),
            STATUS => status = value.try_into().ok().map(u32::from_be_bytes),
            _ => (),
        }
        // The number makes sure that a newer connection between the same places is not taken for this one.
        if matches!(kind, TUPLE_ORIGINAL | ZONE | ID) {
            push(&mut key, kind, value);
        }
    }
    let (protocol, client, to) = tuple(original?)?;
    let (_, from, back) = tuple(reply?)?;
    Some(Entry { flow: Flow { protocol, client, to, from, back }, status: status?, key })
}

/// Protocol, source and destination.
fn tuple(bytes: &[u8]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let inside = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let (addresses, transport) = (inside(TUPLE_IP, bytes)?, inside(TUPLE_PROTOCOL, bytes)?);
    let protocol = match inside(PROTOCOL_NUMBER, transport)? {
        [TCP] => Protocol::Tcp,
        [UDP] => Protocol::Udp,
        [SCTP] => Protocol::Sctp,
        _ => return None,
    };
    let port = |kind| inside(kind, transport).and_then(|value| value.try_into().ok()).map(u16::from_be_bytes);
    let place = |address, number| Some(SocketAddr::new(ip(inside(address, addresses)?)?, port(number)?));
    let (source, destination) = ADDRESSES.into_iter().find(|(source, _)| inside(*source, addresses).is_some())?;
    Some((protocol, place(source, SOURCE_PORT)?, place(destination, DESTINATION_PORT)?))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let (kind, value) = (u16_at(bytes, 2)? & TYPE_MASK, bytes.get(4..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let flag = if kind == TUPLE_ORIGINAL { NESTED } else { 0 };
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend([length, kind | flag].map(u16::to_ne_bytes).concat());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(kind: u16, parts: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut inner = Vec::new();
        parts.iter().for_each(|(kind, value)| push(&mut inner, *kind, value));
        let mut outer = Vec::new();
        push(&mut outer, kind, &inner);
        outer
    }

    fn octets(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    fn tuple_bytes(kind: u16, protocol: u8, source: &str, destination: &str) -> Vec<u8> {
        let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
        let (from, to) = ADDRESSES[usize::from(source.is_ipv6())];
        let addresses = nested(TUPLE_IP, &[(from, octets(source.ip())), (to, octets(destination.ip()))]);
        let port = |place: SocketAddr| place.port().to_be_bytes().to_vec();
        let transport =
            [(PROTOCOL_NUMBER, vec![protocol]), (SOURCE_PORT, port(source)), (DESTINATION_PORT, port(destination))];
        let mut bytes = Vec::new();
        push(&mut bytes, kind, &[addresses, nested(TUPLE_PROTOCOL, &transport)].concat());
        bytes
    }

    fn body(protocol: u8) -> Vec<u8> {
        let original = tuple_bytes(TUPLE_ORIGINAL, protocol, "[fd00::1]:4000", "[fd00::10]:53");
        let mut bytes = [original, tuple_bytes(TUPLE_REPLY, protocol, "[fd01::2]:5353", "[fd00::1]:4000")].concat();
        push(&mut bytes, STATUS, &(ANSWERED | TRANSLATED).to_be_bytes());
        bytes
    }

    #[test]
    fn a_connection_is_read_and_others_are_left_alone() {
        let found = entry(&body(UDP)).unwrap();
        let wanted = Flow {
            protocol: Protocol::Udp,
            client: "[fd00::1]:4000".parse().unwrap(),
            to: "[fd00::10]:53".parse().unwrap(),
            from: "[fd01::2]:5353".parse().unwrap(),
            back: "[fd00::1]:4000".parse().unwrap(),
        };
        assert_eq!(found.flow, wanted);
        assert_eq!(found.status, ANSWERED | TRANSLATED);
        assert_eq!(found.key, tuple_bytes(TUPLE_ORIGINAL, UDP, "[fd00::1]:4000", "[fd00::10]:53"));
        assert_eq!(entry(&body(TCP)).unwrap().flow.protocol, Protocol::Tcp);
        assert!(entry(&body(1)).is_none(), "ICMP has no ports");
    }

    proptest! {
        #[test]
        fn no_bytes_can_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, |body| drop(entry(body)));
            let _ = entry(&bytes);
        }

        #[test]
        fn no_damage_can_break_the_reader(at in 0_usize..100, byte: u8) {
            let mut bytes = body(UDP);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = entry(&bytes);
        }
    }
}

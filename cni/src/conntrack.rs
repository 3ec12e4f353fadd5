//! Forgets UDP connections that the kernel would go on translating as before host ports changed.
//!
//! Rules are looked at once per connection, and a UDP "connection" lives as long as its client keeps sending: after a pod
//! is replaced its clients would be sent to the dead address for ever, or past a port that was not there when they began.
//!
//! ctnetlink as in linux/netfilter/nfnetlink_conntrack.h: attributes are length, type (two bytes each, in the machine's
//! order) and value padded to four bytes; addresses and ports inside are in network order.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{leases::Lease, ports::Protocol, range::PodRange};

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
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// The kernel answers at once; a table of a hundred thousand entries takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// One tracked UDP connection, as far as we care.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Connection {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    port: u16,
    /// Where answers come from: another address than `destination` when that was translated.
    answers_from: Ipv4Addr,
    /// Where answers go to: another address than `source` when that was translated.
    answers_to: Ipv4Addr,
    /// What the kernel knows it by: the attributes to send back.
    key: Vec<u8>,
}

/// What host ports lead to now.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    range: PodRange,
    /// Addresses of pods whose ports were just taken back.
    gone: BTreeSet<Ipv4Addr>,
    leased: BTreeSet<Ipv4Addr>,
    /// UDP ports of the node, with the address that they are bound to.
    ports: Vec<(Option<Ipv4Addr>, u16)>,
}

impl Wanted {
    pub(crate) fn new(range: PodRange, leases: &BTreeMap<Ipv4Addr, Lease>, gone: BTreeSet<Ipv4Addr>) -> Self {
        let ports = leases.values().flat_map(|lease| &lease.ports).filter(|port| port.protocol == Protocol::Udp);
        let ports = ports.map(|port| (port.bound_to(), port.host_port)).collect();
        Self { range, gone, leased: leases.keys().copied().collect(), ports }
    }

    /// Whether no connection can be stale: no UDP port is there, and none was.
    pub(crate) fn is_nothing(&self) -> bool {
        self.gone.is_empty() && self.ports.is_empty()
    }

    fn is_stale(&self, connection: &Connection) -> bool {
        let to = connection.answers_from;
        if to != connection.destination {
            return self.range.holds(to) && (self.gone.contains(&to) || !self.leased.contains(&to));
        }
        // Began before the port was there. Connections that only leave through this node are translated at their source.
        connection.answers_to == connection.source
            && self.ports.iter().any(|(address, port)| {
                *port == connection.port && address.is_none_or(|address| address == connection.destination)
            })
    }
}

/// Forgets what is stale in the calling thread's network namespace, and says how many that were. Blocks.
pub(crate) fn forget_stale(wanted: &Wanted) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))?;
    socket.send(&message(GET, REQUEST | DUMP, &[]), 0)?;
    let mut stale = Vec::new();
    while receive(&socket, |body| stale.extend(connection(body).filter(|found| wanted.is_stale(found))))? {}
    for found in &stale {
        socket.send(&message(DELETE, REQUEST | ACK, &found.key), 0)?;
        match receive(&socket, |_| ()) {
            // It ended by itself.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOENT as i32) => (),
            done => _ = done?,
        }
    }
    Ok(stale.len())
}

/// Reads one datagram; false when it was the last one of an answer.
fn receive(socket: &Socket, mut body: impl FnMut(&[u8])) -> io::Result<bool> {
    let (datagram, _) = socket.recv_from_full()?;
    let mut rest = datagram.as_slice();
    while let Some(length) = read_u32(rest, 0).map(|length| length as usize).filter(|length| *length >= HEADER) {
        let (Some(content), Some(kind)) = (rest.get(HEADER..length), read_u16(rest, 4)) else { break };
        match kind {
            DONE => return Ok(false),
            ERROR => match read_u32(content, 0).map(u32::cast_signed) {
                Some(0) => return Ok(false),
                code => return Err(io::Error::from_raw_os_error(code.map_or(0, i32::saturating_neg))),
            },
            _ => body(content.get(FAMILY_HEADER..).unwrap_or_default()),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + FAMILY_HEADER + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind, flags].map(u16::to_ne_bytes).concat());
    // Sequence and port: one request at a time on a socket of its own needs neither.
    bytes.extend([0; 8]);
    // AF_INET, version 0, no resource.
    bytes.extend([2, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

/// `None` for what is not UDP over IPv4, and for what cannot be read.
fn connection(body: &[u8]) -> Option<Connection> {
    let (mut original, mut reply, mut key) = (None, None, Vec::new());
    for (kind, value) in attributes(body) {
        match kind {
            TUPLE_ORIGINAL => original = Some(value),
            TUPLE_REPLY => reply = Some(value),
            _ => (),
        }
        if matches!(kind, TUPLE_ORIGINAL | ZONE) {
            push(&mut key, kind, value);
        }
    }
    let (source, destination, port) = tuple(original?)?;
    let (answers_from, answers_to, _) = tuple(reply?)?;
    Some(Connection { source, destination, port, answers_from, answers_to, key })
}

/// Source, destination and destination port.
fn tuple(bytes: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u16)> {
    let inside = |kind, bytes| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let (addresses, protocol) = (inside(TUPLE_IP, bytes)?, inside(TUPLE_PROTOCOL, bytes)?);
    if inside(PROTOCOL_NUMBER, protocol)? != [UDP] {
        return None;
    }
    let address = |kind| inside(kind, addresses).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(Ipv4Addr::from);
    let port = inside(DESTINATION_PORT, protocol).and_then(|value| value.try_into().ok()).map(u16::from_be_bytes);
    Some((address(IPV4_SOURCE)?, address(IPV4_DESTINATION)?, port?))
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(read_u16(bytes, 0)?);
        let (kind, value) = (read_u16(bytes, 2)? & TYPE_MASK, bytes.get(4..length)?);
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

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;

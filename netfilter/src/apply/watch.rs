//! Whether anybody changed the rules since they were last looked at.
//!
//! Listing rules to find out would cost a second with thousands of services. nftables counts its commits,
//! and the older tables tell how many entries they have: both cost one system call to ask.

use super::Backend;
use crate::Family;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Answers of the kernel fit many times.
const BUFFER: usize = 4096;
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETGEN, NFT_MSG_NEWGEN.
const GET_GENERATION: u16 = 10 << 8 | 16;
const NEW_GENERATION: u16 = 10 << 8 | 15;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// NFTA_GEN_ID.
const GENERATION_ID: u16 = 1;
/// Bytes of a netlink header, of what nftables puts behind it, and of an attribute's header.
const HEADER: usize = 16;
const NFGEN: usize = 4;
const ATTRIBUTE: usize = 4;
/// IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const GET_INFO: libc::c_int = 64;

/// Looks at the rules of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Watch {
    family: Family,
    backend: Backend,
    socket: OwnedFd,
}

/// What the rules looked like at one moment. Two that are equal mean that nobody wrote in between; with
/// the older tables, that nobody added or removed a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(Seen);

impl Fingerprint {
    /// How many commits of nftables were made since `earlier`, by anybody; `None` where nobody counts. Each section of
    /// iptables-restore and each run of nft is one: if there were more than one's own, somebody else wrote too.
    pub fn commits_since(self, earlier: Self) -> Option<u32> {
        match (self.0, earlier.0) {
            (Seen::Generation(now), Seen::Generation(then)) => Some(now.wrapping_sub(then)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Seen {
    /// The number of the last commit of nftables, by whichever program.
    Generation(u32),
    /// Entries and bytes of the older nat and filter tables.
    Entries([(u32, u32); 2]),
}

impl Watch {
    /// Opens a socket for one back end; nftables mode counts as [`Backend::Nft`].
    ///
    /// # Errors
    /// If the kernel does not give one: without CAP_NET_ADMIN, or for want of descriptors.
    pub fn open(family: Family, backend: Backend) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = match (backend, family) {
            (Backend::Nft, _) => socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?,
            (Backend::Legacy, Family::V4) => socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw)?,
            (Backend::Legacy, Family::V6) => socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::Raw)?,
        };
        // The kernel answers at once; should it ever not, nobody waits for long.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
        Ok(Self { family, backend, socket })
    }

    /// What the rules look like now.
    ///
    /// # Errors
    /// If the kernel does not answer as expected.
    pub fn fingerprint(&self) -> io::Result<Fingerprint> {
        let seen = match self.backend {
            Backend::Nft => Seen::Generation(self.generation()?),
            Backend::Legacy => Seen::Entries([self.entries("nat")?, self.entries("filter")?]),
        };
        Ok(Fingerprint(seen))
    }

    fn generation(&self) -> io::Result<u32> {
        let mut request = Vec::with_capacity(HEADER + NFGEN);
        request.extend(u32::to_ne_bytes(20));
        request.extend(GET_GENERATION.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        // Sequence, port, and an nfgenmsg of no family: all zero.
        request.resize(HEADER + NFGEN, 0);
        let socket = self.socket.as_raw_fd();
        sendto(socket, &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; BUFFER];
        let length = recv(socket, &mut answer, MsgFlags::empty())?;
        read_generation(&answer[..length])
    }

    fn entries(&self, table: &str) -> io::Result<(u32, u32)> {
        let level = match self.family {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        };
        let mut info = TableInfo::named(table);
        let mut length = libc::socklen_t::try_from(size_of::<TableInfo>()).map_err(io::Error::other)?;
        // SAFETY: the option takes and fills exactly one `TableInfo` (struct ipt_getinfo); pointer and length
        // describe one that lives until after the call.
        let result = unsafe {
            libc::getsockopt(self.socket.as_raw_fd(), level, GET_INFO, (&raw mut info).cast(), &raw mut length)
        };
        match Errno::result(result) {
            Ok(_) => Ok((info.entries, info.size)),
            // Nobody made the table, or the kernel has none of the kind.
            Err(Errno::ENOENT | Errno::ENOPROTOOPT) => Ok((0, 0)),
            Err(error) => Err(error.into()),
        }
    }
}

/// `struct ipt_getinfo` and `struct ip6t_getinfo`, which are alike.
#[repr(C)]
struct TableInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

impl TableInfo {
    fn named(table: &str) -> Self {
        let mut name = [0; 32];
        name.iter_mut().zip(table.bytes()).for_each(|(place, byte)| *place = byte);
        Self { name, valid_hooks: 0, hook_entry: [0; 5], underflow: [0; 5], entries: 0, size: 0 }
    }
}

fn read_generation(answer: &[u8]) -> io::Result<u32> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(NEW_GENERATION) => generation_id(answer.get(HEADER + NFGEN..).unwrap_or_default()),
        Some(NLMSG_ERROR) => Err(error_in(answer)),
        _ => Err(strange()),
    }
}

fn generation_id(mut attributes: &[u8]) -> io::Result<u32> {
    while let (Some(length), Some(kind)) = (number(attributes, 0), number(attributes, 2)) {
        let length = usize::from(length);
        let value = attributes.get(ATTRIBUTE..length).ok_or_else(strange)?;
        if kind == GENERATION_ID {
            return Ok(u32::from_be_bytes(value.try_into().map_err(|_| strange())?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(strange())
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn error_in(answer: &[u8]) -> io::Error {
    let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    code.filter(|code| *code < 0).map_or_else(strange, |code| io::Error::from_raw_os_error(code.saturating_neg()))
}

fn strange() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is not a generation of nftables")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(kind: u16, rest: &[u8]) -> Vec<u8> {
        let mut answer = vec![0; 4];
        answer.extend(kind.to_ne_bytes());
        answer.resize(HEADER, 0);
        answer.extend(rest);
        answer
    }

    #[test]
    fn the_generation_is_found_among_the_attributes() {
        let other = [8u16.to_ne_bytes(), 2u16.to_ne_bytes(), [0, 0], [1, 2]].concat();
        let generation = [8u16.to_ne_bytes(), GENERATION_ID.to_ne_bytes(), [0, 0], [1, 2]].concat();
        let rest = [vec![0; NFGEN], other, generation].concat();
        assert_eq!(read_generation(&answer(NEW_GENERATION, &rest)).unwrap(), 0x102);
    }

    #[test]
    fn an_error_of_the_kernel_is_told() {
        let error = read_generation(&answer(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic_or_hang(rest in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read_generation(&rest);
            let _ = read_generation(&answer(NEW_GENERATION, &rest));
        }
    }
}

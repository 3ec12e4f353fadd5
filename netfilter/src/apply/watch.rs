//! Whether anybody changed the rules since they were last looked at.
//!
//! Listing rules to find out would cost a second with thousands of services. nftables counts its commits,
//! and the older tables tell how many entries they have: both cost one system call to ask. What the entries of
//! the older tables say is read now and then.

use super::netlink::{HEADER, NFGEN, attribute};
use super::{Backend, entries};
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
/// IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, and the same numbers of IPv6.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;
/// The tables in which rules of services are.
const TABLES: [&str; 2] = ["nat", "filter"];
/// The most that is read of a table: ten times what 10,000 services need.
const LONGEST_TABLE: u32 = 512 << 20;

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
            Backend::Legacy => Seen::Entries([self.entries(TABLES[0])?, self.entries(TABLES[1])?]),
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
        let mut info = TableInfo::named(table);
        // SAFETY: a `TableInfo` is plain numbers without padding.
        let bytes = unsafe { std::slice::from_raw_parts_mut((&raw mut info).cast::<u8>(), size_of::<TableInfo>()) };
        match self.ask(GET_INFO, bytes) {
            Ok(()) => Ok((info.entries, info.size)),
            // Nobody made the table, or the kernel has none of the kind.
            Err(Errno::ENOENT | Errno::ENOPROTOOPT) => Ok((0, 0)),
            Err(error) => Err(error.into()),
        }
    }

    /// What the rules of the older tables say, as a number that differs when any of them does; `None` with nftables, whose
    /// commits are counted. Reads them all: 12 MB with 5,000 services.
    ///
    /// # Errors
    /// If the kernel does not answer as expected, or somebody writes at the same time.
    pub fn contents(&self) -> io::Result<Option<u64>> {
        if self.backend == Backend::Nft {
            return Ok(None);
        }
        let [nat, filter] = TABLES.map(|table| self.contents_of(table));
        Ok(Some(nat? ^ filter?.rotate_left(1)))
    }

    fn contents_of(&self, table: &str) -> io::Result<u64> {
        let (_, size) = self.entries(table)?;
        if size == 0 {
            return Ok(0);
        }
        if size > LONGEST_TABLE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // struct ipt_get_entries: the name, the size, and padding before the entries.
        let mut answer = TableInfo::named(table).name.to_vec();
        answer.extend(size.to_ne_bytes());
        let entries = answer.len().next_multiple_of(8);
        answer.resize(entries + usize::try_from(size).map_err(io::Error::other)?, 0);
        self.ask(GET_ENTRIES, &mut answer)?;
        entries::hash(answer.get(entries..).unwrap_or_default(), self.family).ok_or_else(strange)
    }

    fn ask(&self, option: libc::c_int, answer: &mut [u8]) -> Result<(), Errno> {
        let level = match self.family {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        };
        let mut length = libc::socklen_t::try_from(answer.len()).map_err(|_| Errno::EINVAL)?;
        let socket = self.socket.as_raw_fd();
        // SAFETY: pointer and length describe a buffer that lives until after the call, and the kernel writes no further.
        let result = unsafe { libc::getsockopt(socket, level, option, answer.as_mut_ptr().cast(), &raw mut length) };
        Errno::result(result).map(drop)
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

fn generation_id(attributes: &[u8]) -> io::Result<u32> {
    let value = attribute(attributes, GENERATION_ID).ok_or_else(strange)?;
    Ok(u32::from_be_bytes(value.try_into().map_err(|_| strange())?))
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

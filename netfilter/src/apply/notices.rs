//! Whether anybody wrote to our own table of nftables: the kernel tells whoever listens what each commit changed.

use super::netlink::{HEADER, NFGEN, attribute, number};
use crate::Family;
use crate::nft::TABLE;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel puts many messages into one answer, and a page holds most of them.
const BUFFER: usize = 64 << 10;
/// What may wait to be read: more than one's own changes make of a few services.
const WAITING: usize = 1 << 20;
/// NFNLGRP_NFTABLES, as a bit.
const GROUP: u32 = 1 << (7 - 1);
/// NFNL_SUBSYS_NFTABLES, and NFT_MSG_NEWGEN of it, which ends each commit.
const SUBSYSTEM: u8 = 10;
const NEW_GENERATION: u8 = 15;
/// The name of the table, in every other message.
const TABLE_NAME: u16 = 1;

/// Hears what is committed in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Notices {
    family: Family,
    socket: OwnedFd,
}

impl Notices {
    /// Listens from now on.
    ///
    /// # Errors
    /// The kernel does not let us: without CAP_NET_ADMIN, or for want of descriptors.
    pub fn open(family: Family) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        setsockopt(&socket, sockopt::RcvBuf, &WAITING)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        Ok(Self { family, socket })
    }

    /// Whether anybody, we too, changed our table since this was last asked. What was not read in time counts as a change.
    pub fn take(&self) -> bool {
        let (mut buffer, mut changed) = (vec![0; BUFFER], false);
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => changed |= touches(buffer.get(..length).unwrap_or_default(), self.family),
                Err(Errno::EAGAIN) => return changed,
                Err(Errno::EINTR) => {}
                // More came than fits: there is more to read.
                Err(Errno::ENOBUFS) => changed = true,
                Err(_) => return true,
            }
        }
    }
}

/// Whether one of the messages is about our table of the family.
fn touches(mut messages: &[u8], family: Family) -> bool {
    while let Some(length) = messages.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
        let Ok(length) = usize::try_from(length) else { return true };
        let Some(message) = messages.get(..length).filter(|message| message.len() >= HEADER + NFGEN) else {
            return true;
        };
        if is_about_us(message, family) {
            return true;
        }
        messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

fn is_about_us(message: &[u8], family: Family) -> bool {
    let [kind, subsystem] = number(message, 4).unwrap_or_default().to_le_bytes();
    let protocol = if family == Family::V4 { nix::libc::NFPROTO_IPV4 } else { nix::libc::NFPROTO_IPV6 };
    let is_of_family = message.get(HEADER).is_some_and(|byte| i32::from(*byte) == protocol);
    if subsystem != SUBSYSTEM || kind == NEW_GENERATION || !is_of_family {
        return false;
    }
    let name = attribute(message.get(HEADER + NFGEN..).unwrap_or_default(), TABLE_NAME);
    name.is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == TABLE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::netlink::ATTRIBUTE;
    use proptest::prelude::*;

    fn message(kind: u8, family: i32, table: &str) -> Vec<u8> {
        let name = [table.as_bytes(), &[0]].concat();
        let length = u16::try_from(ATTRIBUTE + name.len()).unwrap();
        let mut rest = [length.to_ne_bytes(), TABLE_NAME.to_ne_bytes()].concat();
        rest.extend(name);
        let mut message = u32::try_from(HEADER + NFGEN + rest.len()).unwrap().to_ne_bytes().to_vec();
        message.extend([kind, SUBSYSTEM]);
        message.resize(HEADER, 0);
        message.extend([u8::try_from(family).unwrap(), 0, 0, 0]);
        message.extend(rest);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn only_our_own_table_counts() {
        use nix::libc::{NFPROTO_IPV4, NFPROTO_IPV6};
        const NEW_RULE: u8 = 6;
        let ours = message(NEW_RULE, NFPROTO_IPV4, "kube-proxy");
        assert!(touches(&ours, Family::V4) && !touches(&ours, Family::V6));
        let elsewhere = message(NEW_RULE, NFPROTO_IPV4, "nat");
        assert!(!touches(&elsewhere, Family::V4));
        assert!(touches(&[elsewhere, ours].concat(), Family::V4));
        assert!(!touches(&message(NEW_GENERATION, NFPROTO_IPV4, "kube-proxy"), Family::V4), "it ends every commit");
        assert!(touches(&message(NEW_RULE, NFPROTO_IPV6, "kube-proxy"), Family::V6));
        assert!(!touches(&[], Family::V4));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = touches(&bytes, Family::V4);
        }
    }
}

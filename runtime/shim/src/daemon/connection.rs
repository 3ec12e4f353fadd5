//! One peer on the sandbox's socket.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use shim::packet;
use shim::wire::{Packet, Request};

use crate::sys;

/// Events a watcher may be behind; then it is cut off, and hears everything again when it comes back.
const LONGEST_QUEUE: usize = 1024;

/// Requests are an id and a few numbers.
const LARGEST_REQUEST: usize = 2048;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: u64,
    socket: OwnedFd,
    pub(super) watches: bool,
    /// Waits for the answer to what it asked; it is not heard before it has that.
    pub(super) busy: bool,
    queue: VecDeque<Vec<u8>>,
    pub(super) closed: bool,
}

impl Connection {
    /// Accepts a peer, who must be of our own user: the directory is closed to others, this is the second lock.
    pub(super) fn accept(listener: BorrowedFd<'_>, key: u64) -> io::Result<Self> {
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the peer's address is not wanted.
        let socket = sys::own(
            unsafe { libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags) }.into(),
        )?;
        // SAFETY: takes no arguments and cannot fail.
        if peer(socket.as_fd())? != unsafe { libc::geteuid() } {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { key, socket, watches: false, busy: false, queue: VecDeque::new(), closed: false })
    }

    /// Descriptor and events to wait for.
    pub(super) fn interest(&self) -> (i32, i16) {
        let read = if self.busy { 0 } else { libc::POLLIN };
        let write = if self.queue.is_empty() { 0 } else { libc::POLLOUT };
        (self.socket.as_raw_fd(), read | write)
    }

    /// The next request, if there is one; a peer that sends anything else is closed.
    pub(super) fn receive(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        let mut buffer = [0; LARGEST_REQUEST];
        let received = packet::receive(self.socket.as_fd(), &mut buffer, libc::MSG_DONTWAIT);
        match received {
            Ok((length, descriptors)) if length > 0 => match Request::decode(&buffer[..length]) {
                Ok(request) => return Some((request, descriptors)),
                Err(_) => self.closed = true,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => self.closed = true,
        }
        None
    }

    /// Sends a packet, or keeps it until the peer takes it.
    pub(super) fn send(&mut self, packet: &Packet, descriptor: Option<BorrowedFd<'_>>) {
        let bytes = packet.encode();
        if self.queue.is_empty() {
            match packet::send(self.socket.as_fd(), &bytes, descriptor.as_slice(), libc::MSG_DONTWAIT) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && descriptor.is_none() => {}
                Err(_) => return self.closed = true,
            }
        }
        // A descriptor is not kept for a peer that does not read its answers.
        self.closed |= self.queue.len() >= LONGEST_QUEUE || descriptor.is_some();
        self.queue.push_back(bytes);
    }

    /// The peer takes more.
    pub(super) fn flush(&mut self) {
        while let Some(bytes) = self.queue.front() {
            match packet::send(self.socket.as_fd(), bytes, &[], libc::MSG_DONTWAIT) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.closed = true,
            }
        }
    }
}

fn peer(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all zero bytes are a valid ucred.
    let mut who: libc::ucred = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `who` is live and of the length given.
    sys::check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut who).cast(), &mut length)
    })?;
    Ok(who.uid)
}

//! Asking a shim: blocking, so for a thread that may wait; or with [`Client::set_nonblocking`] under a reactor.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::packet;
use crate::wire::{LARGEST_PACKET, Packet, Reply, Request};

/// A connection to one shim.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

/// Why a request got no good answer.
#[derive(Debug)]
pub enum CallError {
    /// Sending or receiving failed; `UnexpectedEof` when the shim went away, `WouldBlock` when it took too long.
    Io(io::Error),
    /// The shim answered [`Reply::Failed`].
    Refused {
        /// Why, for a person.
        reason: String,
        /// Errno of the failing step, 0 where there is none.
        errno: i32,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => write!(f, "speaking with the shim"),
            Self::Refused { reason, .. } => write!(f, "{reason}"),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Refused { .. } => None,
        }
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Client {
    /// Connects to the shim of a sandbox directory.
    ///
    /// # Errors
    /// `NotFound` before the shim has made its socket, `ConnectionRefused` after it was killed.
    pub fn connect(sandbox: &Path) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let number = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just opened, owned by nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        let directory = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(sandbox)?;
        // Through the descriptor: sun_path has 108 bytes, a sandbox directory may well be longer.
        let path = PathBuf::from(format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd()));
        let address = address(&path)?;
        // SAFETY: `address` is a live sockaddr_un of the length given.
        let result = unsafe {
            libc::connect(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_un>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(Self { socket }) } else { Err(io::Error::last_os_error()) }
    }

    /// Longest wait for one packet in either direction; `None` waits for ever.
    ///
    /// # Errors
    /// What `setsockopt` says.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.unwrap_or_default();
        let value = libc::timeval { tv_sec: limit.as_secs() as _, tv_usec: limit.subsec_micros() as _ };
        for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
            // SAFETY: `value` is a live timeval of the length given.
            let result = unsafe {
                libc::setsockopt(
                    self.socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const value).cast(),
                    mem::size_of::<libc::timeval>() as libc::socklen_t,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// With `true`, [`Client::send`] and [`Client::receive`] say `WouldBlock` instead of waiting.
    ///
    /// # Errors
    /// What `ioctl` says.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        let value = libc::c_int::from(on);
        // SAFETY: FIONBIO reads one int.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::FIONBIO as _, &raw const value) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one request with its descriptors.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        packet::send(self.socket.as_fd(), &request.encode(), descriptors, 0)
    }

    /// Receives one reply or event with its descriptors.
    ///
    /// # Errors
    /// What the socket says; `UnexpectedEof` when the shim has closed; `InvalidData` for what no shim of this version
    /// sends.
    pub fn receive(&self) -> io::Result<(Packet, Vec<OwnedFd>)> {
        let mut buffer = vec![0; LARGEST_PACKET];
        let (length, descriptors) = packet::receive(self.socket.as_fd(), &mut buffer, 0)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((Packet::decode(&buffer[..length])?, descriptors))
    }

    /// Sends a request and waits for its reply, which is never [`Reply::Failed`]. Not for a connection that watches.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        self.send(request, descriptors)?;
        match self.receive()? {
            (Packet::Reply(Reply::Failed { reason, errno }), _) => Err(CallError::Refused { reason, errno }),
            (Packet::Reply(reply), descriptors) => Ok((reply, descriptors)),
            (Packet::Event(_), _) => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn address(path: &Path) -> io::Result<libc::sockaddr_un> {
    let bytes = path.as_os_str().as_bytes();
    // SAFETY: all zero bytes are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if bytes.len() >= address.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    Ok(address)
}

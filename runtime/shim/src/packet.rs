//! One packet with descriptors beside it, over a `SOCK_SEQPACKET` socket.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// No request or reply carries more: stdin, stdout, stderr.
pub const MOST_DESCRIPTORS: usize = 3;

/// Room for the header and [`MOST_DESCRIPTORS`]; `u64` for its alignment.
type Control = [u64; 8];

fn message(bytes: &mut libc::iovec, control: &mut Control, control_length: usize) -> libc::msghdr {
    // SAFETY: all zero bytes are a valid msghdr: null pointers and zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = bytes;
    message.msg_iovlen = 1;
    if control_length > 0 {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control_length as _;
    }
    message
}

/// Sends one packet; `flags` are `MSG_*`, to which `MSG_NOSIGNAL` is added.
///
/// # Errors
/// What `sendmsg` says; `InvalidInput` for more than [`MOST_DESCRIPTORS`].
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
    if descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control: Control = [0; 8];
    let payload = mem::size_of_val(descriptors) as u32;
    // SAFETY: only computes a size.
    let space = if descriptors.is_empty() { 0 } else { unsafe { libc::CMSG_SPACE(payload) as usize } };
    let message = message(&mut part, &mut control, space);
    if !descriptors.is_empty() {
        // SAFETY: the control buffer has room for one header and `payload` bytes (64 bytes against at most 16 + 12),
        // is aligned for a header, and `BorrowedFd` is a plain descriptor number.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as _;
            ptr::copy_nonoverlapping(descriptors.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload as usize);
        }
    }
    retry(|| {
        // SAFETY: `message` points at live buffers of the lengths it names.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags | libc::MSG_NOSIGNAL) }
    })
    .map(|_| ())
}

/// Receives one packet into `buffer`: its length (0 when the other side has closed) and its descriptors, which are
/// close-on-exec. `flags` are `MSG_*`.
///
/// # Errors
/// What `recvmsg` says; `InvalidData` when packet or descriptors did not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: i32) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control: Control = [0; 8];
    let mut message = message(&mut part, &mut control, mem::size_of::<Control>());
    let length = retry(|| {
        // SAFETY: `message` points at live buffers of the lengths it names.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags | libc::MSG_CMSG_CLOEXEC) }
    })?;
    let descriptors = descriptors(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((length as usize, descriptors))
}

fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: the kernel filled the control buffer that `message` describes; the walk stays inside it by the macros,
    // and every number in an SCM_RIGHTS payload is a descriptor that is now ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let numbers = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    found.push(OwnedFd::from_raw_fd(ptr::read_unaligned(numbers.add(index))));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    found
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<isize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

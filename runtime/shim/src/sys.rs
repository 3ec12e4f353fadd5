//! System calls as functions that return `io::Result`: the only place with raw numbers and pointers besides
//! [`shim::packet`] and [`shim::client`].

pub(crate) mod mounts;
pub(crate) mod process;

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Never inside: a link out, or one that only procfs understands.
pub(crate) const IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;

/// Turns the C convention into a result.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that a system call has just returned.
pub(crate) fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = check_long(result)? as RawFd;
    // SAFETY: freshly returned by the kernel, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A path as the kernel takes it.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

pub(crate) fn openat2(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: all zero bytes are a valid open_how.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = u64::from(mode);
    how.resolve = resolve;
    // EAGAIN: a rename or mount elsewhere raced with a resolution that must stay inside; the kernel asks to try again.
    for _ in 0..64 {
        // SAFETY: path is NUL-terminated, `how` is live and of the size given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                directory.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                mem::size_of::<libc::open_how>(),
            )
        };
        match own(result) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            done => return done,
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// `open` relative to a directory, with close-on-exec.
pub(crate) fn openat(directory: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: path is NUL-terminated.
    own(unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), flags | libc::O_CLOEXEC, mode) }.into())
}

/// `open` of an absolute path, with close-on-exec.
pub(crate) fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: AT_FDCWD is always valid to borrow.
    openat(unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }, &c_path(path)?, flags, 0o600)
}

pub(crate) fn fstat(file: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: all zero bytes are a valid stat.
    let mut found: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: `found` is live and of the right type.
    check(unsafe { libc::fstat(file.as_raw_fd(), &mut found) })?;
    Ok(found)
}

/// `S_IFMT` bits of a descriptor.
pub(crate) fn kind(file: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(fstat(file)?.st_mode & libc::S_IFMT)
}

/// `f_type` of the file system a descriptor is on.
pub(crate) fn filesystem(file: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: all zero bytes are a valid statfs.
    let mut found: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: `found` is live and of the right type.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) })?;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    Ok(found.f_type as i64)
}

pub(crate) fn mkdirat(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    check(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

pub(crate) fn mknodat(directory: BorrowedFd<'_>, name: &CStr, mode: u32, device: libc::dev_t) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    check(unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device) }).map(drop)
}

pub(crate) fn symlinkat(target: &CStr, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both are NUL-terminated.
    check(unsafe { libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr()) }).map(drop)
}

pub(crate) fn readlinkat(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; libc::PATH_MAX as usize];
    // SAFETY: the buffer is live and of the length given.
    let result =
        unsafe { libc::readlinkat(directory.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let length = check_long(result as libc::c_long)? as usize;
    buffer.truncate(length);
    Ok(buffer)
}

/// Owner of `name` in a directory, or of the descriptor itself with an empty name; links are not followed.
pub(crate) fn chownat(directory: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> io::Result<()> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: name is NUL-terminated.
    check(unsafe { libc::fchownat(directory.as_raw_fd(), name.as_ptr(), uid, gid, flags) }).map(drop)
}

/// Writes all of a small value to a file such as those of procfs and cgroups, which take it in one piece.
pub(crate) fn write_value(file: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let written = write(file, value)?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

pub(crate) fn write(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `bytes` is live and of the length given.
        let result = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        check_long(result as libc::c_long)
    })
    .map(|written| written as usize)
}

pub(crate) fn read(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| {
        // SAFETY: `buffer` is live and of the length given.
        let result = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        check_long(result as libc::c_long)
    })
    .map(|length| length as usize)
}

pub(crate) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// `O_NONBLOCK` on an open file.
pub(crate) fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take and return plain numbers.
    let flags = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Puts `file` in the place of descriptor `number`, which survives an exec.
pub(crate) fn put_at(file: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: only numbers; the callers replace descriptors 0 to 2, which nobody owns as values.
    check(unsafe { libc::dup2(file.as_raw_fd(), number) }).map(drop)
}

/// Two connected packet sockets, close-on-exec.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `pair` has room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) })?;
    // SAFETY: freshly returned by the kernel.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

pub(crate) fn mkfifo(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: path is NUL-terminated.
    check(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }).map(drop)
}

/// Locks a file for this process alone, without waiting; a forked child does not hold it.
pub(crate) fn lock(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid flock: from the beginning to the end, whatever its length.
    let mut whole: libc::flock = unsafe { mem::zeroed() };
    whole.l_type = libc::F_WRLCK as libc::c_short;
    // SAFETY: `whole` is live.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const whole) }).map(drop)
}

/// Waits until one of the descriptors is ready; `timeout` in milliseconds, -1 for ever.
pub(crate) fn poll(descriptors: &mut [libc::pollfd], timeout: i32) -> io::Result<()> {
    retry(|| {
        // SAFETY: the slice is live and of the length given.
        check(unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, timeout) })
    })
    .map(drop)
}

/// A moment on both clocks: one is written down, the other is waited by and does not jump.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Nanoseconds since the epoch.
    pub(crate) wall: i64,
    /// Nanoseconds since some start.
    pub(crate) steady: i64,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { wall: now(), steady: steady() }
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    clock(libc::CLOCK_REALTIME)
}

/// Nanoseconds on the clock that deadlines are on.
pub(crate) fn steady() -> i64 {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// What an errno means, without the number.
pub(crate) fn describe(errno: i32) -> String {
    // SAFETY: strerror returns a NUL-terminated text that is valid until the next call; there is one thread.
    let text = unsafe { CStr::from_ptr(libc::strerror(errno)) };
    text.to_string_lossy().into_owned()
}

/// Gives freed memory back, so that a large environment is not held for the life of the pod.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only touches memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Size of a terminal, through its master or slave.
pub(crate) fn set_window(terminal: impl AsFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

//! A container's own pseudo terminal.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use shim::packet;

use super::inside::{Inside, Missing};
use super::{Doing, Failure, TERMINAL};
use crate::sys;
use crate::sys::mounts;

/// `DEVPTS_SUPER_MAGIC`
const DEVPTS: i64 = 0x1cd1;

/// Opens a pair from the container's devpts, sends the master to the shim and makes the slave our stdio and
/// controlling terminal, and with `console` also `/dev/console`.
pub(super) fn open(
    inside: &Inside,
    size: (u16, u16),
    uid: u32,
    console: bool,
    control: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let (master, slave) = pair(inside).doing(|| "opening a terminal from /dev/pts/ptmx".into())?;
    if size != (0, 0) {
        sys::set_window(&master, size.0, size.1).doing(|| "sizing the terminal".into())?;
    }
    let group = sys::fstat(slave.as_fd()).doing(|| "asking for the terminal's group".into())?.st_gid;
    sys::chownat(slave.as_fd(), c"", uid, group).doing(|| "giving the terminal to its user".into())?;
    if console {
        cover_console(inside, slave.as_fd()).doing(|| "putting the terminal at /dev/console".into())?;
    }
    packet::send(control, &[TERMINAL], &[master.as_fd()], 0).doing(|| "handing the terminal over".into())?;
    adopt(slave.as_fd()).doing(|| "making the terminal the controlling one".into())
}

fn pair(inside: &Inside) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = inside.open_plain(Path::new("/dev/pts/ptmx"), libc::O_RDWR | libc::O_NOCTTY)?;
    if sys::filesystem(master.as_fd())? != DEVPTS {
        return Err(io::Error::other("it is not on devpts"));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    sys::check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // By the master's descriptor: a path to the slave could be anything by the time it is opened.
    // SAFETY: TIOCGPTPEER takes open flags and returns a descriptor.
    let slave = sys::own(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())?;
    Ok((master, slave))
}

fn cover_console(inside: &Inside, slave: BorrowedFd<'_>) -> io::Result<()> {
    let target = inside.ensure(Path::new("/dev/console"), Missing::File)?;
    let tree = mounts::clone_tree(slave, c"", false)?;
    mounts::attach(tree.as_fd(), target.as_fd())
}

fn adopt(slave: BorrowedFd<'_>) -> io::Result<()> {
    for number in 0..3 {
        sys::put_at(slave, number)?;
    }
    // SAFETY: TIOCSCTTY takes a number.
    sys::check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}

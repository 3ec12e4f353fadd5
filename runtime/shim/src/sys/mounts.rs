//! The kernel's mount calls by descriptor (5.12 and later): what was checked is what gets mounted.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use super::{check, check_long, own};

/// A copy of the mount (with those below it when `recursive`) that an absolute path or a descriptor leads to;
/// attached nowhere.
pub(crate) fn clone_tree(from: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: path is NUL-terminated.
    own(unsafe { libc::syscall(libc::SYS_open_tree, from.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches a detached mount exactly where `target` is.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // Both by descriptor: F_EMPTY_PATH (4) and T_EMPTY_PATH (0x40).
    let flags = 0x44;
    let empty = c"".as_ptr();
    // SAFETY: both paths are NUL-terminated.
    check_long(unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, target.as_raw_fd(), empty, flags)
    })
    .map(drop)
}

/// Sets `MOUNT_ATTR_*` bits after clearing others, and a propagation type (0: as it is).
pub(crate) fn change(mount: BorrowedFd<'_>, set: u64, clear: u64, propagation: u64, recursive: bool) -> io::Result<()> {
    // SAFETY: all zero bytes are a valid mount_attr.
    let mut attributes: libc::mount_attr = unsafe { mem::zeroed() };
    attributes.attr_set = set;
    attributes.attr_clr = clear;
    attributes.propagation = propagation;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is NUL-terminated, `attributes` is live and of the size given.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            mem::size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// A file system that is being configured.
#[derive(Debug)]
pub(crate) struct Configuring(OwnedFd);

impl Configuring {
    /// Of this type; namespaces (pid, network, IPC, cgroup) are those of the caller at this moment.
    pub(crate) fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: the type is NUL-terminated.
        own(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), libc::FSOPEN_CLOEXEC) }).map(Self)
    }

    fn configure(&self, command: u32, key: *const libc::c_char, value: *const libc::c_char) -> io::Result<()> {
        // SAFETY: callers pass null or NUL-terminated texts, as the command wants.
        check_long(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) }).map(drop)
    }

    pub(crate) fn flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(0, key.as_ptr(), ptr::null())
    }

    pub(crate) fn text(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(1, key.as_ptr(), value.as_ptr())
    }

    /// Makes the file system and a detached mount of it with `MOUNT_ATTR_*` bits.
    pub(crate) fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(6, ptr::null(), ptr::null())?;
        // FSMOUNT_CLOEXEC is 1.
        // SAFETY: only numbers.
        own(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1, attributes) })
    }

    /// What the kernel has to say about a failure, such as `tmpfs: Unknown parameter 'x'`; often nothing.
    pub(crate) fn complaint(&self) -> Option<String> {
        let mut buffer = [0; 512];
        use std::os::fd::AsFd;
        let length = super::read(self.0.as_fd(), &mut buffer).ok()?;
        // The text starts with its severity and a blank: "e tmpfs: ...".
        let text = String::from_utf8_lossy(buffer.get(2..length)?).trim().to_owned();
        if text.is_empty() { None } else { Some(text) }
    }
}

/// `mount(2)` that only changes the propagation of a path.
pub(crate) fn propagate(path: &CStr, flags: u64) -> io::Result<()> {
    // SAFETY: path is NUL-terminated; the other pointers are not used for a change of propagation.
    check(unsafe { libc::mount(ptr::null(), path.as_ptr(), ptr::null(), flags as libc::c_ulong, ptr::null()) })
        .map(drop)
}

/// The root under the working directory becomes `/`, and the old one is stacked on top of it there.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated.
    check_long(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Detaches what is mounted on top at the working directory.
pub(crate) fn detach_here() -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }).map(drop)
}
